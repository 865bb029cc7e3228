use super::*;
use crate::authorities::{Authorities, AuthoritySource};
use crate::network::NetworkUpdate;
use crate::store::SeedOrigin;
use std::os::unix::ffi::OsStrExt;

fn labelled(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn renamed(name: &str) -> WorkspaceUpdate {
    WorkspaceUpdate { name: Some(NameChange::Set(name.to_owned())), ..WorkspaceUpdate::default() }
}

fn authorities() -> Authorities {
    let source = AuthoritySource { source: "/ca.pem".to_owned(), count: 1 };
    Authorities::stored(vec![source], "-----BEGIN CERTIFICATE-----".to_owned())
}

fn seed_of_a_clone() -> Seed {
    Seed {
        mode: SeedMode::Directory,
        seed_path: Some("./repo".into()),
        origin: Some(SeedOrigin { origin_kind: "repo_url".to_owned(), origin_ref: "u at r".to_owned() }),
        ..new_workspace(1).seed
    }
}

#[test]
fn a_workspace_is_read_as_it_was_made() {
    let fixture = Fixture::new();
    let new = NewWorkspace {
        name: Some(" repo ".to_owned()),
        labels: labelled(&[("owner", "me"), ("issue", "7")]),
        base_rootfs: std::ffi::OsStr::from_bytes(b"/cache/\xff.ext4").into(),
        kernel: Some("/cache/vmlinux".into()),
        disk_mib: Some(512),
        network_policy: NetworkPolicy::EgressAndPublishedPorts,
        network_rules: NetworkRules {
            deny: vec!["*.bad.example:443".parse().unwrap()],
            egress_limit_bytes: Some(1 << 40),
            ..Default::default()
        },
        uses_host_proxy: true,
        authorities: authorities(),
        image: ImageDefaults {
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: Some("/src".to_owned()),
            user: None,
        },
        seed: seed_of_a_clone(),
        secrets: vec![
            SecretRecord { name: "B".to_owned(), source_kind: SecretSource::File },
            SecretRecord { name: "A".to_owned(), source_kind: SecretSource::Literal },
        ],
        ..new_workspace(1)
    };
    fixture.begin_create(&new, 1000).unwrap();
    let creating = fixture.get(new.id).unwrap();
    assert_eq!((creating.state, creating.top_layer), (WorkspaceState::Creating, layer(10)));
    let created = Created {
        entry_count: 3,
        bytes_written: 40,
        baseline: NewBaseline::SealTop(layer(11)),
        state: WorkspaceState::Started,
    };
    let workspace = fixture.finish_create(new.id, &created, 2000).unwrap();
    let expected = Workspace {
        id: new.id,
        name: Some("repo".to_owned()),
        labels: new.labels.clone(),
        environment: new.environment.clone(),
        environment_version: new.environment_version.clone(),
        base_key: new.base_key.clone(),
        base_rootfs: new.base_rootfs.clone(),
        kernel: new.kernel.clone(),
        vcpu_count: 1,
        mem_mib: 1024,
        disk_mib: Some(512),
        ttl_seconds: 600,
        network_policy: new.network_policy,
        network_rules: new.network_rules.clone(),
        uses_host_proxy: true,
        authorities: new.authorities.sources().to_vec(),
        image: new.image.clone(),
        seed: Seed { entry_count: 3, bytes_written: 40, ..new.seed.clone() },
        secrets: vec![new.secrets[1].clone(), new.secrets[0].clone()],
        top_layer: layer(11),
        state: WorkspaceState::Started,
        stop_reason: None,
        created_at: 1000,
        last_activity_at: 2000,
        expires_at: Some(2000 + TTL),
        reset_count: 0,
        last_reset_at: None,
        next_sequence: 1,
    };
    assert_eq!(workspace, expected);
    assert_eq!(fixture.get(new.id).unwrap(), expected);
    assert_eq!(fixture.list().unwrap(), [Ok(expected)]);
    assert_eq!(fixture.authorities(new.id).unwrap(), new.authorities);
    let fewer = fixture.set_authorities(new.id, &Authorities::default(), 3000).unwrap();
    assert_eq!((fewer.authorities, fixture.authorities(new.id).unwrap().count()), (vec![], 0));
    let baseline = fixture.snapshot(new.id, "baseline").unwrap();
    assert_eq!((baseline.kind, baseline.layer), (SnapshotKind::Baseline, layer(10)));
    assert_eq!((baseline.entry_count, baseline.bytes_written), (3, 40));
    assert_eq!(fixture.rules(), []);
}

#[test]
fn a_refused_creation_leaves_nothing() {
    let fixture = Fixture::new();
    let secret = |name: &str| SecretRecord { name: name.to_owned(), source_kind: SecretSource::Literal };
    let new = NewWorkspace { secrets: vec![secret("A"), secret("A")], ..new_workspace(1) };
    assert_eq!(text(fixture.begin_create(&new, 0)), "duplicate secret name: A");
    let new = NewWorkspace { name: Some(String::new()), ..new_workspace(1) };
    assert_eq!(text(fixture.begin_create(&new, 0)), "name must not be empty");
    let new = NewWorkspace { parent: Some(layer(77)), ..new_workspace(1) };
    assert_eq!(text(fixture.begin_create(&new, 0)), format!("layer {} does not exist", layer(77)));
    assert_eq!(fixture.list().unwrap(), []);
    assert_eq!(fixture.layers().unwrap(), []);
}

#[test]
fn an_id_or_a_layer_in_use_is_not_given_again() {
    let fixture = Fixture::new();
    fixture.workspace(1, 0);
    assert_eq!(text(fixture.begin_create(&new_workspace(1), 0)), "workspace '010101010101' already exists");
    let new = NewWorkspace { top_layer: layer(10), ..new_workspace(2) };
    assert_eq!(text(fixture.begin_create(&new, 0)), format!("layer {} already exists", layer(10)));
}

#[test]
fn the_last_used_is_listed_first() {
    let fixture = Fixture::new();
    for (number, now) in [(3, 10), (1, 10), (2, 10), (4, 20), (5, 5)] {
        fixture.workspace(number, now);
    }
    fixture.touch(id(5), 30).unwrap();
    let listed: Vec<_> = fixture.list().unwrap().into_iter().map(|one| one.unwrap().id).collect();
    assert_eq!(listed, [id(5), id(4), id(1), id(2), id(3)]);
}

#[test]
fn an_update_that_changes_nothing_is_refused() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let nothing = "workspace update requested no effective metadata change";
    assert_eq!(text(fixture.update(id, &WorkspaceUpdate::default(), 9)), nothing);
    fixture.update(id, &renamed("a"), 10).unwrap();
    assert_eq!(text(fixture.update(id, &renamed(" a "), 20)), nothing);
    let clear = WorkspaceUpdate { clear_labels: BTreeSet::from(["no".to_owned()]), ..Default::default() };
    assert_eq!(text(fixture.update(id, &clear, 20)), nothing);
    assert_eq!(fixture.get(id).unwrap().last_activity_at, 10);
}

#[test]
fn an_update_changes_what_it_names() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let update = WorkspaceUpdate { labels: labelled(&[("a", "1"), ("b", "2")]), ..renamed("one") };
    fixture.update(id, &update, 10).unwrap();
    let update = WorkspaceUpdate {
        name: NameChange::from_request(None, true).unwrap(),
        labels: labelled(&[("b", "3")]),
        clear_labels: BTreeSet::from(["a".to_owned()]),
        ..Default::default()
    };
    let workspace = fixture.update(id, &update, 20).unwrap();
    assert_eq!((workspace.name, workspace.labels), (None, labelled(&[("b", "3")])));
    assert_eq!((workspace.last_activity_at, workspace.expires_at), (20, Some(20 + TTL)));
    let both = NameChange::from_request(Some("x".to_owned()), true).unwrap_err();
    assert_eq!(both.to_string(), "name and clear_name cannot be used together");
}

#[test]
fn an_update_of_the_network_changes_policy_and_rules_together_or_neither() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let list = |text: &str| NetworkRules { allow: vec![text.parse().unwrap()], ..Default::default() };
    let update = |policy, add| WorkspaceUpdate {
        network: NetworkUpdate { policy, add, ..Default::default() },
        ..Default::default()
    };
    let refused = text(fixture.update(id, &update(None, list("a.example")), 10));
    assert_eq!(refused, "network rules that allow something need a network policy other than off");
    let opened = fixture.update(id, &update(Some(NetworkPolicy::Egress), list("a.example")), 10).unwrap();
    assert_eq!((opened.network_policy, &opened.network_rules), (NetworkPolicy::Egress, &list("a.example")));
    let closed = fixture.update(id, &update(Some(NetworkPolicy::Off), Default::default()), 20).unwrap();
    assert_eq!((closed.network_policy, closed.network_rules), (NetworkPolicy::Off, list("a.example")));
    let same = update(Some(NetworkPolicy::Off), Default::default());
    assert_eq!(
        text(fixture.update(id, &same, 30)),
        "workspace update requested no effective metadata change"
    );
}

#[test]
fn an_address_is_an_id_then_a_name_then_a_beginning() {
    let fixture = Fixture::new();
    let (a, b, c) = (WorkspaceId::from_bytes([0xab; 6]), WorkspaceId::from_bytes([0xac; 6]), id(3));
    for (number, id, name) in [(1, a, "acacacacacac"), (2, b, "twin"), (3, c, "twin")] {
        create(&fixture, NewWorkspace { id, name: Some(name.to_owned()), ..new_workspace(number) }, 0);
    }
    assert_eq!(fixture.resolve("acacacacacac").unwrap(), b);
    assert_eq!(fixture.resolve(" abab ").unwrap(), a);
    assert_eq!(fixture.resolve("0").unwrap(), c);
    let ambiguous = "workspace 'a' is ambiguous: abababababab (acacacacacac), acacacacacac (twin)";
    assert_eq!(text(fixture.resolve("a")), ambiguous);
    assert_eq!(
        text(fixture.resolve("twin")),
        "workspace 'twin' is ambiguous: 030303030303 (twin), acacacacacac (twin)"
    );
    for nothing in ["", "f", "AB", "%", "ababababababa"] {
        assert_eq!(text(fixture.resolve(nothing)), format!("workspace '{nothing}' does not exist"));
    }
    assert_eq!(text(fixture.resolve("\u{1b}")), "workspace '\\u{1b}' does not exist");
    assert_eq!(fixture.names().unwrap().len(), 3);
}

#[test]
fn many_candidates_are_told_in_part() {
    let fixture = Fixture::new();
    for number in 1..=8 {
        fixture.workspace(number, 0);
    }
    assert!(text(fixture.resolve("0")).ends_with("050505050505, 3 more"));
}
