//! What a workspace is filled with.

use super::bridge::ChunkWriter;
use super::{TransferError, git};
use pyro_tree::pax::{self, BLOCK_BYTES};
use pyro_tree::{Fidelity, Mounts, PackOptions, RootLink, Selection, TreeError, TreeStats};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};

/// Which files of a directory are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SeedFilter {
    /// All of them.
    #[default]
    All,
    /// Those that git tracks, and those that it neither tracks nor ignores, also in nested work trees.
    /// `.git` itself is not among them.
    Git,
}

/// What kind of seed it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedMode {
    /// A directory on the host.
    Directory,
    /// A tar archive on the host, compressed or not.
    TarArchive,
}

impl SeedMode {
    /// The word in outputs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::TarArchive => "tar_archive",
        }
    }
}

/// A tree on the host, ready to be sent.
#[derive(Debug)]
pub struct SeedSource {
    path: PathBuf,
    contents: Contents,
}

#[derive(Debug)]
enum Contents {
    Directory(Option<Selection>),
    Archive(File, Compression),
}

#[derive(Clone, Copy, Debug)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl SeedSource {
    /// Looks at `path`. With [`SeedFilter::Git`] this runs git to learn the names; none of the programs
    /// that a repository can name is run.
    pub async fn open(path: &Path, filter: SeedFilter) -> Result<Self, TransferError> {
        let owned = path.to_owned();
        let source = tokio::task::spawn_blocking(move || Self::inspect(owned))
            .await
            .map_err(|_| TransferError::Panicked)??;
        match (filter, &source.contents) {
            (SeedFilter::All, _) => Ok(source),
            (SeedFilter::Git, Contents::Archive(..)) => Err(TransferError::FilteredArchive(source.path)),
            (SeedFilter::Git, Contents::Directory(_)) => {
                let selection = git::list(path).await?;
                Ok(Self { contents: Contents::Directory(Some(selection)), ..source })
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind it is.
    pub fn mode(&self) -> SeedMode {
        match self.contents {
            Contents::Directory(_) => SeedMode::Directory,
            Contents::Archive(..) => SeedMode::TarArchive,
        }
    }

    fn inspect(path: PathBuf) -> Result<Self, TransferError> {
        // A pipe must not make this wait.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(io::Error::from);
        let opened = opened.and_then(|file| {
            let file = File::from(file);
            let kind = file.metadata()?.file_type();
            Ok((file, kind))
        });
        let (mut file, kind) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(TransferError::SeedMissing(path));
            }
            // A socket, which cannot be opened at all.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                return Err(TransferError::SeedKind(path));
            }
            Err(source) => return Err(TransferError::SeedUnreadable { path, source }),
        };
        if kind.is_dir() {
            return Ok(Self { path, contents: Contents::Directory(None) });
        }
        if !kind.is_file() {
            return Err(TransferError::SeedKind(path));
        }
        match recognize(&mut file) {
            Ok(Some(compression)) => Ok(Self { path, contents: Contents::Archive(file, compression) }),
            Ok(None) => Err(TransferError::SeedKind(path)),
            Err(source) => Err(TransferError::SeedUnreadable { path, source }),
        }
    }

    /// Writes the tree as an archive for a guest: all of it root's.
    pub(super) fn write(self, stream: &mut ChunkWriter) -> Result<TreeStats, TreeError> {
        let mut options = PackOptions {
            fidelity: Fidelity::Portable,
            root_link: RootLink::Follow,
            mounts: Mounts::Enter,
            only: None,
        };
        match self.contents {
            Contents::Directory(only) => {
                options.only = only;
                pyro_tree::pack(&self.path, stream, &options)
            }
            Contents::Archive(file, compression) => {
                let archive: Box<dyn Read> = match compression {
                    Compression::None => Box::new(file),
                    Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
                    Compression::Zstd => {
                        let decoder = zstd::stream::read::Decoder::new(file);
                        Box::new(decoder.map_err(pax::ReadError::Io)?)
                    }
                };
                pyro_tree::repack(&mut stream.guard(archive), stream, &options)
            }
        }
    }
}

/// What the contents are, whatever the name says.
fn recognize(file: &mut File) -> io::Result<Option<Compression>> {
    let mut start = Vec::with_capacity(BLOCK_BYTES);
    file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Some(Compression::Gzip)
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Some(Compression::Zstd)
    } else {
        pax::is_archive(&start).then_some(Compression::None)
    })
}
