//! How users name environments.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::catalog::{self, CatalogEntry};
use crate::digest::{Digest, DigestParseError};

/// A parsed environment name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A curated environment.
    Catalog(&'static CatalogEntry),
    /// An image in a registry.
    Image(ImageReference),
    /// An image in an `oci-layout` directory: `oci:DIR[:TAG]`.
    Layout(LocalReference),
    /// An image in an archive of such a directory, or of `docker save`: `oci-archive:FILE[:TAG]`.
    Archive(LocalReference),
}

/// An image in a registry: host, repository, and what picks one image there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    /// Host with optional port, as given.
    pub registry: String,
    /// Path within the registry.
    pub repository: String,
    /// Tag; `latest` where neither tag nor digest was given.
    pub tag: Option<String>,
    /// Digest of a manifest or index; it wins over the tag.
    pub digest: Option<Digest>,
}

/// An image in a local file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalReference {
    /// The directory or file.
    pub path: PathBuf,
    /// Which image, where there are several.
    pub tag: Option<String>,
}

/// Why a text names no environment.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ReferenceError {
    /// Neither in the catalog nor an image reference with a registry.
    #[error("unknown environment '{name}'; expected one of: {}", known())]
    Unknown {
        /// What was asked for.
        name: String,
        /// The closest known name.
        nearest: Option<&'static str>,
    },
    /// It has the shape of an image reference, but breaks its rules.
    #[error("invalid image reference '{reference}': {why}")]
    Malformed {
        /// What was asked for.
        reference: String,
        /// The rule.
        why: String,
    },
}

fn known() -> String {
    catalog::CATALOG.iter().map(|e| e.name).collect::<Vec<_>>().join(", ")
}

impl ReferenceError {
    /// What to try instead, for people.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest: Some(name), .. } => Some(format!("did you mean '{name}'?")),
            Self::Unknown { name, nearest: None } if name.starts_with('/') || name.ends_with(".tar") => {
                Some(format!("for a local image write oci:{name} (a layout directory) or oci-archive:{name}"))
            }
            Self::Unknown { name, nearest: None } => {
                let official = if name.contains('/') { "" } else { "library/" };
                Some(format!("for an image in a registry write its host too: docker.io/{official}{name}"))
            }
            Self::Malformed { .. } => {
                Some("images are named HOST/REPOSITORY:TAG, oci:DIR:TAG or oci-archive:FILE:TAG".into())
            }
        }
    }
}

impl Reference {
    /// The environment's name as it is shown and recorded.
    #[must_use]
    pub fn name(&self) -> String {
        self.to_string()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(entry) = catalog::find(text) {
            return Ok(Self::Catalog(entry));
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return local(text, rest).map(Self::Archive);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return local(text, rest).map(Self::Layout);
        }
        let unknown = || ReferenceError::Unknown {
            name: text.chars().take(200).collect(),
            nearest: catalog::nearest(text),
        };
        match text.split_once('/') {
            Some((host, rest)) if is_registry(host) => image(text, host, rest).map(Self::Image),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog(entry) => f.write_str(entry.name),
            Self::Image(image) => image.fmt(f),
            Self::Layout(local) => write!(f, "oci:{local}"),
            Self::Archive(local) => write!(f, "oci-archive:{local}"),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for LocalReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

impl ImageReference {
    /// Parses `HOST/REPOSITORY[:TAG][@DIGEST]`.
    ///
    /// # Errors
    /// When the text is not of that form.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        match text.split_once('/') {
            Some((host, rest)) if is_registry(host) => image(text, host, rest),
            _ => Err(malformed(text, "it does not begin with a registry's host")),
        }
    }

    /// The last part of a request for this image's manifest.
    pub(crate) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

fn malformed(reference: &str, why: impl Into<String>) -> ReferenceError {
    ReferenceError::Malformed { reference: reference.chars().take(300).collect(), why: why.into() }
}

/// The rule that image references have always had: a first part with a dot or a port, or `localhost`.
fn is_registry(host: &str) -> bool {
    host == "localhost" || host.contains('.') || host.contains(':')
}

fn image(text: &str, host: &str, rest: &str) -> Result<ImageReference, ReferenceError> {
    check_host(host).map_err(|why| malformed(text, why))?;
    let (rest, digest) = match rest.split_once('@') {
        None => (rest, None),
        Some((rest, digest)) => {
            let digest: Digest =
                digest.parse().map_err(|e: DigestParseError| malformed(text, e.to_string()))?;
            (rest, Some(digest))
        }
    };
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if let Some(tag) = &tag
        && !is_tag(tag)
    {
        return Err(malformed(text, format!("'{tag}' is not a tag")));
    }
    let docker_hub = matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let repository = if docker_hub && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    if !is_repository(&repository) {
        return Err(malformed(text, format!("'{repository}' is not a repository")));
    }
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    Ok(ImageReference { registry: host.to_owned(), repository, tag, digest })
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the host's address has no end")?;
            address
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| format!("'{address}' is not an IPv6 address"))?;
            ("ipv6", port.strip_prefix(':'))
        }
        None => host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port))),
    };
    let name_ok = !name.is_empty()
        && name.len() <= 253
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-' || b == b'_');
    if !name_ok {
        return Err(format!("'{name}' is not a host name"));
    }
    match port {
        Some(port) if port.parse::<u16>().is_ok_and(|p| p != 0) => Ok(()),
        Some(port) => Err(format!("'{port}' is not a port")),
        None => Ok(()),
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

fn is_repository(repository: &str) -> bool {
    let part_ok = |part: &str| {
        let bytes = part.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|&b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    repository.len() <= 255 && repository.split('/').all(part_ok)
}

/// `PATH[:TAG]`. A colon that is part of the path's last name cannot be told from a tag, so a path
/// that exists as a whole is the whole path: that needs the file system, and is decided on opening.
fn local(text: &str, rest: &str) -> Result<LocalReference, ReferenceError> {
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if is_tag(tag) && !path.is_empty() => (path, Some(tag.to_owned())),
        _ => (rest, None),
    };
    if path.is_empty() || path.contains('\0') {
        return Err(malformed(text, "it names no path"));
    }
    Ok(LocalReference { path: PathBuf::from(path), tag })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn catalog_names_win_over_images() {
        assert!(matches!("debian:12".parse(), Ok(Reference::Catalog(e)) if e.name == "debian:12"));
    }

    #[test]
    fn images_need_a_registry() {
        let Ok(Reference::Image(image)) = "docker.io/python:3.12".parse() else { panic!() };
        assert_eq!(image.to_string(), "docker.io/library/python:3.12");
        let Ok(Reference::Image(image)) = "127.0.0.1:5000/x/y".parse() else { panic!() };
        assert_eq!((image.tag.as_deref(), &*image.repository), (Some("latest"), "x/y"));
        let pinned = format!("ghcr.io/a/b@{}", Digest::of(b""));
        let Ok(Reference::Image(image)) = pinned.parse() else { panic!() };
        assert_eq!((image.tag.clone(), image.selector()), (None, Digest::of(b"").to_string()));
        let error = "python:3.12".parse::<Reference>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown environment 'python:3.12'; expected one of: debian:12, debian:12-base, debian:12-build"
        );
        let hint = |text: &str| text.parse::<Reference>().unwrap_err().hint().unwrap();
        assert!(hint("python:3.12").ends_with(" docker.io/library/python:3.12"));
        assert!(hint("bitnami/redis").ends_with(" docker.io/bitnami/redis"));
        assert!(hint("/tmp/image.tar").contains("oci-archive:/tmp/image.tar"));
        assert!(hint("./image").contains("oci:DIR"));
        assert_eq!(hint("debian"), "did you mean 'debian:12'?");
    }

    #[test]
    fn malformed_images_say_which_part() {
        for (text, part) in [
            ("docker.io/UP:1", "UP"),
            ("docker.io/a:b!", "b!"),
            ("docker.io/a@sha256:12", "sha256:12"),
            ("localhost:99999/a", "99999"),
            ("docker.io/../../x", "../../x"),
            ("ho st.io/a", "ho st.io"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(matches!(&error, ReferenceError::Malformed { .. }), "{text}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn local_images_may_have_a_tag() {
        let Ok(Reference::Layout(layout)) = "oci:./a/b:v1".parse() else { panic!() };
        assert_eq!(layout, LocalReference { path: "./a/b".into(), tag: Some("v1".into()) });
        let Ok(Reference::Archive(archive)) = "oci-archive:/x.tar".parse() else { panic!() };
        assert_eq!(archive, LocalReference { path: "/x.tar".into(), tag: None });
        assert!("oci:".parse::<Reference>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
