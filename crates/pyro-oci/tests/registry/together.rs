//! Pulls, removals and prunes of one cache at the same time, as of many processes: all they share is the
//! directory.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use super::*;

/// Pulls that each name gets through while others take it away again.
const PULLS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn pulls_removals_and_prunes_do_not_disturb_each_other() {
    let layer = |path: &str| {
        let plain = tar(&[(path, &vec![5; 200_000])]);
        (plain.clone(), gzip(&plain))
    };
    let server = mostly_honest(Arc::new(image(&[layer("a"), layer("b")])), |_| None);
    let cache = Arc::new(Cache::new());
    // Three names of one image, so that they share downloads and the flattened file.
    let names: Vec<Reference> =
        (0..3).map(|i| format!("{}/some/image{i}:v1", server.address).parse().unwrap()).collect();
    let pullers: Vec<_> = names
        .iter()
        .map(|name| {
            let (cache, name) = (Arc::clone(&cache), name.clone());
            tokio::spawn(async move {
                for _ in 0..PULLS {
                    let installed = pull(&cache, &name).await.unwrap();
                    // Removed meanwhile, it is gone as a whole; otherwise it is whole.
                    let there = std::fs::metadata(&installed.rootfs);
                    assert!(there.map_or(true, |file| file.blocks() * 512 > 400_000), "an empty image");
                    cache.store().remove(&name).await.unwrap();
                }
            })
        })
        .collect();
    let over = Over::default();
    let (pruned, stop) = (Arc::clone(&cache), Arc::clone(&over.0));
    let pruner = tokio::task::spawn_blocking(move || {
        while !stop.load(Ordering::Relaxed) {
            pruned.store().prune(&Default::default()).unwrap();
        }
    });
    for puller in pullers {
        puller.await.unwrap();
    }
    drop(over);
    pruner.await.unwrap();
    cache.store().prune(&Default::default()).unwrap();
    assert_eq!(cache.files(), Vec::<String>::new());
}

/// Ends the pruning, also when the test fails.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
