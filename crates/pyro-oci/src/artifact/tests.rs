use proptest::prelude::*;

use super::*;
use crate::limits::IMAGE_BYTES;

fn environment() -> EnvironmentMetadata {
    EnvironmentMetadata {
        environment: "debian:12".into(),
        version: "1.0.0".into(),
        default_packages: vec!["git".into()],
        ..EnvironmentMetadata::default()
    }
}

fn sources(layout: &Path, manifest: &Digest) -> Vec<LayerSource> {
    let blob = |digest: &Digest| layout.join("blobs/sha256").join(digest.hex());
    let bytes = fs::read(blob(manifest)).unwrap();
    let crate::manifest::Document::Image(image) = crate::manifest::parse(&bytes).unwrap() else { panic!() };
    assert!(is_artifact(&image));
    let config = fs::read(blob(&image.config.digest)).unwrap();
    let (_, diff_ids) = crate::manifest::parse_config(&config, image.layers.len()).unwrap();
    image
        .layers
        .iter()
        .zip(diff_ids)
        .map(|(layer, id)| LayerSource { file: File::open(blob(&layer.digest)).unwrap(), diff_id: Some(id) })
        .collect()
}

#[test]
fn an_environment_survives_the_journey_with_its_holes() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::write(path("kernel"), [0x7f; 5000]).unwrap();
    let rootfs = File::create_new(path("disk")).unwrap();
    rootfs.set_len(IMAGE_BYTES).unwrap();
    rootfs.write_all_at(b"superblock", 1024).unwrap();
    rootfs.write_all_at(&[9; 300_000], 40 << 30).unwrap();
    // Zeros that take space on the disk are holes all the same.
    rootfs.write_all_at(&[0; 1 << 20], 10 << 30).unwrap();
    let metadata = environment();
    let contents = ArtifactContents {
        kernel: &path("kernel"),
        rootfs: &path("disk"),
        environment: &metadata,
        compression_level: 3,
    };
    let digest = write_layout(&contents, &path("a")).unwrap();
    assert_eq!(write_layout(&contents, &path("b")).unwrap(), digest, "equal inputs, equal bytes");

    fs::create_dir(path("out")).unwrap();
    let extracted = extract(sources(&path("a"), &digest), &path("out"), &Work::default()).unwrap();
    assert_eq!(extracted.environment, Some(metadata));
    assert_eq!(fs::read(path("out/vmlinux")).unwrap(), [0x7f; 5000]);
    let out = File::open(path("out/rootfs.ext4")).unwrap();
    use std::os::unix::fs::MetadataExt;
    let meta = out.metadata().unwrap();
    assert_eq!(meta.len(), IMAGE_BYTES);
    assert!(meta.blocks() * 512 < 1 << 20, "{} bytes on disk", meta.blocks() * 512);
    assert_eq!(data_map(&out, IMAGE_BYTES).unwrap(), data_map(&rootfs, IMAGE_BYTES).unwrap());
    let mut bytes = vec![0; 300_000];
    out.read_exact_at(&mut bytes, 40 << 30).unwrap();
    assert_eq!(bytes, [9; 300_000]);
}

#[test]
fn a_part_that_is_missing_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    tarball::write_file(&mut bytes, "sub/vmlinux", 1, &mut &b"k"[..]).unwrap();
    tarball::write_end(&mut bytes, 0).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let layers = vec![LayerSource { file, diff_id: None }];
    let error = extract(layers, scratch.path(), &Work::default()).err().unwrap();
    assert_eq!(error.to_string(), "environment archive did not contain rootfs.ext4");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_map_covers_exactly_the_data(
        runs in proptest::collection::vec((0_u64..500_000, 1_usize..20_000), 0..8),
        size in 500_000_u64..600_000,
    ) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for (offset, len) in &runs {
            let len = (*len as u64).min(size - offset) as usize;
            file.write_all_at(&vec![1; len], *offset).unwrap();
        }
        let map = data_map(&file, size).unwrap();
        let mut end = 0;
        let mut copy = vec![0; size as usize];
        for (offset, len) in map {
            prop_assert!(offset >= end && offset + len <= size && len > 0);
            end = offset + len;
            file.read_exact_at(&mut copy[offset as usize..end as usize], offset).unwrap();
        }
        let mut whole = vec![0; size as usize];
        file.read_exact_at(&mut whole, 0).unwrap();
        prop_assert!(copy == whole);
    }
}
