use super::*;
use crate::store::NewSnapshot;
use crate::store::tests::Fixture;
use std::collections::BTreeSet;
use std::time::Duration;

const DISK_BYTES: u64 = 1 << 24;

/// A workspace whose two lowest layers of its own serve one purpose, with their files.
fn mergeable(fixture: &Fixture) -> Places {
    let places = Places::new(fixture.directory.path());
    create_private_dir(&places.layers()).unwrap();
    let id = fixture.workspace(1, 0);
    for name in ["a", "b"] {
        let snapshot = NewSnapshot { name: name.to_owned(), entry_count: 0, bytes_written: 0 };
        let new = LayerId::from_bytes(random().unwrap());
        let old = fixture.get(id).unwrap().top_layer;
        fixture.seal_and_push(id, Some(&snapshot), old, new, 0).unwrap();
    }
    let mut below: Option<File> = None;
    for layer in fixture.chain(fixture.get(id).unwrap().top_layer).unwrap() {
        let file =
            File::options().read(true).write(true).create_new(true).open(places.layer(layer.id)).unwrap();
        block::create_delta(&file, below.as_ref(), DISK_BYTES).unwrap();
        block::seal(&File::options().read(true).write(true).open(places.layer(layer.id)).unwrap()).unwrap();
        below = Some(file);
    }
    fixture.delete_snapshot(id, "a", 0).unwrap();
    places
}

fn files(places: &Places) -> BTreeSet<PathBuf> {
    std::fs::read_dir(places.layers()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn recorded(fixture: &Fixture, places: &Places) -> BTreeSet<PathBuf> {
    fixture.layers().unwrap().iter().map(|layer| places.layer(layer.id)).collect()
}

#[tokio::test]
async fn two_layers_become_one_file() {
    let fixture = Fixture::new();
    let places = mergeable(&fixture);
    let before = files(&places);
    merge(&fixture, &places).await.unwrap();
    assert_eq!(files(&places), recorded(&fixture, &places));
    assert_eq!(files(&places).len(), before.len() - 1);
    assert_eq!(files(&places).difference(&before).count(), 1);
}

#[tokio::test]
async fn layers_are_copied_while_others_make_and_open_some() {
    let fixture = Fixture::new();
    let places = mergeable(&fixture);
    let before = files(&places);
    let opening = FileLock::take(&places.layers_lock(), Hold::Shared).unwrap();
    let merging = merge(&fixture, &places);
    let others = async {
        while files(&places).is_subset(&before) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The new layer is there and nobody was sent away; the old ones stay for those who open them.
        assert!(files(&places).is_superset(&before));
        drop(opening);
    };
    let (merged, ()) =
        tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(merging, others) }).await.unwrap();
    merged.unwrap();
    assert_eq!(files(&places), recorded(&fixture, &places));
    assert_eq!(files(&places).len(), before.len() - 1);
}

#[tokio::test]
async fn of_two_who_merge_the_same_layers_one_does() {
    let fixture = Fixture::new();
    let places = mergeable(&fixture);
    let before = files(&places);
    let again = fixture.again();
    let (one, other) = tokio::join!(merge(&fixture, &places), merge(&again, &places));
    one.unwrap();
    other.unwrap();
    // Of the other's layer its name may be left, for the next who looks.
    garbage::collect_layers(&fixture, &places).unwrap();
    assert_eq!(files(&places), recorded(&fixture, &places));
    assert_eq!(files(&places).len(), before.len() - 1);
}
