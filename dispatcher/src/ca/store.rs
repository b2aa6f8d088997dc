//! The authority's two files. `ca.key` is all of it, key and certificate in one, so that no crash can leave one
//! without the other; `ca.crt` is a public copy for people (`curl --cacert`), never read back.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

use rcgen::{Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::{Ca, Error, authority_params, pem, sign_error};

const KEY_FILE: &str = "ca.key";
pub(super) const CERTIFICATE_FILE: &str = "ca.crt";
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub(super) fn load_or_create(dir: &Path) -> Result<Ca, Error> {
    let (key, certificate) = (dir.join(KEY_FILE), dir.join(CERTIFICATE_FILE));
    let ca = match fs::read(&key) {
        Ok(bytes) => {
            warn_if_open(&key);
            parse(&bytes).map_err(|reason| Error::Damaged { path: key, reason })?
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && certificate.exists() => {
            return Err(Error::KeyMissing { key, certificate });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => create(dir, &key)?,
        Err(source) => return Err(Error::File { action: "read", path: key, source }),
    };
    if fs::read(&certificate).ok().as_deref() != Some(ca.certificate_pem().as_bytes()) {
        // Only for people, and the folder may well be read-only (a mounted secret): not worth failing for.
        if let Err(error) = write(dir, &certificate, &ca.certificate_pem(), PUBLIC, Clobber::Yes) {
            tracing::warn!(path = %certificate.display(), %error, "cannot write the public copy of the CA certificate");
        }
    }
    Ok(ca)
}

fn create(dir: &Path, path: &Path) -> Result<Ca, Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
    let sign = |source| sign_error("the authority", source);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign)?;
    let certificate = authority_params(&key)?.self_signed(&key).map_err(sign)?;
    let text = format!(
        "# The private key of this workspace's certificate authority. Keep a backup, and show it to nobody.\n{}{}",
        key.serialize_pem(),
        pem("CERTIFICATE", certificate.der())
    );
    match write(dir, path, &text, SECRET, Clobber::No) {
        // Another process was first: its authority is the one that counts.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        written => written.map_err(failed("write", path))?,
    }
    let bytes = fs::read(path).map_err(failed("read", path))?;
    parse(&bytes).map_err(|reason| Error::Damaged { path: path.to_owned(), reason })
}

fn parse(bytes: &[u8]) -> Result<Ca, String> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(bytes).map_err(|e| format!("no private key: {e}"))?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
        .map_err(|e| format!("not an ECDSA P-256 key: {e}"))?;
    let certificate = CertificateDer::from_pem_slice(bytes).map_err(|e| format!("no certificate: {e}"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|e| format!("no certificate: {e}"))?;
    if *parsed.public_key().subject_public_key.data != *key.public_key_raw() {
        return Err("its certificate belongs to another key".to_owned());
    }
    let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| format!("not an authority: {e}"))?;
    Ok(Ca { issuer, certificate })
}

fn warn_if_open(path: &Path) {
    let mode = fs::metadata(path).map_or(SECRET, |found| found.permissions().mode());
    if mode & 0o077 != 0 {
        let mode = format!("{:o}", mode & 0o777);
        tracing::warn!(path = %path.display(), mode, "others may read the authority's key: chmod 600 it");
    }
}

enum Clobber {
    Yes,
    No,
}

/// Writes a file so that after a crash it is whole or absent: temporary file, fsync, rename, fsync of the folder.
fn write(dir: &Path, path: &Path, text: &str, mode: u32, clobber: Clobber) -> io::Result<()> {
    let mut file =
        tempfile::Builder::new().prefix(".ca-").permissions(Permissions::from_mode(mode)).tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    match clobber {
        Clobber::Yes => file.persist(path)?,
        Clobber::No => file.persist_noclobber(path)?,
    };
    File::open(dir)?.sync_all()
}
