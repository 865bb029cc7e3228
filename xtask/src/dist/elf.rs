//! What a program needs of the machine it runs on.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

/// A version of glibc.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Glibc {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl std::fmt::Display for Glibc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What dynamic programs ask for; nothing for a static one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The newest glibc whose symbols are used: the oldest that will do.
    pub(super) glibc: Glibc,
    /// Names of shared libraries.
    pub(super) libraries: BTreeSet<String>,
}

impl Needs {
    /// What an ELF file asks for.
    pub(super) fn of(program: &[u8]) -> Result<Self> {
        let header = FileHeader64::<Endianness>::parse(program).context("the program is no ELF file")?;
        let endian = header.endian()?;
        let sections = header.sections(endian, program).context("ELF sections")?;
        let mut needs = Self::default();
        if let Some((entries, link)) = sections.dynamic(endian, program).context("dynamic section")? {
            let strings = sections.strings(endian, program, link).context("dynamic strings")?;
            for entry in entries.iter().filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED) {
                let name = entry.string(endian, strings).context("name of a library")?;
                needs.libraries.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
        if let Some((mut libraries, link)) =
            sections.gnu_verneed(endian, program).context("symbol versions")?
        {
            let strings = sections.strings(endian, program, link).context("version strings")?;
            while let Some((_, mut versions)) = libraries.next().context("symbol versions")? {
                while let Some(version) = versions.next().context("symbol version")? {
                    let name = version.name(endian, strings).context("name of a version")?;
                    needs.take(&String::from_utf8_lossy(name));
                }
            }
        }
        Ok(needs)
    }

    /// What several programs need together.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.glibc = self.glibc.max(other.glibc);
        self.libraries.extend(other.libraries);
        self
    }

    fn take(&mut self, version: &str) {
        let numbers = version.strip_prefix("GLIBC_").and_then(|text| text.split_once('.'));
        let Some((major, rest)) = numbers else { return };
        let minor = rest.split('.').next().unwrap_or_default();
        if let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) {
            self.glibc = self.glibc.max(Glibc { major, minor });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_symbol_version_counts_by_number() {
        let mut needs = Needs::default();
        for version in ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_PRIVATE", "GCC_3.0"] {
            needs.take(version);
        }
        assert_eq!(needs.glibc.to_string(), "2.34");
        let more = Needs { glibc: Glibc { major: 2, minor: 36 }, ..Needs::default() };
        assert_eq!(needs.and(more).glibc.to_string(), "2.36");
    }

    #[test]
    fn this_very_program_needs_glibc() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = Needs::of(&program).unwrap();
        assert!(needs.libraries.contains("libc.so.6"), "{needs:?}");
        assert!(needs.glibc >= Glibc { major: 2, minor: 17 }, "{needs:?}");
        assert!(Needs::of(b"#!/bin/sh").is_err());
    }
}
