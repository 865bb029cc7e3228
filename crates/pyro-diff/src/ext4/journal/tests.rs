use super::*;

#[test]
fn tags_have_the_sizes_that_the_kernel_gives_them() {
    assert_eq!(tag_size(0), 8);
    assert_eq!(tag_size(INCOMPAT_64BIT), 12);
    assert_eq!(tag_size(INCOMPAT_CSUM_V2), 10);
    assert_eq!(tag_size(INCOMPAT_CSUM_V2 | INCOMPAT_64BIT), 14);
    assert_eq!(tag_size(INCOMPAT_CSUM_V3 | INCOMPAT_64BIT), 16);
}

#[test]
fn escaped_blocks_get_their_first_bytes_back() {
    let mut block = vec![0; 8];
    Copy { block: 1, escaped: false }.unescape(&mut block);
    assert_eq!(block, [0; 8]);
    Copy { block: 1, escaped: true }.unescape(&mut block);
    assert_eq!(block, [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 0]);
}
