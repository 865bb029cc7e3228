//! The packages whose code is in the programs, as cargo resolved them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{root, steps};

/// One crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) licence: String,
    pub(super) directory: PathBuf,
    /// SHA-256 of the archive it came in; the workspace's own have none.
    pub(super) checksum: Option<String>,
    /// References of the packages it links or runs at compile time.
    pub(super) dependencies: BTreeSet<String>,
}

impl Package {
    /// What names it in this release.
    pub(super) fn reference(&self) -> String {
        reference(&self.name, &self.version)
    }

    /// Whether it is of this workspace.
    pub(super) fn is_ours(&self) -> bool {
        self.checksum.is_none()
    }
}

fn reference(name: &str, version: &str) -> String {
    format!("{name}@{version}")
}

/// What is distributed: the two programs, and the agent in the guest bundle.
pub(super) const PROGRAMS: [&str; 3] = ["pyro-agent", "pyro-cli", "pyro-vmm"];

/// Every package under the programs, sorted by name and version.
pub(super) fn read() -> Result<Vec<Package>> {
    let arguments =
        ["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"];
    let metadata = steps::read(&mut steps::cargo(&arguments))?;
    let lock =
        std::fs::read_to_string(root::workspace().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    parse(&metadata, &lock, &PROGRAMS)
}

fn parse(metadata: &str, lock: &str, programs: &[&str]) -> Result<Vec<Package>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("cargo metadata is of unknown form")?;
    let lock: Lock = toml::from_str(lock).context("Cargo.lock is of unknown form")?;
    let checksums: BTreeMap<String, String> = lock
        .package
        .into_iter()
        .filter_map(|locked| Some((reference(&locked.name, &locked.version), locked.checksum?)))
        .collect();
    let known: BTreeMap<&str, &Described> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: BTreeMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut open: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none() && programs.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut found = BTreeMap::new();
    while let Some(id) = open.pop() {
        if found.contains_key(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo resolved no {id}"))?;
        let described = known.get(id).with_context(|| format!("cargo describes no {id}"))?;
        let linked: Vec<&str> =
            node.deps.iter().filter(|edge| edge.is_linked()).map(|edge| edge.pkg.as_str()).collect();
        let package = described.package(&linked, &known, &checksums)?;
        found.insert(id, package);
        open.extend(linked);
    }
    let mut packages: Vec<Package> = found.into_values().collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
}

impl Described {
    fn package(
        &self,
        linked: &[&str],
        known: &BTreeMap<&str, &Described>,
        checksums: &BTreeMap<String, String>,
    ) -> Result<Package> {
        let name = &self.name;
        let licence = self.license.as_deref().with_context(|| format!("{name} names no licence"))?;
        let checksum = checksums.get(&reference(name, &self.version)).cloned();
        let dependencies = linked
            .iter()
            .filter_map(|id| known.get(id))
            .map(|package| reference(&package.name, &package.version))
            .collect();
        Ok(Package {
            name: name.clone(),
            version: self.version.clone(),
            // The old way to write a choice, which SPDX does not know.
            licence: licence.replace('/', " OR "),
            directory: self.manifest_path.parent().map(Path::to_owned).unwrap_or_default(),
            checksum: if self.source.is_some() {
                Some(checksum.with_context(|| format!("Cargo.lock has no checksum of {name}"))?)
            } else {
                None
            },
            dependencies,
        })
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Described>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Described {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

impl Edge {
    /// Neither for tests nor for build scripts, whose code is in no program.
    fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn described(name: &str, licence: &str, source: Value) -> Value {
        json!({ "id": name, "name": name, "version": "1.0.0", "license": licence, "source": source,
                "manifest_path": format!("/source/{name}/Cargo.toml") })
    }

    fn edge(name: &str, kind: Value) -> Value {
        json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] })
    }

    fn metadata() -> Value {
        json!({
            "packages": [
                described("pyro-cli", "Apache-2.0", Value::Null),
                described("xtask", "Apache-2.0", Value::Null),
                described("used", "MIT/Apache-2.0", json!("registry")),
                described("builds", "MIT", json!("registry")),
                described("tests", "GPL-3.0-only", json!("registry")),
            ],
            "resolve": { "nodes": [
                { "id": "pyro-cli", "deps": [
                    edge("used", Value::Null), edge("builds", json!("build")), edge("tests", json!("dev")),
                ] },
                { "id": "xtask", "deps": [edge("tests", Value::Null)] },
                { "id": "used", "deps": [] }, { "id": "builds", "deps": [] }, { "id": "tests", "deps": [] },
            ] },
        })
    }

    const LOCK: &str = "version = 4\n[[package]]\nname = \"used\"\nversion = \"1.0.0\"\nchecksum = \"ab\"\n";

    #[test]
    fn only_what_is_in_the_programs_is_told() {
        let packages = parse(&metadata().to_string(), LOCK, &["pyro-cli"]).unwrap();
        let told: Vec<(String, &str, bool)> = packages
            .iter()
            .map(|package| (package.reference(), package.licence.as_str(), package.is_ours()))
            .collect();
        assert_eq!(
            told,
            [
                ("pyro-cli@1.0.0".to_owned(), "Apache-2.0", true),
                ("used@1.0.0".to_owned(), "MIT OR Apache-2.0", false)
            ]
        );
        assert_eq!(packages[0].dependencies, BTreeSet::from(["used@1.0.0".to_owned()]));
        assert_eq!(packages[1].directory, Path::new("/source/used"));
    }

    #[test]
    fn a_package_without_licence_or_checksum_stops_the_release() {
        let mut without = metadata();
        without["packages"][2]["license"] = Value::Null;
        let error = parse(&without.to_string(), LOCK, &["pyro-cli"]).unwrap_err().to_string();
        assert_eq!(error, "used names no licence");
        let error = parse(&metadata().to_string(), "package = []", &["pyro-cli"]).unwrap_err().to_string();
        assert_eq!(error, "Cargo.lock has no checksum of used");
    }
}
