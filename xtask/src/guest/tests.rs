use super::*;

#[test]
fn lost_and_unwanted_options_are_named() {
    let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\nCONFIG_DD=y\n";
    assert!(
        kernel::check_options("# note\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_C=\"x\"\nCONFIG_D=n\n", config).is_ok()
    );
    let error =
        kernel::check_options("CONFIG_B=y\nCONFIG_A=n\nCONFIG_C=\"y\"\n", config).unwrap_err().to_string();
    for lost in ["CONFIG_B=y", "CONFIG_A=n", "CONFIG_C=\"y\""] {
        assert!(error.contains(lost), "{error}");
    }
}

#[test]
fn the_initramfs_is_what_cpio_reads_and_the_same_each_time() {
    let archive = initramfs(b"#!agent");
    assert_eq!(archive, initramfs(b"#!agent"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("initramfs");
    fs::write(&path, &archive).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(archive.starts_with(b"070701") && archive.len().is_multiple_of(4));
    // Node 5:1, mode 0600, and the agent's seven bytes.
    assert!(text.contains("00002180") && text.contains("0000000500000001") && text.contains("#!agent"));
    assert!(text.contains("TRAILER!!!"));
}

#[test]
fn a_bundle_is_published_whole_or_not_at_all() {
    let cache = tempfile::tempdir().unwrap();
    let bundle = cache.path().join("bundle");
    let failed = publish(cache.path(), &bundle, |aside| {
        fs::write(aside.join("vmlinux"), "half")?;
        anyhow::bail!("no space")
    });
    assert!(failed.is_err() && !bundle.exists());
    publish(cache.path(), &bundle, |aside| Ok(fs::write(aside.join("vmlinux"), "whole")?)).unwrap();
    assert_eq!(fs::read_to_string(bundle.join("vmlinux")).unwrap(), "whole");
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
}

#[test]
fn keys_tell_inputs_apart_even_when_their_joins_are_alike() {
    assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
    assert_eq!(key(&["ab", "c"]).len(), 16);
}

#[test]
fn a_program_that_needs_a_loader_is_told_apart() {
    assert!(is_dynamic(&fs::read("/proc/self/exe").unwrap()));
    assert!(!is_dynamic(b"\x7fELF"));
}
