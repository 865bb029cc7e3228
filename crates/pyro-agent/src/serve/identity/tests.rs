use super::*;

#[test]
fn an_empty_image_gets_localhost_and_its_own_name() {
    let etc = tempfile::tempdir().unwrap();
    assert_eq!(write_files(etc.path(), "box-1"), Vec::<String>::new());
    assert_eq!(fs::read_to_string(etc.path().join("hostname")).unwrap(), "box-1\n");
    let hosts = fs::read_to_string(etc.path().join("hosts")).unwrap();
    assert!(hosts.contains("127.0.0.1\tlocalhost") && hosts.contains("127.0.1.1\tbox-1"), "{hosts}");
}

#[test]
fn a_renamed_machine_keeps_the_images_lines_and_has_one_of_its_own() {
    let etc = tempfile::tempdir().unwrap();
    let hosts = etc.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n10.0.0.1 db\n").unwrap();
    for name in ["first", "second", "second"] {
        write_files(etc.path(), name);
    }
    let text = fs::read_to_string(&hosts).unwrap();
    assert_eq!(text, "127.0.0.1 localhost\n10.0.0.1 db\n127.0.1.1\tsecond\t# this machine\n");
}

#[test]
fn links_and_pipes_in_place_of_files_are_left_alone() {
    let etc = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", etc.path().join("hostname")).unwrap();
    fs::create_dir(etc.path().join("hosts")).unwrap();
    assert_eq!(write_files(etc.path(), "box").len(), 2);
}

#[test]
fn names_that_could_add_lines_are_no_host_names() {
    assert!(is_host_name("pyro-1.local"));
    for bad in ["a b", "a\nb", "-a", "a#", "ä"] {
        assert!(!is_host_name(bad), "{bad}");
    }
}
