//! Flattens tar files, lowest first, into one image: `flatten IMAGE TAR...`.

// Its result is what it prints.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};

fn main() -> Result<(), pyro_oci::FlattenError> {
    let mut arguments = std::env::args_os().skip(1);
    let image = arguments.next().unwrap_or_else(|| "rootfs.ext4".into());
    let tars: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let flattened = pyro_oci::flatten_tar_files(&tars, Path::new(&image))?;
    println!("{flattened:#?}");
    Ok(())
}
