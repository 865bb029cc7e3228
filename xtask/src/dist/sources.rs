//! What is in the guest bundle besides pyro's own code: whose work it is, and where its source is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{guest, root, steps};

/// A Debian package whose work is distributed in binary form.
#[derive(Clone, Debug)]
pub(super) struct Binary {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) source_package: String,
    pub(super) source_version: String,
    pub(super) licence: &'static str,
}

/// The separate works in the guest bundle.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) kernel: Binary,
    pub(super) libc: Binary,
    kernel_note: String,
    kernel_variables: Vec<String>,
    kernel_tools: Vec<String>,
    kernel_config: PathBuf,
}

/// Where Debian keeps the licences that many packages share.
const COMMON_LICENCES: &str = "/usr/share/common-licenses";

impl Sources {
    /// Of a bundle and of the packages of the machine that built it.
    pub(super) fn of(bundle: &guest::Bundle) -> Result<Self> {
        let source = &bundle.kernel;
        let kernel = Binary {
            name: "linux",
            version: source.version.clone(),
            source_package: source.package.to_owned(),
            source_version: source.package_version.clone(),
            licence: "GPL-2.0-only WITH Linux-syscall-note",
        };
        let field = |field: &str| {
            steps::read(Command::new("dpkg-query").args([
                "--show",
                &format!("--showformat=${{{field}}}"),
                "libc6-dev",
            ]))
        };
        let libc = Binary {
            name: "glibc",
            version: field("Version")?,
            source_package: field("source:Package")?,
            source_version: field("source:Version")?,
            licence: "LGPL-2.1-or-later",
        };
        Ok(Self {
            kernel,
            libc,
            kernel_note: source.note.clone(),
            kernel_variables: source.variables.clone(),
            kernel_tools: source.tools.clone(),
            kernel_config: source.config.clone(),
        })
    }

    /// The text of the file `SOURCES`.
    pub(super) fn document(&self) -> String {
        let Self { kernel, libc, kernel_note, kernel_variables, kernel_tools, .. } = self;
        format!(
            "\
Sources of the separate works in the guest bundle (share/pyro/guest)

vmlinux
    {kernel_note}.
    Licence: {}, see kernel/COPYING.
    Corresponding source: the file /usr/src/{package}.tar.xz of the Debian package {package},
    version {source_version}: apt-get install {package}={source_version}
    Configuration: kernel/linux-x86_64.config over tinyconfig; kernel/config is the result.
    Build, in the unpacked source:
        make tinyconfig
        scripts/kconfig/merge_config.sh -m .config linux-x86_64.config
        make olddefconfig
        make vmlinux
        strip -o vmlinux.stripped vmlinux
    with these variables:
        {}
    `cargo xtask guest` in pyro's source does all of this. The tools here were
        {}

initramfs.cpio
    The program /init in it is pyro's agent (Apache-2.0, crates/pyro-agent), linked statically with the GNU C library
    {libc_version} of Debian.
    Licence of the library: {}, see kernel/COPYING.LESSER.
    Source of the library: Debian source package {} {}.
    To link the agent with another version of it: install that version's libc6-dev and run `cargo xtask guest`.

The programs bin/pyro and bin/pyro-vmm are linked with the C library of the machine they run on.
",
            kernel.licence,
            kernel_variables.join("\n        "),
            kernel_tools.join("\n        "),
            libc.licence,
            libc.source_package,
            libc.source_version,
            package = kernel.source_package,
            source_version = kernel.source_version,
            libc_version = libc.version,
        )
    }

    /// What else goes beside the document: its name there and the file here.
    pub(super) fn attachments(&self) -> [(&'static str, PathBuf); 4] {
        let common = Path::new(COMMON_LICENCES);
        [
            ("kernel/COPYING", common.join("GPL-2")),
            ("kernel/COPYING.LESSER", common.join("LGPL-2.1")),
            ("kernel/config", self.kernel_config.clone()),
            ("kernel/linux-x86_64.config", root::workspace().join("guest/linux-x86_64.config")),
        ]
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let binary = |name, package: &str, version: &str, licence| Binary {
            name,
            version: version.to_owned(),
            source_package: package.to_owned(),
            source_version: format!("{version}-1"),
            licence,
        };
        Self {
            kernel: binary("linux", "linux-source-6.12", "6.12.9", "GPL-2.0-only WITH Linux-syscall-note"),
            libc: binary("glibc", "glibc", "2.36", "LGPL-2.1-or-later"),
            kernel_note: "Linux 6.12.9".to_owned(),
            kernel_variables: vec!["LC_ALL='C'".to_owned()],
            kernel_tools: vec!["gcc 12".to_owned(), "ld 2.40".to_owned()],
            kernel_config: PathBuf::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_source_version_configuration_and_build() {
        let document = Sources::for_tests().document();
        for part in [
            "apt-get install linux-source-6.12=6.12.9-1\n",
            "GPL-2.0-only",
            "merge_config.sh -m .config linux-x86_64.config",
            "these variables:\n        LC_ALL='C'\n",
            "gcc 12\n        ld 2.40",
            "Debian source package glibc 2.36-1",
        ] {
            assert!(document.contains(part), "{part}: {document}");
        }
    }
}
