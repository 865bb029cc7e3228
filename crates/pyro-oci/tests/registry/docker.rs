//! Debian's `docker-registry` on a loopback port.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A running registry with storage of its own; stopped and removed on drop.
pub(crate) struct DockerRegistry {
    child: Child,
    pub(crate) host: String,
    _dir: tempfile::TempDir,
}

impl DockerRegistry {
    /// `None`, said aloud, where the program is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// The same over TLS, with a certificate that only whoever has `dir/cert.pem` trusts.
    pub(crate) fn start_tls(dir: &std::path::Path) -> Option<Self> {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", "/CN=pyro test", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth"])
            .arg("-keyout")
            .arg(dir.join("key.pem"))
            .arg("-out")
            .arg(dir.join("cert.pem"))
            .output();
        if !made.is_ok_and(|output| output.status.success()) {
            println!("skipped (no openssl on this machine)");
            return None;
        }
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        Self::start_with(&format!(", tls: {{certificate: {}, key: {}}}", cert.display(), key.display()))
    }

    fn start_with(http: &str) -> Option<Self> {
        if !std::path::Path::new(PROGRAM).exists() {
            assert!(!std::env::var("PYRO_REQUIRE").is_ok_and(|r| r.contains("registry")), "no {PROGRAM}");
            println!("skipped (no {PROGRAM} on this machine)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Bound and released: the registry takes an address, not a descriptor.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {host}{http}}}\n",
            dir.path().display()
        );
        let path = dir.path().join("registry.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut registry = Self { child, host, _dir: dir };
        registry.wait_ready();
        Some(registry)
    }

    fn wait_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&self.host).is_err() {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut said = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("the registry ended with {status}: {said}");
            }
            assert!(Instant::now() < deadline, "the registry does not answer");
            // A listening socket gives no event to wait for from outside.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
