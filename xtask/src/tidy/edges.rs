//! Which crate may depend on which.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Finding;

/// Whom each crate of the workspace may depend on. A crate without a line may depend on none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("pyro-agent", &["pyro-tree"]),
    (
        "pyro-core",
        &["pyro-agent", "pyro-diff", "pyro-oci", "pyro-tree", "pyro-vmm", "pyro-net", "pyro-proxy"],
    ),
    ("pyro-cli", &["pyro-core", "pyro-mcp", "pyro-oci"]),
    ("pyro-mcp", &["pyro-core"]),
    ("xtask", &["pyro-agent", "pyro-core", "pyro-oci"]),
];

/// Programs that must stay small and single-minded: no asynchronous runtime in or under them.
const WITHOUT_TOKIO: &[&str] = &["pyro-agent", "pyro-net", "pyro-tree", "pyro-vmm"];

/// Crates whose types cross crate borders: two versions at once would not fit together.
const ONE_VERSION: &[&str] = &["vm-memory", "vmm-sys-util"];

/// What `cargo metadata` tells, reduced to what the rules need.
pub(super) struct Graph {
    /// Crates of the workspace with the packages they name, for use, build or test.
    direct: BTreeMap<String, BTreeSet<String>>,
    /// Every package id with its name.
    names: BTreeMap<String, String>,
    /// Every package id with the ids it links or runs at build time, tests apart.
    links: BTreeMap<String, Vec<String>>,
}

impl Graph {
    pub(super) fn parse(json: &str) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(json).context("cargo metadata is of unknown form")?;
        let names =
            metadata.packages.iter().map(|package| (package.id.clone(), package.name.clone())).collect();
        let direct = metadata
            .packages
            .iter()
            .filter(|package| metadata.workspace_members.contains(&package.id))
            .map(|package| {
                (package.name.clone(), package.dependencies.iter().map(|named| named.name.clone()).collect())
            })
            .collect();
        let links = metadata
            .resolve
            .nodes
            .into_iter()
            .map(|node| {
                (node.id, node.deps.into_iter().filter(Edge::is_linked).map(|edge| edge.pkg).collect())
            })
            .collect();
        Ok(Self { direct, names, links })
    }

    /// Every package that a crate of the workspace names, except the workspace's own.
    pub(super) fn direct_dependencies(&self) -> BTreeSet<String> {
        self.direct.values().flatten().filter(|name| !self.direct.contains_key(*name)).cloned().collect()
    }

    fn reaches(&self, from: &str, wanted: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> =
            self.names.iter().filter(|(_, name)| *name == from).map(|(id, _)| id).collect();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            if self.names.get(id).is_some_and(|name| name == wanted) {
                return true;
            }
            open.extend(self.links.get(id).into_iter().flatten());
        }
        false
    }
}

/// Edges that are not allowed, runtimes where none belongs, and doubled crates.
pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, dependencies) in &graph.direct {
        let allowed = ALLOWED.iter().find(|(from, _)| from == name).map_or(&[][..], |(_, to)| to);
        for dependency in dependencies.iter().filter(|dependency| graph.direct.contains_key(*dependency)) {
            if !allowed.contains(&dependency.as_str()) && dependency != name {
                findings.push(Finding::new(name, format!("must not depend on {dependency}")));
            }
        }
    }
    for name in WITHOUT_TOKIO.iter().filter(|name| graph.reaches(name, "tokio")) {
        findings.push(Finding::new(*name, "tokio is among its dependencies"));
    }
    for name in ONE_VERSION {
        let versions = graph.names.values().filter(|other| other == name).count();
        if versions > 1 {
            findings.push(Finding::new(*name, format!("{versions} versions in Cargo.lock, one must do")));
        }
    }
    findings
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    dependencies: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
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
    fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

#[cfg(test)]
mod tests;
