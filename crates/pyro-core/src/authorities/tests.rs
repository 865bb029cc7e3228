use super::*;

const ONE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlzCCAT2gAwIBAgIUe7oq3eCQhyuJq/VpIhiT/C0KS2cwCgYIKoZIzj0EAwIw
IDEeMBwGA1UEAwwVcHlybyB0ZXN0IGF1dGhvcml0eSAxMCAXDTI2MTEyODIwMDIy
MVoYDzIxMjYxMTA0MjAwMjIxWjAgMR4wHAYDVQQDDBVweXJvIHRlc3QgYXV0aG9y
aXR5IDEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATavw8Uzot2Scxr5tAYDDb3
n/SX0zQ1JSEhkdXIutG36QpqcV9KKdGy0UszpbLvejSybzyhqo/hZPS3/I0t8uqD
o1MwUTAdBgNVHQ4EFgQUSUiS+2jf/wmDqSiPch2SGZMCNSQwHwYDVR0jBBgwFoAU
SUiS+2jf/wmDqSiPch2SGZMCNSQwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQD
AgNIADBFAiAgBp87oIO0dJ1owgojmLJ5EXy4WB9U+yxHYLfesMwIAgIhAPdVW7qU
h/zCKIQm9TegUyIMfPtxKl7si5vRJORpNBlX
-----END CERTIFICATE-----
";

const TWO: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlzCCAT2gAwIBAgIUbVf5FmC1g38Zi2GOXSBIHvOnCuUwCgYIKoZIzj0EAwIw
IDEeMBwGA1UEAwwVcHlybyB0ZXN0IGF1dGhvcml0eSAyMCAXDTI2MTEyODIwMDIy
MVoYDzIxMjYxMTA0MjAwMjIxWjAgMR4wHAYDVQQDDBVweXJvIHRlc3QgYXV0aG9y
aXR5IDIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATOsP0UY3T8uWz/FfHbDk0D
ymBXrVoBwmDsoiUo3zpu+NPHf1c6gueKb2ayddnUpBlkXE5nOhXH81GvcaXwk6Zr
o1MwUTAdBgNVHQ4EFgQUHaOV1i3EH5DzuF4S9kzFW1IHctMwHwYDVR0jBBgwFoAU
HaOV1i3EH5DzuF4S9kzFW1IHctMwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQD
AgNIADBFAiA+bHdnpmRLbFuP/I7jfXSPGCHcy76UkMc95bnozVqWzAIhAMcF8vwK
J51ugIG3TEi2ulr7hkVaTJgH59q/Sx0XBbxC
-----END CERTIFICATE-----
";

fn taken(text: &str) -> Result<Authorities, AuthorityError> {
    let mut authorities = Authorities::default();
    authorities.add_pem("ca.pem", text.as_bytes()).map(|()| authorities)
}

#[test]
fn certificates_are_taken_once_each_and_without_what_is_between_them() {
    let mut authorities = taken(&format!("# one of ours\r\n{}", ONE.replace('\n', "\r\n"))).unwrap();
    assert_eq!((authorities.count(), authorities.pem()), (1, ONE));
    authorities.add_pem("both.pem", format!("subject=x\n{TWO}text\n{ONE}").as_bytes()).unwrap();
    assert_eq!((authorities.count(), authorities.pem()), (2, format!("{ONE}{TWO}").as_str()));
    let source = |source: &str, count| AuthoritySource { source: source.to_owned(), count };
    assert_eq!(authorities.sources(), [source("ca.pem", 1), source("both.pem", 1)]);
    assert!(!authorities.is_empty() && Authorities::default().is_empty());
}

#[test]
fn keys_garbage_and_other_blocks_are_refused_by_name() {
    let refused = |text: &str| taken(text).unwrap_err().to_string();
    for kind in
        ["PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"]
    {
        let text = format!("{ONE}-----BEGIN {kind}-----\nc2VjcmV0\n-----END {kind}-----\n");
        assert!(matches!(taken(&text), Err(AuthorityError::PrivateKey(_))), "{kind}");
        assert!(!refused(&text).contains("c2VjcmV0"));
    }
    let request = "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n";
    assert_eq!(
        refused(request),
        "'ca.pem' holds a block 'CERTIFICATE REQUEST'; only blocks 'CERTIFICATE' can be used"
    );
    for text in ["", "hello", "\u{0}\u{1}", "MIIBszCCAVmgAwIBAgIU"] {
        assert!(matches!(taken(text), Err(AuthorityError::Nothing(_))), "{text:?}");
    }
    let cut = &ONE[..ONE.len() / 2];
    assert!(matches!(taken(cut), Err(AuthorityError::Malformed { .. } | AuthorityError::Nothing(_))));
    let no_certificate = format!("{ONE}{}", emit_pem(b"hello"));
    assert!(refused(&no_certificate).starts_with("certificate 2 of 'ca.pem' is not an X.509 certificate: "));
    let large = "x".repeat(AUTHORITY_FILE_BYTES + 1);
    assert!(matches!(taken(&large), Err(AuthorityError::FileTooLarge(_))));
    let missing = Authorities::default().add_file(Path::new("/nonexistent/ca.pem")).unwrap_err();
    assert_eq!(missing.to_string(), "cannot read the file of certificate authorities '/nonexistent/ca.pem'");
}

#[test]
fn nothing_is_added_where_one_of_them_is_refused() {
    let mut authorities = taken(ONE).unwrap();
    let before = authorities.clone();
    authorities.add_pem("x", format!("{TWO}{}", emit_pem(b"x")).as_bytes()).unwrap_err();
    assert_eq!(authorities, before);
}

#[test]
fn the_variables_of_authorities_are_known() {
    assert!(Authorities::is_variable("SSL_CERT_FILE") && Authorities::is_variable("NODE_EXTRA_CA_CERTS"));
    assert!(!Authorities::is_variable("PATH"));
}
