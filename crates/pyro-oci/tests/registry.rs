//! Pulling and pushing over HTTP: against Debian's registry, and against servers that lie.

// The modules beside this file are test code too, which the lints cannot know.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "registry/docker.rs"]
mod docker;
#[path = "registry/images.rs"]
mod images;
#[path = "registry/lying.rs"]
mod lying;
#[path = "registry/secrets.rs"]
mod secrets;
#[path = "registry/together.rs"]
mod together;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyro_oci::artifact::{ArtifactContents, EnvironmentMetadata, write_layout};
use pyro_oci::registry::push_layout;
use pyro_oci::*;

use docker::DockerRegistry;
use images::{Image, gzip, image, tar};
use lying::{Answer, Asked, Server};

struct Cache {
    dir: tempfile::TempDir,
    config: StoreConfig,
}

impl Cache {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = StoreConfig::new(dir.path().join("cache"));
        config.registry.timing = Timing {
            connect: Duration::from_secs(5),
            stall: Duration::from_millis(400),
            request: Duration::from_secs(10),
            backoff: Duration::from_millis(5),
        };
        Self { dir, config }
    }

    fn store(&self) -> Store {
        Store::open(self.config.clone())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Everything in the cache that is a file, without locks.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.path("cache")];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => pending.push(entry.path()),
                    false => found.push(entry.file_name().into_string().unwrap()),
                }
            }
        }
        found.sort();
        found
    }
}

fn reference(server: &Server) -> Reference {
    format!("{}/some/image:v1", server.address).parse().unwrap()
}

async fn pull(cache: &Cache, reference: &Reference) -> Result<Installed, PullError> {
    cache.store().pull(reference, Arc::new(Silent)).await
}

/// A registry that serves `image` honestly wherever `lie` says nothing.
fn mostly_honest(
    image: Arc<Image>,
    lie: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
) -> Server {
    Server::start(move |asked| {
        lie(asked).unwrap_or_else(|| match image.answer(&asked.path) {
            Some(bytes) => Answer::new(200, bytes),
            None => Answer::new(404, "{}"),
        })
    })
}

fn is_layer(image: &Image, asked: &Asked) -> bool {
    image.layers.iter().any(|layer| asked.path.ends_with(&layer.to_string()))
}

fn debugfs(image: &Path, request: &str) -> Option<String> {
    let output = Command::new("/usr/sbin/debugfs").args(["-R", request]).arg(image).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn check_file_system(image: &Path) {
    let Ok(output) = Command::new("/usr/sbin/e2fsck").arg("-fn").arg(image).output() else {
        assert!(!std::env::var("PYRO_REQUIRE").is_ok_and(|r| r.contains("e2fsprogs")), "no e2fsck");
        println!("skipped (no e2fsck on this machine)");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn artifact(dir: &Path) -> PathBuf {
    let path = |name: &str| dir.join(name);
    std::fs::write(path("kernel"), vec![1; 100_000]).unwrap();
    std::fs::write(path("disk"), vec![2; 3_000_000]).unwrap();
    let environment = EnvironmentMetadata {
        environment: "debian:12".into(),
        version: "1.0.0".into(),
        ..Default::default()
    };
    let contents = ArtifactContents {
        kernel: &path("kernel"),
        rootfs: &path("disk"),
        environment: &environment,
        compression_level: 3,
    };
    write_layout(&contents, &path("layout")).unwrap();
    path("layout")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_is_pushed_pulled_by_a_mirror_and_kept_without_a_registry() {
    let Some(registry) = DockerRegistry::start() else { return };
    let mut cache = Cache::new();
    let layout = artifact(cache.dir.path());
    let target = format!("{}/thalesmaciel/pyro-environment-debian-12:1.0.0", registry.host);
    let target = ImageReference::parse(&target).unwrap();
    let digest = push_layout(&cache.config.registry, &layout, &target, Arc::new(Silent)).await.unwrap();
    let again = push_layout(&cache.config.registry, &layout, &target, Arc::new(Silent)).await.unwrap();
    assert_eq!(digest, again);

    cache.config.registry.mirrors = vec![Mirror { registry: None, endpoint: registry.host.clone() }];
    let debian: Reference = "debian:12".parse().unwrap();
    let phases = Arc::new(Phases::default());
    let installed = cache.store().pull(&debian, phases.clone()).await.unwrap();
    assert_eq!(phases.0.lock().unwrap()[..], [Phase::Resolve, Phase::Download, Phase::Unpack, Phase::Ready]);
    assert_eq!(std::fs::read(&installed.rootfs).unwrap(), vec![2; 3_000_000]);
    assert_eq!(std::fs::read(installed.kernel.as_ref().unwrap()).unwrap(), vec![1; 100_000]);
    let source = format!("oci://registry-1.docker.io/thalesmaciel/pyro-environment-debian-12@{digest}");
    assert_eq!(installed.record.source, source);
    assert_eq!(cache.files(), ["environment.json", "rootfs.ext4", "vmlinux"], "downloads are gone");
    registry.stop();
    assert_eq!(pull(&cache, &debian).await.unwrap(), installed);

    std::fs::remove_file(&installed.rootfs).unwrap();
    cache.config.registry.proxy = Some("http://127.0.0.1:1".into());
    let error = pull(&cache, &debian).await.unwrap_err();
    assert!(matches!(&error, PullError::Registry(RegistryError::AfterMirror { .. })), "{error}");
    assert_eq!(error.fault(), Fault::Remote);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.starts_with("failed to fetch OCI resource https://registry-1.docker.io"), "{cause}");
    assert!(!error.to_string().contains(&cause), "the cause is told once: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_refused() {
    let mut cache = Cache::new();
    let Some(registry) = DockerRegistry::start_tls(cache.dir.path()) else { return };
    let endpoint = format!("https://{}", registry.host);
    cache.config.registry.mirrors = vec![Mirror { registry: None, endpoint }];
    cache.config.registry.proxy = Some("http://127.0.0.1:1".into());
    let error = pull(&cache, &"debian:12".parse().unwrap()).await.unwrap_err();
    let PullError::Registry(RegistryError::AfterMirror { mirror_error, .. }) = error else {
        panic!("{error}")
    };
    assert!(mirror_error.contains("certificate"), "{mirror_error}");
}

#[derive(Default)]
struct Phases(Mutex<Vec<Phase>>);

impl Progress for Phases {
    fn phase(&self, phase: Phase) {
        self.0.lock().unwrap().push(phase);
    }
    fn blob(&self, _: &Digest, done: u64, total: u64) {
        assert!(done <= total);
    }
    fn unpacked(&self, _: u64) {}
    fn retry(&self, _: &str) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_from_a_registry_becomes_a_file_system() {
    let Some(registry) = DockerRegistry::start() else { return };
    let cache = Cache::new();
    let base = tar(&[("etc/os-release", b"ID=test\n"), ("etc/old", b"x"), ("bin/big", &vec![3; 2_000_000])]);
    let upper = tar(&[("etc/.wh.old", b""), ("etc/new", b"new\n")]);
    let zstd = zstd::encode_all(&*upper, 3).unwrap();
    image(&[(base.clone(), gzip(&base)), (upper, zstd)]).write_layout(&cache.path("layout"));
    let name = format!("{}/library/test:1", registry.host);
    let target = ImageReference::parse(&name).unwrap();
    let digest =
        push_layout(&cache.config.registry, &cache.path("layout"), &target, Arc::new(Silent)).await.unwrap();

    let image: Reference = name.parse().unwrap();
    let installed = pull(&cache, &image).await.unwrap();
    assert_eq!((installed.kernel.clone(), &*installed.version), (None, "1"));
    assert_eq!(installed.config().env, ["PATH=/bin", "X=y"]);
    assert_eq!(installed.config().working_dir, "/work");
    check_file_system(&installed.rootfs);
    if let Some(listing) = debugfs(&installed.rootfs, "ls -p /etc") {
        assert!(
            listing.contains("/new/") && listing.contains("/os-release/") && !listing.contains("old"),
            "{listing}"
        );
        assert_eq!(debugfs(&installed.rootfs, "cat /etc/new").unwrap(), "new\n");
    }

    // Another name for the same layers costs neither transfer nor disk.
    let pinned: Reference = format!("{}/library/test@{digest}", registry.host).parse().unwrap();
    let second = pull(&cache, &pinned).await.unwrap();
    use std::os::unix::fs::MetadataExt;
    let inode = |i: &Installed| std::fs::metadata(&i.rootfs).unwrap().ino();
    assert_eq!(inode(&installed), inode(&second));
    let names: Vec<String> = cache.store().list().into_iter().map(|i| i.name).collect();
    assert_eq!(names, [name, pinned.name()]);
    assert!(cache.store().remove(&image).await.unwrap());
    assert!(cache.store().prune(&Default::default()).unwrap().directories.is_empty());
    assert!(cache.store().installed(&pinned).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_share_one_download() {
    let image = Arc::new(Image::one_layer(&[7; 500_000]));
    let honest = Arc::clone(&image);
    let server = mostly_honest(image, |_| None);
    let cache = Arc::new(Cache::new());
    let reference = reference(&server);
    let pulls: Vec<_> = (0..6)
        .map(|_| {
            let (cache, reference) = (Arc::clone(&cache), reference.clone());
            tokio::spawn(async move { pull(&cache, &reference).await.unwrap().rootfs })
        })
        .collect();
    for pull in pulls {
        assert!(pull.await.unwrap().exists());
    }
    let layers = server.asked().iter().filter(|asked| is_layer(&honest, asked)).count();
    assert_eq!(layers, 1);
    assert_eq!(cache.files().len(), 3, "{:?}", cache.files());
}

/// Pulls where the layer is a lie, and expects that nothing is left.
async fn refused_layer(lie: impl Fn(&Image) -> Answer + Send + Sync + 'static) -> RegistryError {
    let image = Arc::new(Image::one_layer(&[9; 300_000]));
    let known = Arc::clone(&image);
    let server = mostly_honest(image, move |asked| is_layer(&known, asked).then(|| lie(&known)));
    let cache = Cache::new();
    let started = Instant::now();
    let error = pull(&cache, &reference(&server)).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(error.fault(), Fault::Remote);
    let PullError::Registry(error) = error else { panic!("{error:?}") };
    let left: Vec<_> = cache.files().into_iter().filter(|f| !f.ends_with(".part")).collect();
    assert_eq!(left, Vec::<String>::new());
    if !matches!(
        error,
        RegistryError::Truncated { .. } | RegistryError::Unreachable { .. } | RegistryError::Stalled { .. }
    ) {
        assert_eq!(cache.files(), Vec::<String>::new(), "wrong bytes are not resumed");
    }
    error
}

fn layer_bytes(image: &Image) -> Vec<u8> {
    image.blobs[&image.layers[0]].clone()
}

#[tokio::test]
async fn a_layer_with_wrong_bytes_is_refused() {
    let error = refused_layer(|image| {
        let mut bytes = layer_bytes(image);
        bytes[1000] ^= 1;
        Answer::new(200, bytes)
    });
    let error = error.await;
    assert!(matches!(error, RegistryError::BlobDigest { .. }), "{error}");
    assert!(error.to_string().starts_with("OCI blob digest mismatch for sha256:"), "{error}");
}

#[tokio::test]
async fn a_layer_that_never_ends_is_cut() {
    let error = refused_layer(|_| Answer::endless()).await;
    assert!(matches!(error, RegistryError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_always_cut_short_ends_in_an_error() {
    let error = refused_layer(|image| Answer::cut(&layer_bytes(image), 10)).await;
    assert!(matches!(error, RegistryError::Truncated { .. } | RegistryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_layer_that_must_always_begin_again_ends_in_an_error() {
    let image = Arc::new(Image::one_layer(&[9; 300_000]));
    let known = Arc::clone(&image);
    // Far enough each time to count as progress, if it were any.
    let server = mostly_honest(image, move |asked| {
        let begin = || match asked.header("range") {
            None => Answer::cut(&layer_bytes(&known), 200_000),
            Some(_) => Answer::new(416, "{}"),
        };
        is_layer(&known, asked).then(begin)
    });
    let cache = Cache::new();
    let reference = reference(&server);
    let pulling = tokio::time::timeout(Duration::from_secs(20), pull(&cache, &reference));
    let error = pulling.await.expect("it ends").unwrap_err();
    assert_eq!(error.fault(), Fault::Remote);
}

#[tokio::test]
async fn a_layer_that_stalls_ends_in_an_error() {
    let error = refused_layer(|image| Answer::silent(&layer_bytes(image), 10)).await;
    assert!(matches!(error, RegistryError::Stalled { .. } | RegistryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_that_never_ends_is_cut() {
    let server = Server::start(|_| Answer::endless());
    let cache = Cache::new();
    let error = pull(&cache, &reference(&server)).await.unwrap_err();
    assert!(matches!(&error, PullError::Registry(RegistryError::TooLong { .. })), "{error}");
    assert_eq!(cache.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let image = Arc::new(Image::one_layer(b"x"));
    let server = mostly_honest(Arc::clone(&image), |_| None);
    let wanted = Digest::of(b"another manifest");
    let pinned: Reference = format!("{}/a@{wanted}", server.address).parse().unwrap();
    let error = pull(&Cache::new(), &pinned).await.unwrap_err();
    let actual = Digest::of(&image.manifest);
    assert_eq!(error.to_string(), format!("OCI digest mismatch for {wanted}; got {actual}"));
    let lying = mostly_honest(image, move |asked| {
        asked
            .path
            .contains("manifests")
            .then(|| Answer::new(200, "{}").header("Docker-Content-Digest", wanted.to_string()))
    });
    let error = pull(&Cache::new(), &reference(&lying)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::ManifestDigest { .. })), "{error}");
}

#[tokio::test]
async fn uncompressed_bytes_that_the_configuration_does_not_name_are_refused() {
    let image = image(&[(tar(&[("a", b"1")]), gzip(&tar(&[("a", b"2")])))]);
    let server = mostly_honest(Arc::new(image), |_| None);
    let cache = Cache::new();
    let error = pull(&cache, &reference(&server)).await.unwrap_err();
    assert!(matches!(error, PullError::Layers(FlattenError::DiffId { layer: 1, .. })), "{error}");
    assert_eq!(cache.files(), Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupted_layer_is_resumed_where_it_stopped() {
    let image = Arc::new(Image::one_layer(&[9; 300_000]));
    let known = Arc::clone(&image);
    let cuts = AtomicUsize::new(0);
    let server = mostly_honest(image, move |asked| {
        if !is_layer(&known, asked) {
            return None;
        }
        let bytes = layer_bytes(&known);
        let Some(range) = asked.header("range") else {
            cuts.fetch_add(1, Ordering::Relaxed);
            return Some(Answer::cut(&bytes, 200_000));
        };
        let start: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
        let (len, end) = (bytes.len(), bytes.len() - 1);
        Some(Answer::new(206, &bytes[start..]).header("Content-Range", format!("bytes {start}-{end}/{len}")))
    });
    pull(&Cache::new(), &reference(&server)).await.unwrap();
    let ranges: Vec<_> = server.asked().iter().filter_map(|a| a.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges.len(), 1);
    assert_ne!(ranges[0], "bytes=0-");
}

#[tokio::test]
async fn what_a_dropped_pull_left_is_resumed_and_bad_leftovers_are_replaced() {
    let image = Arc::new(Image::one_layer(&[9; 300_000]));
    let known = Arc::clone(&image);
    let bytes = layer_bytes(&image);
    let digest = image.layers[0];
    let stalling = Arc::new(AtomicUsize::new(1));
    let stall = Arc::clone(&stalling);
    let server = mostly_honest(image, move |asked| {
        let cut = is_layer(&known, asked) && stall.load(Ordering::Relaxed) == 1;
        cut.then(|| Answer::silent(&layer_bytes(&known), 100_000))
    });
    let mut cache = Cache::new();
    cache.config.registry.timing.stall = Duration::from_secs(30);
    let reference = reference(&server);
    let part = cache.path("cache/linux-x86_64/.downloads").join(format!("{}.part", digest.hex()));
    let store = cache.store();
    {
        let mut pull = Box::pin(store.pull(&reference, Arc::new(Silent)));
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::metadata(&part).map_or(0, |m| m.len()) < 100_000 {
            assert!(Instant::now() < deadline);
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut pull).await;
        }
    }
    assert_eq!(cache.files(), [format!("{}.part", digest.hex())]);
    stalling.store(0, Ordering::Relaxed);
    pull(&cache, &reference).await.unwrap();
    assert!(server.asked().iter().any(|a| a.header("range") == Some("bytes=100000-")));

    cache.store().remove(&reference).await.unwrap();
    std::fs::write(&part, vec![0; bytes.len()]).unwrap();
    pull(&cache, &reference).await.unwrap();
}

#[tokio::test]
async fn a_limited_registry_is_asked_again_later() {
    let image = Arc::new(Image::one_layer(b"x"));
    let refusals = AtomicUsize::new(0);
    let server = mostly_honest(image, move |_| {
        let refuse = refusals.fetch_add(1, Ordering::Relaxed) < 2;
        refuse.then(|| Answer::new(429, "{}").header("Retry-After", "0"))
    });
    pull(&Cache::new(), &reference(&server)).await.unwrap();

    let server = Server::start(|_| Answer::new(429, "{}").header("Retry-After", "86400"));
    let error = pull(&Cache::new(), &reference(&server)).await.unwrap_err();
    assert_eq!(server.asked().len(), 1, "a day is not waited for");
    assert!(error.to_string().ends_with("limits requests (429); it asks to retry after 86400 s"), "{error}");
}

#[tokio::test]
async fn an_overloaded_registry_is_given_up_after_some_attempts() {
    let server = Server::start(|_| Answer::new(503, "{}"));
    let error = pull(&Cache::new(), &reference(&server)).await.unwrap_err();
    assert_eq!(server.asked().len(), 5);
    assert!(matches!(error, PullError::Registry(RegistryError::Status { status: 503, .. })), "{error}");
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let say = |status, body: &'static str| Server::start(move |_| Answer::new(status, body));
    let error = pull(&Cache::new(), &reference(&say(404, "{}"))).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::NotFound { .. })), "{error}");
    assert_eq!(error.fault(), Fault::Caller);
    let error = pull(&Cache::new(), &reference(&say(401, "{}"))).await.unwrap_err();
    assert_eq!(error.to_string(), "OCI registry denied access without an auth challenge");
    let body = r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#;
    let error = pull(&Cache::new(), &reference(&say(403, body))).await.unwrap_err();
    assert!(
        error.to_string().ends_with("denied access to some/image (403 requested access is denied)"),
        "{error}"
    );
    let html = pull(&Cache::new(), &reference(&say(200, "<html>"))).await.unwrap_err();
    assert!(matches!(html, PullError::Manifest(_)), "{html}");
    assert!(html.hint().is_some());
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_is_this_machines_fault() {
    let server = mostly_honest(Arc::new(Image::one_layer(b"x")), |_| None);
    let cache = Cache::new();
    std::fs::write(cache.path("cache"), "not a directory").unwrap();
    let error = pull(&cache, &reference(&server)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Host);
    assert!(error.hint().unwrap().contains("write"), "{error}");
    std::fs::remove_file(cache.path("cache")).unwrap();
    std::fs::create_dir_all(cache.path("cache/linux-x86_64")).unwrap();
    // Nothing can be made below this.
    std::fs::write(cache.path("cache/linux-x86_64/.downloads"), "not a directory").unwrap();
    let error = pull(&cache, &reference(&server)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Host);
    assert_eq!(cache.files(), [".downloads"]);
}

/// A registry that wants a token, which its token server gives for the right password (or to anybody).
fn with_tokens(image: Arc<Image>, password: Option<&'static str>) -> Server {
    let token_server = Server::start(move |asked| {
        use base64::Engine as _;
        let expected =
            password.map(|p| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(p)));
        assert!(asked.path.contains("scope=repository%3Asome%2Fimage%3Apull"), "{}", asked.path);
        match asked.header("authorization") == expected.as_deref() {
            true => Answer::new(200, r#"{"access_token":"t0ken"}"#),
            false => Answer::new(401, "{}"),
        }
    });
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", token_server.address);
    mostly_honest(image, move |asked| {
        let known = asked.header("authorization") == Some("Bearer t0ken");
        (!known).then(|| Answer::new(401, "{}").header("WWW-Authenticate", &*realm))
    })
}

#[tokio::test]
async fn tokens_are_fetched_anonymously_or_with_the_stored_password() {
    let image = Arc::new(Image::one_layer(b"x"));
    pull(&Cache::new(), &reference(&with_tokens(Arc::clone(&image), None))).await.unwrap();

    let server = with_tokens(image, Some("me:secret"));
    let error = pull(&Cache::new(), &reference(&server)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
    let mut cache = Cache::new();
    let auths = serde_json::json!({"auths": {server.address.to_string(): {"auth": "bWU6c2VjcmV0"}}});
    std::fs::write(cache.path("config.json"), auths.to_string()).unwrap();
    cache.config.registry.docker_config = Some(cache.path("config.json"));
    pull(&cache, &reference(&server)).await.unwrap();
}

#[tokio::test]
async fn basic_passwords_are_sent_when_asked_for() {
    let image = Arc::new(Image::one_layer(b"x"));
    let server = mostly_honest(image, |asked| {
        let known = asked.header("authorization") == Some("Basic bWU6c2VjcmV0");
        (!known).then(|| Answer::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"r\""))
    });
    let mut cache = Cache::new();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    cache.config.registry.credentials = vec![(server.address.to_string(), credentials)];
    pull(&cache, &reference(&server)).await.unwrap();
    assert!(server.asked()[0].header("authorization").is_none());
}

#[tokio::test]
async fn redirects_to_another_host_carry_no_credentials() {
    let image = Arc::new(Image::one_layer(&[1; 50_000]));
    let storage_image = Arc::clone(&image);
    let storage = Arc::new(mostly_honest(storage_image, |_| None));
    let elsewhere = storage.address;
    let known = Arc::clone(&image);
    let server = mostly_honest(image, move |asked| {
        if asked.header("authorization") != Some("Basic bWU6c2VjcmV0") {
            return Some(Answer::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"r\""));
        }
        is_layer(&known, asked)
            .then(|| Answer::new(307, "").header("Location", format!("http://{elsewhere}{}", asked.path)))
    });
    let mut cache = Cache::new();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    cache.config.registry.credentials = vec![(server.address.to_string(), credentials)];
    pull(&cache, &reference(&server)).await.unwrap();
    let asked = storage.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].header("authorization").is_none());
}

#[tokio::test]
async fn redirects_without_end_are_not_followed() {
    let server = Server::start(|asked| Answer::new(302, "").header("Location", asked.path.clone()));
    let error = pull(&Cache::new(), &reference(&server)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Redirect { .. })), "{error}");
}

#[tokio::test]
async fn a_mirror_never_sees_the_registrys_password_and_a_broken_one_is_passed_by() {
    let image = Arc::new(Image::one_layer(b"x"));
    let server = mostly_honest(image, |asked| {
        let known = asked.header("authorization") == Some("Basic bWU6c2VjcmV0");
        (!known).then(|| Answer::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"r\""))
    });
    let mirror = Server::start(|_| Answer::new(401, "{}").header("WWW-Authenticate", "Basic realm=\"r\""));
    let mut cache = Cache::new();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    cache.config.registry.credentials = vec![(server.address.to_string(), credentials)];
    cache.config.registry.mirrors =
        vec![Mirror { registry: Some(server.address.to_string()), endpoint: mirror.address.to_string() }];
    pull(&cache, &reference(&server)).await.unwrap();
    assert!(!mirror.asked().is_empty());
    assert!(mirror.asked().iter().all(|asked| asked.header("authorization").is_none()));
    assert!(mirror.asked()[0].path.contains("?ns="));
}

#[tokio::test]
async fn a_mirror_that_failed_is_not_waited_for_again() {
    let server = mostly_honest(Arc::new(Image::one_layer(b"x")), |_| None);
    let mirror = Server::start(|_| Answer::new(503, "{}"));
    let mut cache = Cache::new();
    cache.config.registry.mirrors = vec![Mirror { registry: None, endpoint: mirror.address.to_string() }];
    pull(&cache, &reference(&server)).await.unwrap();
    assert!(mirror.asked().iter().all(|asked| asked.path.contains("/manifests/")));
    assert_eq!(mirror.asked().len(), 5);
}

fn saved_twice(layer: &[u8], config: &[u8], list: &[u8]) -> Vec<u8> {
    let mut archive = tar(&[("ab/layer.tar", layer), ("c.json", config), ("manifest.json", list)]);
    archive.truncate(archive.len() - 1024);
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    let mut builder = tar::Builder::new(archive);
    builder.append_link(&mut link, "cd/layer.tar", "../ab/layer.tar").unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn a_layout_that_names_files_outside_or_holds_a_pipe_is_refused() {
    let cache = Cache::new();
    std::fs::create_dir(cache.path("layout")).unwrap();
    let layout: Reference = format!("oci:{}", cache.path("layout").display()).parse().unwrap();
    std::fs::write(cache.path("outside.json"), "{}").unwrap();
    for name in ["../outside.json".to_owned(), cache.path("outside.json").display().to_string()] {
        let list = serde_json::json!([{"Config": name, "Layers": []}]);
        std::fs::write(cache.path("layout/manifest.json"), list.to_string()).unwrap();
        let error = pull(&cache, &layout).await.unwrap_err();
        assert!(matches!(&error, PullError::Layout(layout::LayoutError::Io { .. })), "{error}");
    }
    let made = Command::new("mkfifo").arg(cache.path("layout/index.json")).status().unwrap();
    assert!(made.success());
    // A thread that waits for a pipe cannot be cancelled, only left.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        sender.send(runtime.block_on(pull(&cache, &layout)).unwrap_err())
    });
    let error = receiver.recv_timeout(Duration::from_secs(20)).expect("a pipe is not waited for");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!((error.fault(), &*cause), (Fault::Caller, "it is not a regular file"));
}

#[tokio::test]
async fn a_layout_and_its_archive_are_environments_too() {
    let cache = Cache::new();
    let layer = tar(&[("etc/name", b"layout")]);
    image(&[(layer.clone(), gzip(&layer))]).write_layout(&cache.path("layout"));
    let status = Command::new("tar")
        .arg("-cf")
        .arg(cache.path("a.tar"))
        .arg("-C")
        .arg(cache.path("layout"))
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    for name in [
        format!("oci:{}:v1", cache.path("layout").display()),
        format!("oci-archive:{}", cache.path("a.tar").display()),
    ] {
        let installed = pull(&cache, &name.parse().unwrap()).await.unwrap();
        check_file_system(&installed.rootfs);
        assert_eq!(installed.name, name);
    }
    // What `docker save` wrote before it wrote layouts.
    let config = serde_json::json!({"rootfs": {"diff_ids": [Digest::of(&layer)]}}).to_string();
    let list = serde_json::json!([{"Config": "c.json", "RepoTags": ["x/y:old"], "Layers": ["ab/layer.tar"]}])
        .to_string();
    let saved =
        tar(&[("ab/layer.tar", &layer), ("c.json", config.as_bytes()), ("manifest.json", list.as_bytes())]);
    std::fs::write(cache.path("saved.tar"), saved).unwrap();
    let saved: Reference = format!("oci-archive:{}:old", cache.path("saved.tar").display()).parse().unwrap();
    let installed = pull(&cache, &saved).await.unwrap();
    assert!(installed.record.formatter.is_some());

    // It wrote a layer that occurs twice as a link to the first.
    let config = serde_json::json!({"rootfs": {"diff_ids": vec![Digest::of(&layer); 2]}}).to_string();
    let list = serde_json::json!([{"Config": "c.json", "Layers": ["ab/layer.tar", "cd/layer.tar"]}]);
    let twice = saved_twice(&layer, config.as_bytes(), list.to_string().as_bytes());
    std::fs::write(cache.path("twice.tar"), twice).unwrap();
    let twice: Reference = format!("oci-archive:{}", cache.path("twice.tar").display()).parse().unwrap();
    pull(&cache, &twice).await.unwrap();

    let absent = format!("oci:{}:v2", cache.path("layout").display());
    let error = pull(&cache, &absent.parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("it has: v1"), "{error}");
    let blob = std::fs::read_dir(cache.path("layout/blobs/sha256")).unwrap().flatten();
    for entry in blob {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(entry.path(), bytes).unwrap();
    }
    let damaged = format!("oci:{}", cache.path("layout").display());
    let error = pull(&cache, &damaged.parse().unwrap()).await.unwrap_err();
    assert!(error.to_string().starts_with("OCI blob digest mismatch"), "{error}");
    assert_eq!(error.fault(), Fault::Caller);
}
