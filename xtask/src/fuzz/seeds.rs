//! What a fuzz target begins with, where chance alone would not come far.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{root, steps};

/// The largest seed with room to grow: a journal has at least a thousand blocks of a kilobyte.
pub(super) const MAX_BYTES: usize = 3 << 20;

/// Options of mke2fs for an image of each kind that is read differently, with its size.
const IMAGES: &[(&str, &[&str], &str)] = &[
    ("extents", &["-t", "ext4", "-b", "1024", "-O", "^has_journal,^resize_inode"], "256K"),
    ("large-blocks", &["-t", "ext4", "-b", "4096", "-O", "^has_journal,^resize_inode"], "1M"),
    ("block-maps", &["-t", "ext2", "-b", "1024"], "256K"),
    ("inline", &["-t", "ext4", "-b", "1024", "-I", "256", "-O", "^has_journal,inline_data"], "256K"),
    ("journal", &["-t", "ext4", "-b", "1024", "-J", "size=1"], "2304K"),
];

/// A directory with seeds for `target`, made anew; `None` where it needs none.
pub(super) fn make(target: &str) -> Result<Option<PathBuf>> {
    match target {
        "diff_ext4" => images().map(Some),
        _ => Ok(None),
    }
}

/// Small ext4 images of one small tree, the last one left with work in its journal.
fn images() -> Result<PathBuf> {
    let place = root::target().join("fuzz-seeds/diff_ext4");
    let (tree, seeds) = (place.join("tree"), place.join("seeds"));
    if place.exists() {
        std::fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
    }
    std::fs::create_dir_all(&seeds).with_context(|| format!("cannot make {}", seeds.display()))?;
    plant(&tree).with_context(|| format!("cannot fill {}", tree.display()))?;
    for (name, options, size) in IMAGES {
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-m", "0", "-N", "32", "-d"]).arg(&tree).args(*options);
        steps::read(mke2fs.arg(seeds.join(name)).arg(size))?;
    }
    leave_in_journal(&place, &seeds.join("journal"))?;
    Ok(seeds)
}

/// Something of each kind that a walk tells apart.
fn plant(tree: &Path) -> std::io::Result<()> {
    let deep = tree.join("workspace/a directory/in another");
    std::fs::create_dir_all(&deep)?;
    std::fs::write(deep.join("small"), "small\n")?;
    std::fs::write(tree.join("workspace/empty"), "")?;
    std::fs::write(tree.join("workspace/large"), "0123456789abcde\n".repeat(1200))?;
    std::os::unix::fs::symlink("a directory", tree.join("workspace/link"))?;
    std::os::unix::fs::symlink("x/".repeat(60), tree.join("workspace/long link"))?;
    Ok(())
}

/// Writes a block, and another that is revoked, to the image's journal alone.
fn leave_in_journal(place: &Path, image: &Path) -> Result<()> {
    let (script, block) = (place.join("commands"), place.join("block"));
    std::fs::write(&block, [b'j'; 1024]).with_context(|| format!("cannot write {}", block.display()))?;
    let block = block.display();
    let commands = format!("jo -c\njw -b 2200 {block}\njc\njo -c\njw -b 2201 -r 2200 {block}\njc\n");
    std::fs::write(&script, commands).with_context(|| format!("cannot write {}", script.display()))?;
    steps::read(Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(image))?;
    Ok(())
}
