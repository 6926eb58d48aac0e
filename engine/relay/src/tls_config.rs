//! What both ends' configurations of rustls are made of: certificates, keys and versions, out of files.

use std::fmt;
use std::path::{Path, PathBuf};

use rustls::SupportedProtocolVersion;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::config::TlsVersions;
use crate::tls_policy::TlsPolicy;

/// PEM text, and where it is.
#[derive(Clone)]
pub enum PemSource {
    /// In a file.
    File(PathBuf),
    /// In memory already, under a name for messages.
    Text {
        /// What it is.
        name: &'static str,
        /// The text.
        pem: String,
    },
}

/// The text may be a private key: only its name is shown.
impl fmt::Debug for PemSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PemSource({})", self.name().display())
    }
}

impl From<PathBuf> for PemSource {
    fn from(file: PathBuf) -> Self {
        Self::File(file)
    }
}

impl PemSource {
    /// The name for messages.
    pub(crate) fn name(&self) -> &Path {
        match self {
            Self::File(file) => file,
            Self::Text { name, .. } => Path::new(name),
        }
    }

    pub(crate) fn read(&self) -> Result<Vec<u8>, TlsConfigError> {
        match self {
            Self::File(file) => std::fs::read(file).map_err(|error| self.error(error)),
            Self::Text { pem, .. } => Ok(pem.clone().into_bytes()),
        }
    }

    pub(crate) fn error(&self, what: impl fmt::Display) -> TlsConfigError {
        TlsConfigError::File { file: self.name().into(), what: what.to_string() }
    }
}

/// A file or a combination that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file.
    #[error("{}: {what}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// The host has no roots.
    #[error("no root certificate found on this host ({0}); name one with --ca-file or --ca-dir")]
    NoRoots(String),
    /// A certificate promises what we do not have.
    #[error("the new certificate promises a stapled OCSP response (must-staple), and no responder has given one yet")]
    NoStaple,
    /// Any key would be accepted.
    #[error("--pin-only without --pin")]
    NoPins,
    /// rustls refuses the combination.
    #[error("{0}")]
    Rustls(#[from] rustls::Error),
}

pub(crate) fn protocol_versions(versions: TlsVersions) -> &'static [&'static SupportedProtocolVersion] {
    static TLS_12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    static TLS_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match versions {
        TlsVersions::Tls12 => &TLS_12,
        TlsVersions::Tls13 => &TLS_13,
        TlsVersions::Both => rustls::ALL_VERSIONS,
    }
}

/// Our certificate chain with its key, which signs by what `policy` allows.
///
/// # Errors
/// A file that does not contain what it should, or the two do not go together.
pub(crate) fn pair(
    certificate: &PemSource,
    key: &PemSource,
    policy: &TlsPolicy,
    versions: TlsVersions,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsConfigError> {
    let chain = certificates(certificate)?;
    let signer = provider.key_provider.load_private_key(private_key(key)?).map_err(|_| {
        key.error(
            "a key that cannot be signed with here: RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519 can be",
        )
    })?;
    let signer = policy
        .signer(signer, versions)
        .ok_or_else(|| key.error("signs by none of --tls-signatures, or by none of TLS 1.3 (see --tls)"))?;
    let pair = CertifiedKey::new(chain, signer);
    let named = certificate.name().display();
    match pair.keys_match() {
        Ok(()) => Ok(pair),
        Err(rustls::Error::InconsistentKeys(_)) => Err(key.error(format!("not the key of the certificate in {named}"))),
        Err(error) => Err(key.error(format!("cannot be used with {named}: {error}"))),
    }
}

pub(crate) fn certificates(file: &PemSource) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let pem = file.read()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| file.error(format!("not valid PEM: {error}")))?;
    if all.is_empty() {
        return Err(file.error("contains no PEM certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(all)
}

pub(crate) fn private_key(file: &PemSource) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let pem = Zeroizing::new(file.read()?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let encrypted = [&b"BEGIN ENCRYPTED PRIVATE KEY"[..], &b"Proc-Type: 4,ENCRYPTED"[..]];
        if encrypted.iter().any(|mark| pem.windows(mark.len()).any(|window| window == *mark)) {
            file.error("the private key is encrypted; decrypt it first (openssl pkey -in FILE -out FILE)")
        } else {
            file.error(format!("contains no PEM private key (PKCS#8, PKCS#1 or SEC1): {error}"))
        }
    })
}
