use super::*;

fn read(text: &str, exited_well: bool) -> Counts {
    let mut reader = Reader::default();
    for line in text.lines() {
        reader.line(line);
    }
    reader.counts(exited_well)
}

const WITH_A_SKIP: &str = "
running 3 tests
test a ... ok
test b ... ok
test c ... ignored

successes:

---- a stdout ----
some text
skipped (no guest bundle)
skipped (said twice)

---- b stdout ----
ordinary text

successes:
    a
    b

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

#[test]
fn a_test_that_says_it_is_skipped_counts_as_skipped_once() {
    assert_eq!(read(WITH_A_SKIP, true), Counts { passed: 1, failed: 0, skipped: 2 });
}

#[test]
fn the_text_of_passed_tests_is_hidden_and_skips_are_told() {
    let mut reader = Reader::default();
    let shown: Vec<&str> = WITH_A_SKIP.lines().filter(|line| reader.line(line)).collect();
    assert!(!shown.contains(&"ordinary text"));
    assert!(shown.iter().any(|line| line.starts_with("test result: ok")));
    assert_eq!(reader.skips().collect::<Vec<_>>(), ["a: skipped (no guest bundle)"]);
}

#[test]
fn failures_are_counted_and_shown() {
    let text = "failures:\n---- a stdout ----\nskipped (not in a passed test)\n\
                test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
    assert_eq!(read(text, false), Counts { passed: 4, failed: 2, skipped: 0 });
}

#[test]
fn a_run_that_dies_without_a_result_is_a_failure() {
    let died = read("running 3 tests\ntest a ... ok\ntest b ... ", false);
    assert_eq!(died, Counts { passed: 1, failed: 2, skipped: 0 });
    assert_eq!(read("", true).failed, 1);
}

#[test]
fn a_bad_exit_after_a_good_result_is_a_failure() {
    let text = "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    assert_eq!(read(text, false), Counts { passed: 4, failed: 1, skipped: 0 });
    assert_eq!(read(text, true), Counts { passed: 4, failed: 0, skipped: 0 });
}

#[test]
fn the_closing_line_is_plain() {
    let mut sum = Counts { passed: 1, failed: 2, skipped: 3 };
    sum += Counts { passed: 10, failed: 0, skipped: 0 };
    assert_eq!(sum.to_string(), "11 passed, 2 failed, 3 skipped");
}

#[test]
fn a_result_that_a_test_prints_is_not_the_binarys_own() {
    let text = "successes:\n---- a stdout ----\ntest result: ok. 40 passed; 0 failed; 0 ignored\n\n\
                test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
    assert_eq!(read(text, true), Counts { passed: 1, failed: 0, skipped: 0 });
}

#[test]
fn results_of_many_binaries_are_summed() {
    let mut reader = Reader::of_many();
    for line in
        ["test result: ok. 1 passed; 0 failed; 0 ignored", "test result: ok. 2 passed; 0 failed; 1 ignored"]
    {
        reader.line(line);
    }
    assert_eq!(reader.counts(true), Counts { passed: 3, failed: 0, skipped: 1 });
}
