use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use ring::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use x509_parser::certificate::X509Certificate;

use super::*;

/// A device's first second, today, and three centuries on.
const CLOCKS: [u64; 3] = [0, 1_800_000_000, 11_000_000_000];

fn new() -> (TempDir, Ca) {
    let dir = TempDir::new().unwrap();
    let ca = Ca::load_or_create(dir.path()).unwrap();
    (dir, ca)
}

fn error<T>(result: Result<T, Error>) -> Error {
    result.err().expect("an error")
}

fn roots(ca: &Ca) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate_der()).unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether a server that trusts `ca` takes the certificate from a client when its clock shows `now`.
fn is_client_of(ca: &Ca, certificate: &CertificateDer<'_>, now: u64) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_client_cert(certificate, &[], now).is_ok()
}

/// Whether a client that trusts `ca` takes the certificate from the server `name` when its clock shows `now`.
fn is_server_of(ca: &Ca, certificate: &CertificateDer<'_>, name: &str, now: u64) -> bool {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider()).build().unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_server_cert(certificate, &[], &ServerName::try_from(name).unwrap(), &[], now).is_ok()
}

fn first(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.certificates_pem.as_bytes()).unwrap()
}

fn parse<'a>(der: &'a [u8]) -> X509Certificate<'a> {
    x509_parser::parse_x509_certificate(der).unwrap().1
}

fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["admin.example".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::NoCa;
    params.serialize_request(key).unwrap().der().to_vec()
}

fn device_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

#[test]
fn reopening_gives_the_same_authority() {
    let (dir, ca) = new();
    let leaf = first(&ca.issue_client("default", "muster").unwrap());
    let again = Ca::load_or_create(dir.path()).unwrap();
    assert_eq!(again.certificate_der(), ca.certificate_der());
    assert_eq!(again.certificate_pem(), ca.certificate_pem());
    assert_eq!(again.fingerprint(), ca.fingerprint());
    assert!(is_client_of(&again, &leaf, CLOCKS[1]));
    assert!(is_client_of(&ca, &first(&again.issue_client("default", "muster").unwrap()), CLOCKS[1]));
}

#[test]
fn two_folders_hold_two_authorities() {
    let ((_a, a), (_b, b)) = (new(), new());
    assert_ne!(a.fingerprint(), b.fingerprint());
    assert!(!is_client_of(&a, &first(&b.issue_client("default", "muster").unwrap()), CLOCKS[1]));
}

#[test]
fn only_the_owner_may_read_the_key_and_everybody_the_certificate() {
    let dir = TempDir::new().unwrap();
    let ca = Ca::load_or_create(&dir.path().join("new")).unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join("new").join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("ca.key"), mode("ca.crt") & 0o444), (0o700, 0o600, 0o444));
    assert_eq!(fs::read_to_string(dir.path().join("new/ca.crt")).unwrap(), ca.certificate_pem());
    assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn pem_is_what_rustls_reads() {
    let (_dir, ca) = new();
    assert_eq!(CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap(), ca.certificate_der());
}

#[test]
fn a_damaged_key_is_reported_and_left_alone() {
    let (dir, ca) = new();
    let path = dir.path().join("ca.key");
    let whole = fs::read_to_string(&path).unwrap();
    let (_other_dir, other) = new();
    let key_only = whole[..whole.find("-----BEGIN CERTIFICATE").unwrap()].to_owned();
    let cases = [
        ("empty", String::new()),
        ("cut in the key", whole[..whole.find("PRIVATE KEY").unwrap() + 60].to_owned()),
        ("cut in the certificate", whole[..whole.len() - 100].to_owned()),
        ("key only", key_only.clone()),
        ("certificate only", ca.certificate_pem()),
        ("another's certificate", key_only + &other.certificate_pem()),
        ("an Ed25519 key", KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem()),
    ];
    for (what, text) in cases {
        fs::write(&path, &text).unwrap();
        let error = error(Ca::load_or_create(dir.path()));
        assert!(matches!(error, Error::Damaged { .. }), "{what}: {error:?}");
        let message = error.to_string();
        assert!(message.contains("ca.key") && message.contains("backup"), "{what}: {message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{what}: the file is untouched");
    }
    fs::write(&path, [0xff; 64]).unwrap();
    assert!(matches!(error(Ca::load_or_create(dir.path())), Error::Damaged { .. }), "not even text");
}

#[test]
fn an_unreadable_key_is_reported_by_its_path() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("ca.key")).unwrap();
    let error = error(Ca::load_or_create(dir.path()));
    assert!(matches!(error, Error::File { action: "read", .. }), "{error:?}");
    assert!(error.to_string().contains("ca.key"), "{error}");
}

#[test]
fn a_lost_key_is_not_replaced_by_a_new_authority() {
    let (dir, _ca) = new();
    fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = error(Ca::load_or_create(dir.path()));
    assert!(matches!(error, Error::KeyMissing { .. }), "{error:?}");
    assert!(!dir.path().join("ca.key").exists());
}

/// Invariant 11: nothing waits for a clock.
#[test]
fn certificates_hold_from_1970_on() {
    let (_dir, ca) = new();
    let server = first(&ca.issue_server(&["broker.example".to_owned()]).unwrap());
    let client = first(&ca.issue_client("default", "muster").unwrap());
    for now in CLOCKS {
        assert!(is_server_of(&ca, &server, "broker.example", now), "server at {now}");
        assert!(is_client_of(&ca, &client, now), "client at {now}");
    }
    for der in [&ca.certificate_der(), &server, &client] {
        assert_eq!(parse(der).validity().not_before.timestamp(), 0);
    }
}

#[test]
fn a_server_is_known_by_each_of_its_names_and_no_other() {
    let (_dir, ca) = new();
    let names = ["broker.example", "*.edge.example", "localhost", "10.0.0.7", "::1"].map(str::to_owned);
    let identity = ca.issue_server(&names).unwrap();
    let server = first(&identity);
    for (name, known) in [
        ("broker.example", true),
        ("a.edge.example", true),
        ("localhost", true),
        ("10.0.0.7", true),
        ("::1", true),
        ("other.example", false),
        ("10.0.0.8", false),
    ] {
        assert_eq!(is_server_of(&ca, &server, name, CLOCKS[1]), known, "{name}");
    }
    assert!(!is_client_of(&ca, &server, CLOCKS[1]), "a server's certificate is none for a client");
    assert!(identity.certificates_pem.ends_with(&ca.certificate_pem()), "the chain ends with the authority");
}

#[test]
fn names_that_cannot_stand_in_a_certificate_are_refused() {
    let (_dir, ca) = new();
    let long = "x".repeat(65);
    for name in ["", "no spaces", "*", "ümlaut.example", "a..b", "host:8883"] {
        assert!(matches!(error(ca.issue_server(&[name.to_owned()])), Error::Name { .. }), "{name:?}");
    }
    assert!(matches!(error(ca.issue_server(&[])), Error::Name { .. }));
    for (workspace, name) in [("", "a"), ("a", ""), (long.as_str(), "a"), ("a", &long), ("a", "b\n"), ("a\0", "b")] {
        assert!(matches!(error(ca.issue_client(workspace, name)), Error::Name { .. }), "{workspace:?} {name:?}");
    }
}

#[test]
fn a_device_gets_our_subject_for_its_key_whatever_it_asked_for() {
    let (_dir, ca) = new();
    let key = device_key();
    let issued = ca.sign_device_request(&request(&key), "default", "pi-4").unwrap();
    let certificate = parse(&issued.der);
    assert_eq!(certificate.subject().to_string(), "O=default, CN=pi-4");
    assert!(certificate.subject_alternative_name().unwrap().is_none());
    assert_eq!(issued.public_key, *key.public_key_raw());
    assert_eq!(*certificate.public_key().subject_public_key.data, *key.public_key_raw());
    let der = CertificateDer::from(issued.der.clone());
    assert_eq!(CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap(), der);
    for now in CLOCKS {
        assert!(is_client_of(&ca, &der, now), "at {now}");
    }
    assert!(!is_server_of(&ca, &der, "admin.example", CLOCKS[1]));
}

#[test]
fn the_public_key_verifies_what_the_device_signs() {
    let (_dir, ca) = new();
    let key = device_key();
    let issued = ca.sign_device_request(&request(&key), "default", "pi-4").unwrap();
    let random = SystemRandom::new();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der(), &random).unwrap();
    let signature = signer.sign(&random, b"report").unwrap();
    let verifier = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &issued.public_key);
    assert!(verifier.verify(b"report", signature.as_ref()).is_ok());
    assert!(verifier.verify(b"rep0rt", signature.as_ref()).is_err());
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let (_dir, ca) = new();
    let good = request(&device_key());
    let end = good.len() - 1;
    let mut forged = good.clone();
    forged[end] ^= 1;
    // Somebody else's key under one's own signature.
    let victim = device_key();
    let mut stolen = good.clone();
    let mine = parse_point(&good);
    stolen[mine..mine + 65].copy_from_slice(victim.public_key_raw());
    let cases = [
        ("nothing", Vec::new()),
        ("garbage", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec()),
        ("cut", good[..end].to_vec()),
        ("followed by more", [good.as_slice(), b"\0"].concat()),
        ("too long", [good.as_slice(), &[0; MAX_REQUEST_BYTES]].concat()),
        ("forged signature", forged),
        ("stolen key", stolen),
        ("Ed25519", request(&KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap())),
        ("P-384", request(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap())),
        ("a certificate", ca.certificate_der().to_vec()),
    ];
    for (what, csr) in cases {
        let error = error(ca.sign_device_request(&csr, "default", "pi-4"));
        assert!(matches!(error, Error::Request(_)), "{what}: {error:?}");
    }
    assert!(ca.sign_device_request(&good, "default", "pi-4").is_ok());
}

/// Where the public key's point starts in a request.
fn parse_point(csr: &[u8]) -> usize {
    let (_, request) = X509CertificationRequest::from_der(csr).unwrap();
    let point = request.certification_request_info.subject_pki.subject_public_key.data.clone();
    csr.windows(65).position(|window| *window == *point).unwrap()
}

#[test]
fn serial_numbers_never_repeat_even_for_the_same_key() {
    let (_dir, ca) = new();
    let csr = request(&device_key());
    let serials: std::collections::HashSet<Vec<u8>> = (0..20)
        .map(|_| parse(&ca.sign_device_request(&csr, "default", "pi-4").unwrap().der).raw_serial().to_vec())
        .collect();
    assert_eq!(serials.len(), 20);
    assert!(serials.iter().all(|serial| serial.len() == 16 && serial[0] & 0x80 == 0));
}

#[test]
fn an_identity_does_not_print_its_key() {
    let (_dir, ca) = new();
    let identity = ca.issue_client("default", "muster").unwrap();
    assert!(!format!("{identity:?}").contains("PRIVATE"));
}
