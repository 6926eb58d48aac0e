//! A directory for one run, with a CA and a server certificate that nobody trusts outside of it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "nfs.perf.example";

/// Removed when this is dropped.
pub(crate) struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes a directory that only its owner can enter.
    ///
    /// # Errors
    /// When there is one of this name already, or none can be made.
    pub(crate) fn create() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("sealane-perf-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("sealane-perf: {}: {error}", self.path.display());
        }
    }
}

/// Where the three PEM files are.
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) server_key: PathBuf,
}

/// Makes an ECDSA P-256 CA and a server certificate under it, and writes them into `directory`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn make(directory: &RunDirectory) -> Result<Certificates> {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca = CertificateParams::new(Vec::new())?;
    // With one name for both, OpenSSL takes the server's certificate for one that signed itself.
    ca.distinguished_name.push(DnType::CommonName, "sealane-perf CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let server_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut server = CertificateParams::new(vec![SERVER_NAME.to_string()])?;
    server.distinguished_name.push(DnType::CommonName, SERVER_NAME);
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_pem = server.signed_by(&server_key, &issuer)?.pem();

    let made = Certificates {
        ca: directory.file("ca.pem"),
        server: directory.file("server.pem"),
        server_key: directory.file("server.key"),
    };
    write(&made.ca, &ca_pem)?;
    write(&made.server, &server_pem)?;
    write(&made.server_key, &server_key.serialize_pem())?;
    Ok(made)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
