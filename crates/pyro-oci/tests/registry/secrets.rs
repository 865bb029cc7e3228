//! Where passwords come from, and where they never go.

use std::os::unix::fs::PermissionsExt;

use super::*;

const REALM: &str = "Basic realm=\"r\"";

/// What Docker stores for `me` with the password `secret`.
const ME: &str = "Basic bWU6c2VjcmV0";

fn with_me(server: &Server) -> Cache {
    let mut cache = Cache::new();
    let credentials = Credentials { username: "me".into(), password: "secret".into() };
    cache.config.registry.credentials = vec![(server.address.to_string(), credentials)];
    cache
}

/// A registry that wants the password of `me`.
fn private(image: Image) -> Server {
    mostly_honest(Arc::new(image), |asked| {
        let known = asked.header("authorization") == Some(ME);
        (!known).then(|| Answer::new(401, "{}").header("WWW-Authenticate", REALM))
    })
}

#[tokio::test]
async fn an_upload_that_leads_to_another_host_takes_no_credentials_there() {
    let elsewhere = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&elsewhere);
    let thief = Server::start(move |_| {
        let realm = format!("Bearer realm=\"http://{}/token\"", own.lock().unwrap());
        Answer::new(401, "{}").header("WWW-Authenticate", realm)
    });
    *elsewhere.lock().unwrap() = thief.address.to_string();
    let upload = format!("http://{}/upload", thief.address);
    let server = Server::start(move |asked| match &*asked.method {
        _ if asked.header("authorization") != Some(ME) => {
            Answer::new(401, "{}").header("WWW-Authenticate", REALM)
        }
        "POST" => Answer::new(202, "").header("Location", &*upload),
        _ => Answer::new(404, "{}"),
    });
    let cache = with_me(&server);
    Image::one_layer(b"x").write_layout(&cache.path("layout"));
    let target = ImageReference::parse(&format!("{}/some/image:v1", server.address)).unwrap();
    let pushed = push_layout(&cache.config.registry, &cache.path("layout"), &target, Arc::new(Silent)).await;
    let error = pushed.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
    let asked = thief.asked();
    assert_eq!(asked.iter().map(|a| &*a.path).collect::<Vec<_>>(), ["/upload"]);
    assert!(asked[0].header("authorization").is_none());
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_an_access_token() {
    let token_server = Server::start(|_| Answer::new(200, r#"{"token":"t0ken"}"#));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", token_server.address);
    let server = mostly_honest(Arc::new(Image::one_layer(b"x")), move |asked| {
        let known = asked.header("authorization") == Some("Bearer t0ken");
        (!known).then(|| Answer::new(401, "{}").header("WWW-Authenticate", &*realm))
    });
    let mut cache = Cache::new();
    let auths = serde_json::json!({"auths": {server.address.to_string(): {"identitytoken": "id&entity"}}});
    std::fs::write(cache.path("config.json"), auths.to_string()).unwrap();
    cache.config.registry.docker_config = Some(cache.path("config.json"));
    pull(&cache, &reference(&server)).await.unwrap();
    let asked = token_server.asked();
    assert_eq!((asked.len(), &*asked[0].method), (1, "POST"));
    let form = String::from_utf8(asked[0].body.clone()).unwrap();
    assert!(
        form.contains("grant_type=refresh_token&") && form.contains("&refresh_token=id%26entity&"),
        "{form}"
    );
}

#[tokio::test]
async fn an_overloaded_token_server_is_given_up_after_some_attempts() {
    let token_server = Server::start(|_| Answer::new(503, "{}"));
    let realm = format!("Bearer realm=\"http://{}/token\"", token_server.address);
    let server = Server::start(move |_| Answer::new(401, "{}").header("WWW-Authenticate", &*realm));
    let error = pull(&Cache::new(), &reference(&server)).await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Status { status: 503, .. })), "{error}");
    assert_eq!(token_server.asked().len(), 5);
}

/// Helpers are found by `PATH`, which a process may not change for its threads: the test runs itself again.
#[tokio::test]
async fn a_credential_helper_is_asked() {
    const INSIDE: &str = "PYRO_TEST_CREDENTIAL_HELPERS";
    let Some(dir) = std::env::var_os(INSIDE).map(PathBuf::from) else {
        let dir = tempfile::tempdir().unwrap();
        let helper = |name: &str, script: &str| {
            let path = dir.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\nread host\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        helper("knows", r#"echo "{\"Username\":\"me\",\"Secret\":\"secret\"}""#);
        helper("knows-not", "echo 'credentials not found in native keychain'; exit 1");
        helper("locked", "printf '\\nthe keychain is locked\\nin many\\nwords\\n' >&2; exit 1");
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let again = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "secrets::a_credential_helper_is_asked", "--nocapture"])
            .env("PATH", path)
            .env(INSIDE, dir.path())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
        assert!(again.status.success() && said.contains("1 passed"), "{said}");
        return;
    };
    let pull_with = async |helper: &str| {
        let server = private(Image::one_layer(b"x"));
        let config = serde_json::json!({"credHelpers": {server.address.to_string(): helper}});
        let path = dir.join(format!("{helper}.json"));
        std::fs::write(&path, config.to_string()).unwrap();
        let mut cache = Cache::new();
        cache.config.registry.docker_config = Some(path);
        pull(&cache, &reference(&server)).await.map(drop)
    };
    pull_with("knows").await.unwrap();
    let error = pull_with("knows-not").await.unwrap_err();
    assert!(matches!(error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
    let error = pull_with("locked").await.unwrap_err();
    assert!(
        error.to_string().ends_with("`docker-credential-locked` failed: the keychain is locked"),
        "{error}"
    );
    assert!(error.hint().is_some());
}
