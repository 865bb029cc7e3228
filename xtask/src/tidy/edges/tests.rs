use super::*;

/// A graph where crates of the workspace are named `pyro-*`; edges are `from -> to`, `from ~> to` in tests only.
fn graph(edges: &[&str]) -> Graph {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut from_to = Vec::new();
    for edge in edges {
        let words: Vec<&str> = edge.split(' ').collect();
        names.extend([words[0].to_owned(), words[2].to_owned()]);
        from_to.push((words[0], words[2], words[1] == "~>"));
    }
    let direct = names
        .iter()
        .filter(|name| name.starts_with("pyro-"))
        .map(|name| {
            let to = from_to.iter().filter(|(from, ..)| from == name).map(|(_, to, _)| (*to).to_owned());
            (name.clone(), to.collect())
        })
        .collect();
    let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (from, to, _) in from_to.iter().filter(|(.., dev)| !dev) {
        links.entry((*from).to_owned()).or_default().push((*to).to_owned());
    }
    let names =
        names.into_iter().map(|name| (name.clone(), name.split('@').next().unwrap().to_owned())).collect();
    Graph { direct, names, links }
}

fn found(edges: &[&str]) -> Vec<String> {
    check(&graph(edges)).iter().map(ToString::to_string).collect()
}

#[test]
fn the_core_joins_the_parts_and_front_ends_use_the_core() {
    let good = [
        "pyro-core -> pyro-vmm",
        "pyro-core -> pyro-oci",
        "pyro-core -> pyro-agent",
        "pyro-cli -> pyro-core",
    ];
    assert_eq!(found(&good), [""; 0]);
}

#[test]
fn parts_must_not_know_each_other_nor_the_core() {
    assert_eq!(found(&["pyro-vmm -> pyro-oci"]), ["pyro-vmm: must not depend on pyro-oci"]);
    assert_eq!(found(&["pyro-oci ~> pyro-core"]), ["pyro-oci: must not depend on pyro-core"]);
    assert_eq!(found(&["pyro-cli -> pyro-vmm"]), ["pyro-cli: must not depend on pyro-vmm"]);
}

#[test]
fn tokio_is_found_through_other_crates_but_not_through_tests() {
    assert_eq!(found(&["pyro-vmm -> a", "a -> tokio"]), ["pyro-vmm: tokio is among its dependencies"]);
    assert_eq!(found(&["pyro-vmm ~> tokio", "pyro-oci -> tokio"]), [""; 0]);
}

#[test]
fn two_versions_of_a_shared_crate_are_found() {
    let edges = ["pyro-vmm -> vm-memory@0.17", "pyro-vmm -> vm-memory@0.18"];
    assert_eq!(found(&edges), ["vm-memory: 2 versions in Cargo.lock, one must do"]);
}

#[test]
fn metadata_becomes_a_graph() {
    let json = r#"{
        "packages": [
            {"id": "v", "name": "pyro-vmm", "dependencies": [{"name": "libc"}, {"name": "pyro-agent"}]},
            {"id": "c", "name": "libc", "dependencies": []},
            {"id": "a", "name": "pyro-agent", "dependencies": [{"name": "tokio"}]},
            {"id": "t", "name": "tokio", "dependencies": []}
        ],
        "workspace_members": ["v", "a"],
        "resolve": {"nodes": [
            {"id": "v", "deps": [{"pkg": "c", "dep_kinds": [{"kind": null}]}]},
            {"id": "a", "deps": [{"pkg": "t", "dep_kinds": [{"kind": "dev"}, {"kind": "build"}]}]}
        ]}
    }"#;
    let graph = Graph::parse(json).unwrap();
    assert_eq!(graph.direct_dependencies(), ["libc", "tokio"].map(str::to_owned).into());
    let found: Vec<_> = check(&graph).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["pyro-vmm: must not depend on pyro-agent", "pyro-agent: tokio is among its dependencies"]
    );
    assert!(Graph::parse("{}").is_err());
}
