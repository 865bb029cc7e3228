use std::collections::HashSet;

use super::*;
use crate::artifact::{ArtifactContents, EnvironmentMetadata, write_layout};
use crate::progress::Silent;

struct Scratch {
    dir: tempfile::TempDir,
    store: Store,
}

const DEBIAN: &CatalogEntry = &CATALOG[0];

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig::new(dir.path().join("cache")));
        Self { dir, store }
    }

    fn layout(&self) -> PathBuf {
        let path = |name: &str| self.dir.path().join(name);
        fs::write(path("kernel"), b"kernel").unwrap();
        fs::write(path("disk"), vec![5; 70_000]).unwrap();
        let environment = EnvironmentMetadata {
            environment: "debian:12".into(),
            version: "1.0.0".into(),
            ..Default::default()
        };
        let contents = ArtifactContents {
            kernel: &path("kernel"),
            rootfs: &path("disk"),
            environment: &environment,
            compression_level: 1,
        };
        write_layout(&contents, &path("layout")).unwrap();
        path("layout")
    }

    async fn install(&self) -> Installed {
        self.store.install_from_layout(DEBIAN, &self.layout(), Arc::new(Silent)).await.unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.store.platform_dir())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| ![".locks", ".downloads", ".images"].contains(&&**n))
            .collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn a_layout_is_installed_where_the_contract_says() {
    let scratch = Scratch::new();
    let reference = Reference::Catalog(DEBIAN);
    assert!(scratch.store.installed(&reference).is_none());
    assert!(!scratch.store.inspect(&reference).installed);
    let installed = scratch.install().await;
    let dir = scratch.dir.path().join("cache/linux-x86_64/debian_12-1.0.0");
    assert_eq!(installed.install_dir, dir);
    assert_eq!(installed.kernel, Some(dir.join("vmlinux")));
    assert_eq!(fs::read(&installed.rootfs).unwrap(), vec![5; 70_000]);
    assert_eq!(scratch.names(), ["debian_12-1.0.0"]);
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("environment.json")).unwrap()).unwrap();
    assert_eq!(
        (&json["name"], &json["version"], &json["catalog_version"]),
        (&"debian:12".into(), &"1.0.0".into(), &"2.10.0".into())
    );
    assert!(json["installed_at"].as_u64().unwrap() > 1_600_000_000);
    assert!(scratch.store.list().iter().eq([&installed]));
    assert_eq!(scratch.store.pull(&reference, Arc::new(Silent)).await.unwrap(), installed, "nobody is asked");
    let inspection = serde_json::to_value(scratch.store.inspect(&reference)).unwrap();
    assert_eq!(inspection["installed"], true);
    assert_eq!(inspection["oci_registry"], "registry-1.docker.io");
    assert_eq!(inspection["rootfs_image"], dir.join("rootfs.ext4").to_str().unwrap());
}

#[tokio::test]
async fn damage_reads_as_not_installed_and_is_repaired() {
    let scratch = Scratch::new();
    let reference = Reference::Catalog(DEBIAN);
    for damage in ["vmlinux", "rootfs.ext4", "environment.json"] {
        let installed = scratch.install().await;
        let path = installed.install_dir.join(damage);
        fs::remove_file(&path).unwrap();
        assert!(scratch.store.installed(&reference).is_none(), "{damage} removed");
        scratch.install().await;
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{").unwrap();
        assert!(scratch.store.installed(&reference).is_none(), "{damage} cut");
        scratch.install().await;
        assert!(scratch.store.installed(&reference).is_some());
        assert_eq!(scratch.names(), ["debian_12-1.0.0"]);
    }
}

#[tokio::test]
async fn prune_removes_wreckage_and_spares_work_and_installations() {
    let scratch = Scratch::new();
    scratch.install().await;
    let platform = scratch.store.platform_dir();
    fs::create_dir(platform.join(".partial-dead")).unwrap();
    fs::create_dir(platform.join("debian_12-0.9.0")).unwrap();
    let kept = platform.join("kept-for-a-workspace");
    fs::create_dir(&kept).unwrap();
    let working = lock::PartialDir::create(&platform, "x").unwrap();
    let keep = HashSet::from(["kept-for-a-workspace".to_owned()]);
    let pruned = scratch.store.prune(&keep).unwrap();
    assert_eq!(pruned.directories, [".partial-dead", "debian_12-0.9.0"]);
    assert!(working.path().exists() && kept.exists());
    drop(working);
    assert_eq!(scratch.names(), ["debian_12-1.0.0", "kept-for-a-workspace"]);
    assert_eq!(scratch.store.prune(&keep).unwrap(), Pruned::default());
}

#[test]
fn an_abandoned_directory_cannot_be_taken_while_it_is_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = lock::PartialDir::create(scratch.path(), "x").unwrap();
    assert!(lock::PartialDir::abandoned(dir.path()).is_none(), "somebody works there");
    let path = scratch.path().join(".partial-dead");
    fs::create_dir(&path).unwrap();
    let held = lock::PartialDir::abandoned(&path).unwrap();
    assert!(lock::PartialDir::abandoned(&path).is_none(), "somebody removes it");
    drop(held);
    assert!(lock::PartialDir::abandoned(&path).is_some());
    fs::remove_dir(&path).unwrap();
    assert!(lock::PartialDir::abandoned(&path).is_none());
}

fn image_plan(name: &str, diff_id: Digest) -> install::Plan {
    install::Plan {
        reference: name.parse().unwrap(),
        source: "test".into(),
        source_digest: diff_id,
        config: ImageConfig::default(),
        diff_ids: vec![diff_id],
        kind: install::Kind::Image,
    }
}

#[tokio::test]
async fn an_image_that_is_here_cannot_be_pruned_before_its_other_name_has_it() {
    let scratch = Scratch::new();
    let mut layer = Vec::new();
    crate::tarball::write_file(&mut layer, "a", 5, &mut &b"hello"[..]).unwrap();
    crate::tarball::write_end(&mut layer, 0).unwrap();
    let file = scratch.dir.path().join("layer");
    fs::write(&file, &layer).unwrap();
    let diff_id = Digest::of(&layer);
    let first = image_plan("localhost/first:1", diff_id);
    let second = image_plan("localhost/second:1", diff_id);
    scratch.store.make_dir(&scratch.store.platform_dir()).unwrap();
    assert!(scratch.store.link_image(&first).unwrap().is_none());
    let layers =
        vec![crate::flatten::LayerSource { file: fs::File::open(file).unwrap(), diff_id: Some(diff_id) }];
    let work = crate::flatten::Work::default();
    let installed = scratch.store.install(&first, install::Contents::Layers(layers), &work).unwrap();
    let written = data_bytes(&installed.rootfs);

    let linked = scratch.store.link_image(&second).unwrap().unwrap();
    assert!(scratch.store.remove(&first.reference).await.unwrap());
    scratch.store.prune(&HashSet::new()).unwrap();
    let installed = scratch.store.install(&second, install::Contents::Linked(linked), &work).unwrap();
    assert_eq!(data_bytes(&installed.rootfs), written, "the whole image");
    assert!(scratch.store.remove(&second.reference).await.unwrap());
    assert!(scratch.store.link_image(&first).unwrap().is_none());
    assert_eq!(scratch.names(), Vec::<String>::new());
}

fn data_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks() * 512
}

#[tokio::test]
async fn remove_takes_one_environment_away() {
    let scratch = Scratch::new();
    let reference = Reference::Catalog(DEBIAN);
    assert!(!scratch.store.remove(&reference).await.unwrap());
    scratch.install().await;
    assert!(scratch.store.remove(&reference).await.unwrap());
    assert!(scratch.store.installed(&reference).is_none());
    assert_eq!(scratch.names(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dropped_pull_leaves_no_partial_directory() {
    let scratch = Scratch::new();
    let layout = scratch.layout();
    for polls in 0..6 {
        let mut pull = Box::pin(scratch.store.install_from_layout(DEBIAN, &layout, Arc::new(Silent)));
        for _ in 0..polls {
            let _ = futures_util::poll!(&mut pull);
            tokio::task::yield_now().await;
        }
        drop(pull);
        // The lock is free again as soon as the future is gone; the work ends at its next step.
        let installed = scratch.store.install_from_layout(DEBIAN, &layout, Arc::new(Silent)).await.unwrap();
        assert!(installed.rootfs.exists());
    }
    tokio::task::spawn_blocking(|| {}).await.unwrap();
    scratch.store.sweep().unwrap();
    assert_eq!(scratch.names(), ["debian_12-1.0.0"]);
}

#[tokio::test]
async fn another_process_that_installs_is_waited_for_and_its_death_frees_the_lock() {
    let scratch = Scratch::new();
    let layout = scratch.layout();
    let lock = scratch.store.lock_path("debian_12-1.0.0");
    scratch.store.make_dir(lock.parent().unwrap()).unwrap();
    let holder = std::process::Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo held; read never"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut holder) = holder else {
        println!("skipped (no flock on this machine)");
        return;
    };
    let mut said = [0; 5];
    io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let store = scratch.store.clone();
    let (sender, waiting) = tokio::sync::oneshot::channel();
    let progress = Arc::new(Waiting(std::sync::Mutex::new(Some(sender))));
    let pull = tokio::spawn(async move { store.install_from_layout(DEBIAN, &layout, progress).await });
    waiting.await.unwrap();
    assert_eq!(scratch.store.prune(&HashSet::new()).unwrap().directories, Vec::<String>::new());
    drop(holder.stdin.take());
    holder.wait().unwrap();
    pull.await.unwrap().unwrap();
    assert!(!lock.exists(), "the last owner removes the file");
}

struct Waiting(std::sync::Mutex<Option<tokio::sync::oneshot::Sender<()>>>);

impl crate::Progress for Waiting {
    fn phase(&self, phase: crate::Phase) {
        if phase == crate::Phase::Waiting {
            self.0.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    }
    fn blob(&self, _: &Digest, _: u64, _: u64) {}
    fn unpacked(&self, _: u64) {}
    fn retry(&self, _: &str) {}
}

#[test]
fn directory_names_tell_images_apart() {
    let dir = |text: &str| dir_name(&text.parse().unwrap());
    assert_eq!(dir("debian:12-base"), "debian_12-base-1.0.0");
    let python = dir("docker.io/library/python:3.12");
    assert!(python.starts_with("docker.io_library_python_3.12-"), "{python}");
    assert_ne!(python, dir("docker.io/library/python_3.12"));
    assert!(dir(&format!("docker.io/{}", "a/".repeat(100) + "b")).len() < 200);
}

#[test]
fn records_of_earlier_versions_can_be_read() {
    let record = r#"{"catalog_version":"2.10.0","name":"debian:12","version":"1.0.0","source":"oci://x","source_digest":null,"installed_at":1}"#;
    let record: InstallManifest = serde_json::from_str(record).unwrap();
    assert_eq!((record.rootfs_digest, record.installed_at), (None, 1));
}

/// Front ends run pulls on runtimes with several threads.
#[test]
fn a_pull_can_move_between_threads() {
    let scratch = Scratch::new();
    let (store, reference) = (&scratch.store, &Reference::Catalog(DEBIAN));
    fn check(_: impl Send) {}
    check(store.pull(reference, Arc::new(Silent)));
    check(store.install_from_layout(DEBIAN, Path::new("x"), Arc::new(Silent)));
    check(store.remove(reference));
}
