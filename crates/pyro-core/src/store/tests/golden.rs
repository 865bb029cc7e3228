//! Databases of every released form, as their pyro wrote them.

use super::*;
use serde_json::json;

const V1: &str = include_str!("golden/v1.sql");

/// Everything that tells how the database is laid out.
fn schema(store: &StateStore) -> Vec<(String, String)> {
    let connection = store.lock();
    let mut select = connection
        .prepare(
            "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name",
        )
        .unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

fn open(golden: &str) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    Connection::open(&path).unwrap().execute_batch(golden).unwrap();
    let store = StateStore::open(&path).unwrap();
    Fixture { directory, store }
}

/// What the golden databases hold: one workspace with all there can be, a fork of it, one that expired.
fn fill(store: &StateStore) {
    let secret = |name: &str, source_kind| SecretRecord { name: name.to_owned(), source_kind };
    let new = NewWorkspace {
        name: Some("repo".to_owned()),
        labels: BTreeMap::from([("owner".to_owned(), "me".to_owned())]),
        kernel: Some("/cache/vmlinux".into()),
        disk_mib: Some(512),
        network_policy: NetworkPolicy::EgressAndPublishedPorts,
        image: ImageDefaults {
            env: vec![("PATH".to_owned(), "/bin".to_owned())],
            cwd: Some("/src".to_owned()),
            user: Some("dev".to_owned()),
        },
        seed: Seed {
            mode: SeedMode::TarArchive,
            seed_path: Some("./repo.tar".into()),
            ..new_workspace(1).seed
        },
        secrets: vec![secret("FILE", SecretSource::File), secret("TOKEN", SecretSource::Literal)],
        ..new_workspace(1)
    };
    create(store, new, 1000);
    store.seal_and_push(id(1), Some(&snapshot("checkpoint")), first_top(1), layer(50), 2000).unwrap();
    store.reset(&store.snapshot(id(1), "checkpoint").unwrap(), layer(51), 3000).unwrap();
    let key = store.begin_command(id(1), &command("make"), 4000).unwrap();
    let output = CommandOutput { stderr: b"e\xff".to_vec(), stderr_truncated: true, ..printed(b"o\n") };
    store.finish_command(key, CommandOutcome::Exited(2), 150, &output, 4150).unwrap();
    store.begin_command(id(1), &NewCommand { detached: true, ..command("serve") }, 5000).unwrap();
    store.record_event(id(1), EventKind::Exec, &json!({ "sequence": 1 }), 5100).unwrap();
    store
        .begin_create(&NewWorkspace { parent: Some(first_top(1)), ttl_seconds: 0, ..new_workspace(2) }, 6000)
        .unwrap();
    create(store, NewWorkspace { name: Some("old".to_owned()), ..new_workspace(3) }, 6500);
    store.delete(id(3), Departure::Expired, 7000).unwrap();
}

/// All that can be read, in one text.
fn contents(store: &StateStore) -> String {
    let one = |id| {
        let commands = store.commands(id).unwrap();
        let outputs: Vec<_> = commands.iter().map(|one| store.output(one.key).unwrap()).collect();
        format!(
            "{commands:#?}\n{outputs:?}\n{:#?}\n{:#?}",
            store.snapshots(id).unwrap(),
            store.events(id).unwrap()
        )
    };
    format!(
        "{:#?}\n{}\n{}\n{:#?}\n{:#?}",
        store.list().unwrap(),
        one(id(1)),
        one(id(2)),
        store.layers().unwrap(),
        store.tombstones().unwrap()
    )
}

#[test]
fn a_database_of_version_1_is_read_in_full() {
    let old = open(V1);
    let new = Fixture::new();
    fill(&new);
    assert_eq!(contents(&old), contents(&new));
    assert_eq!(old.rules(), []);
    assert_eq!(text(old.resolve("old")), "workspace 'old' expired and was automatically deleted");
    assert_eq!(old.begin_command(id(1), &command("next"), 8000).unwrap().sequence, 3);
}

#[test]
fn a_database_of_version_1_takes_services_once_it_is_opened() {
    let old = open(V1);
    assert_eq!(old.services(id(1)).unwrap(), []);
    let new = NewService { name: "web", command: "serve", cwd: "/", spec: "{}", autostart: true, pid: 7 };
    old.begin_service(id(1), &new, 8000).unwrap();
    assert_eq!(old.again().service(id(1), "web").unwrap().state, ServiceState::Starting);
    assert_eq!(old.rules(), []);
}

#[test]
fn a_database_of_any_version_gets_the_layout_of_a_new_one() {
    assert_eq!(schema(&open(V1)), schema(&Fixture::new()));
}

/// For a new version: `PYRO_TEST_GOLDEN=state.db cargo test -p pyro-core --lib -- --ignored golden`, then
/// `sqlite3 state.db .dump` and the values of `application_id` and `user_version`.
#[test]
#[ignore = "writes the database that a golden one is made from"]
fn the_golden_database_is_written() {
    let path = std::env::var_os("PYRO_TEST_GOLDEN").expect("PYRO_TEST_GOLDEN names the file to write");
    fill(&StateStore::open(Path::new(&path)).unwrap());
}
