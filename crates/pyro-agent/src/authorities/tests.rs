use super::*;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

struct Guest {
    authorities: Authorities,
    root: tempfile::TempDir,
}

impl Guest {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let authorities = Authorities::new(root.path(), root.path().join("run/pyro"));
        Self { authorities, root }
    }

    fn image(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn install(&self, chunks: &[&[u8]]) -> Result<(), FileError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut frames = Vec::new();
        for chunk in chunks.iter().chain([&&b""[..]]) {
            frames.extend(pyro_agent::wire::emit_frame(FrameKind::Data, chunk));
        }
        // More than a socket holds is written while it is read.
        let writer = std::thread::spawn(move || io::Write::write_all(&mut &ours, &frames).map(|()| ours));
        let installed = self.authorities.install(&mut Connection::new(OwnedFd::from(theirs)));
        let _ = writer.join().unwrap();
        installed
    }

    fn value(&self, name: &str) -> Option<String> {
        let found = self.authorities.variables().into_iter().find(|(key, _)| key == name)?;
        Some(fs::read_to_string(found.1).unwrap())
    }
}

#[test]
fn the_bundle_is_the_images_and_the_hosts_and_follows_the_image() {
    let guest = Guest::new();
    assert_eq!(guest.authorities.variables(), []);
    guest.install(&[b"HO", b"ST\n"]).unwrap();
    assert_eq!(guest.value("SSL_CERT_FILE").unwrap(), "HOST\n");
    guest.image("etc/pki/tls/certs/ca-bundle.crt", "FEDORA");
    assert_eq!(guest.value("CURL_CA_BUNDLE").unwrap(), "FEDORA\nHOST\n");
    guest.image("etc/ssl/certs/ca-certificates.crt", "DEBIAN\n");
    assert_eq!(guest.value("GIT_SSL_CAINFO").unwrap(), "DEBIAN\nHOST\n");
    assert_eq!(guest.value("NODE_EXTRA_CA_CERTS").unwrap(), "HOST\n");
    assert!(guest.value("APT_CONFIG").unwrap().contains("run/pyro/ca-bundle.pem\";"));
    fs::remove_file(guest.root.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert_eq!(guest.value("SSL_CERT_FILE").unwrap(), "FEDORA\nHOST\n");
    guest.install(&[b"OTHER\n"]).unwrap();
    assert_eq!(guest.value("SSL_CERT_FILE").unwrap(), "FEDORA\nOTHER\n");
    guest.install(&[]).unwrap();
    assert_eq!(guest.authorities.variables(), []);
}

#[test]
fn what_is_no_bundle_of_an_image_is_left_out_and_too_many_authorities_are_refused() {
    let guest = Guest::new();
    fs::create_dir_all(guest.root.path().join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    guest.image("etc/ssl/cert.pem", &"x".repeat(usize::try_from(MAX_IMAGE_BUNDLE_BYTES).unwrap() + 1));
    guest.install(&[b"HOST\n"]).unwrap();
    assert_eq!(guest.value("SSL_CERT_FILE").unwrap(), "HOST\n");
    let chunk = vec![b'x'; 1 << 19];
    let refused = guest.install(&[&chunk, &chunk, b"x"]);
    assert!(matches!(refused, Err(FileError::BadStream(_))));
    assert_eq!(guest.value("SSL_CERT_FILE").unwrap(), "HOST\n", "those before are kept");
}
