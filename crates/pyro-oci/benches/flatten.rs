//! How fast layers become a root file system: `cargo bench -p pyro-oci -- [TAR]...`.
//!
//! Without arguments a layer of 400 MiB is made: a few large files and twenty thousand small ones, as a
//! system with a compiler has.

// Figures are the output.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use pyro_oci::flatten::{LayerSource, Work, flatten_to_ext4};
use pyro_oci::limits::LayerLimits;

fn main() {
    let tars: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut plain = Vec::new();
    for tar in &tars {
        File::open(tar).and_then(|mut f| f.read_to_end(&mut plain)).expect("a readable archive");
    }
    if tars.is_empty() {
        plain = synthetic();
    }
    let zstd = zstd::encode_all(&*plain, 3).expect("memory");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    gzip.write_all(&plain).expect("memory");
    let gzip = gzip.finish().expect("memory");
    for (name, bytes) in [("tar", &plain), ("tar+zstd", &zstd), ("tar+gzip", &gzip)] {
        measure(name, bytes, plain.len(), dir.path());
    }
}

fn measure(name: &str, bytes: &[u8], uncompressed: usize, dir: &Path) {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let mut file = tempfile::tempfile_in(dir).expect("a file");
        file.write_all(bytes).expect("space");
        let image = dir.join("rootfs.ext4");
        let started = Instant::now();
        let layers = vec![LayerSource { file, diff_id: None }];
        flatten_to_ext4(layers, &image, &LayerLimits::default(), &Work::default()).expect("a valid archive");
        best = best.min(started.elapsed().as_secs_f64());
        std::fs::remove_file(image).expect("the image");
    }
    let mega = uncompressed as f64 / 1e6;
    println!("flatten {name:<9} {mega:.0} MB in {best:.2} s: {:.0} MB/s", mega / best);
}

fn synthetic() -> Vec<u8> {
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    // Half noise, half repetition: about as compressible as programs are.
    for word in block.chunks_exact_mut(16) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word[..8].copy_from_slice(&state.to_le_bytes());
    }
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: String, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, path, data).expect("memory");
    };
    for i in 0..20_000_usize {
        let start = (i * 4099) % (block.len() - 20_000);
        add(format!("usr/share/d{}/f{i}", i / 100), &block[start..start + i % 20_000]);
    }
    for i in 0..200 {
        add(format!("usr/lib/large{i}"), &block);
    }
    builder.into_inner().expect("memory")
}
