use super::*;

#[test]
fn what_is_no_file_system_is_told_apart_from_what_cannot_be_read() {
    assert!(matches!(Ext4::open(vec![0; 4096]), Err(DiskError::NotExt4 { .. })));
    assert!(matches!(Ext4::open(vec![0; 1500]), Err(DiskError::Read { offset: 1024, bytes: 1024, .. })));
    let mut bytes = vec![0; 4096];
    bytes[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
    bytes[1024 + 0x60..1024 + 0x64].copy_from_slice(&0x8002_u32.to_le_bytes());
    assert!(matches!(Ext4::open(bytes), Err(DiskError::Unsupported { .. })));
}

#[test]
fn the_cache_forgets_the_oldest_blocks_and_keeps_the_used_ones() {
    let mut cache = Cache::default();
    let block: Arc<[u8]> = vec![1].into();
    cache.put(0, Arc::clone(&block));
    for number in 1..MAX_CACHED_BLOCKS as u64 * 3 {
        cache.put(number, Arc::clone(&block));
        assert!(cache.get(0).is_some() && cache.get(number).is_some());
        assert!(cache.young.len() + cache.old.len() <= MAX_CACHED_BLOCKS);
    }
    assert!(cache.get(0).is_some());
    assert!(cache.get(1).is_none());
}
