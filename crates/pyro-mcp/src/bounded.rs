//! Texts and lists that may be long, cut so that an answer stays short and says how the rest is had.

use crate::limits::{ENTRIES, MOST_ENTRIES, MOST_READ_BYTES, MOST_TEXT_BYTES, READ_BYTES, TEXT_BYTES};
use crate::tool::refused;
use pyro_core::Problem;
use serde_json::{Map, Value, json};

/// How much text one answer may have.
pub(crate) fn text_limit(wanted: Option<u64>) -> Result<usize, Problem> {
    within("max_output_bytes", wanted.unwrap_or(TEXT_BYTES), MOST_TEXT_BYTES)
}

/// How much of a file one answer may have.
pub(crate) fn read_limit(wanted: Option<u64>) -> Result<u64, Problem> {
    within("max_bytes", wanted.unwrap_or(READ_BYTES), MOST_READ_BYTES).map(|bytes| bytes as u64)
}

/// How many entries one answer may have.
pub(crate) fn entry_limit(wanted: Option<u64>) -> Result<usize, Problem> {
    within("limit", wanted.unwrap_or(ENTRIES as u64), MOST_ENTRIES as u64)
}

fn within(name: &str, value: u64, most: u64) -> Result<usize, Problem> {
    match usize::try_from(value) {
        Ok(value) if value > 0 && value as u64 <= most => Ok(value),
        _ => Err(refused("out_of_range", format!("{name} must be between 1 and {most}"))),
    }
}

/// The beginning and the end of `text`, where it is longer than `limit` bytes: what a command did first, and how it
/// came out.
pub(crate) fn ends(text: &str, limit: usize) -> (String, bool) {
    if text.len() <= limit {
        return (text.to_owned(), false);
    }
    let head = text.floor_char_boundary(limit / 4);
    let tail = text.ceil_char_boundary(text.len() - (limit - limit / 4));
    let left_out = tail - head;
    (format!("{}\n[... {left_out} bytes left out ...]\n{}", &text[..head], &text[tail..]), true)
}

/// Part of a text, and where the next one begins.
pub(crate) struct Page<'a> {
    pub(crate) text: &'a str,
    pub(crate) next_offset: Option<usize>,
}

/// `limit` bytes of `text` from byte `offset` on, moved to where characters begin.
pub(crate) fn page(text: &str, offset: u64, limit: usize) -> Page<'_> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let start = text.floor_char_boundary(start);
    // A character that is longer than the page must not keep the reader where it is.
    let end = text.ceil_char_boundary((start + limit).min(text.len()));
    Page { text: &text[start..end], next_offset: (end < text.len()).then_some(end) }
}

/// Puts `limit` of the elements of the list `key` from `offset` on into its place, with `next_offset` and
/// `total_count` beside it.
pub(crate) fn page_list(object: &mut Map<String, Value>, key: &str, offset: u64, limit: usize) {
    let Some(Value::Array(all)) = object.get_mut(key) else { return };
    let total = all.len();
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
    let end = (start + limit).min(total);
    let part: Vec<Value> = all.drain(start..end).collect();
    object.insert(key.to_owned(), Value::Array(part));
    object.insert("total_count".to_owned(), json!(total));
    if end < total {
        object.insert("next_offset".to_owned(), json!(end));
    }
}

/// Cuts the text at `key` to its ends, and says so beside it in `KEY_truncated`, which stays true where it was.
pub(crate) fn cut_text(object: &mut Map<String, Value>, key: &str, limit: usize) {
    let Some(Value::String(text)) = object.get(key) else { return };
    let (bytes, (short, is_cut)) = (text.len(), ends(text, limit));
    let flag = format!("{key}_truncated");
    let was_cut = object.get(&flag) == Some(&Value::Bool(true));
    object.insert(key.to_owned(), Value::String(short));
    object.insert(format!("{key}_bytes"), json!(bytes));
    object.insert(flag, json!(is_cut || was_cut));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_ends_and_says_what_is_missing() {
        let text = format!("{}é{}", "a".repeat(100), "z".repeat(100));
        let (short, is_cut) = ends(&text, 40);
        assert!(is_cut && short.starts_with("aaaaaaaaaa\n[... ") && short.ends_with(&"z".repeat(30)));
        assert!(short.contains("162 bytes left out"));
        assert_eq!(ends("short", 5), ("short".to_owned(), false));
    }

    #[test]
    fn pages_make_up_the_whole_text_wherever_they_are_cut() {
        let text = "aé€𝄞z".repeat(5);
        for limit in 1..9 {
            let (mut offset, mut whole) = (0, String::new());
            while let Page { text: part, next_offset: Some(next) } = page(&text, offset as u64, limit) {
                assert!(next > offset, "a page must not stand still");
                whole.push_str(part);
                offset = next;
            }
            whole.push_str(page(&text, offset as u64, limit).text);
            assert_eq!(whole, text);
        }
        assert_eq!(page("ab", 99, 5).text, "");
    }

    #[test]
    fn a_list_is_paged_with_its_total() {
        let mut object = Map::from_iter([("entries".to_owned(), json!([1, 2, 3]))]);
        page_list(&mut object, "entries", 1, 1);
        assert_eq!(Value::Object(object), json!({ "entries": [2], "total_count": 3, "next_offset": 2 }));
        let mut object = Map::from_iter([("entries".to_owned(), json!([1, 2, 3]))]);
        page_list(&mut object, "entries", 7, 1);
        assert_eq!(Value::Object(object), json!({ "entries": [], "total_count": 3 }));
    }

    #[test]
    fn what_was_cut_before_stays_told() {
        let mut object = Map::from_iter([
            ("stdout".to_owned(), json!("ab")),
            ("stdout_truncated".to_owned(), json!(true)),
        ]);
        cut_text(&mut object, "stdout", 10);
        assert_eq!(object["stdout_truncated"], json!(true));
        assert_eq!(object["stdout_bytes"], json!(2));
    }
}
