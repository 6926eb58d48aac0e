//! Which suites, groups and signatures may be agreed on, by their names at IANA; and who is told the secrets.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::ring::{ALL_CIPHER_SUITES, ALL_KX_GROUPS, default_provider};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms};
use rustls::pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use rustls::sign::{Signer, SigningKey};
use rustls::{KeyLog, NamedGroup, NoKeyLog, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite};
use sealane_io::files::append_private;
use zeroize::Zeroizing;

use crate::config::{ConfigError, TlsVersions};
use crate::keys::suite_name;

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suite(SupportedCipherSuite);

/// A group for the key exchange.
#[derive(Clone, Copy, Debug)]
pub struct Group(&'static dyn SupportedKxGroup);

/// A scheme by which either end signs its handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signature(SignatureScheme);

/// How rustls has it that each scheme is verified.
type Verified = &'static [(SignatureScheme, &'static [&'static dyn SignatureVerificationAlgorithm])];

/// What may be agreed on, the preferred one first; nothing named: all that is spoken.
#[derive(Clone, Debug, Default)]
pub struct TlsPolicy {
    /// Cipher suites, of both versions together.
    pub suites: Vec<Suite>,
    /// Groups.
    pub groups: Vec<Group>,
    /// Signatures of handshakes, the peer's and ours; not those on certificates.
    pub signatures: Signatures,
    /// Where the secrets of all connections go, besides.
    pub key_log: Option<Arc<KeyLogFile>>,
}

/// By these a handshake of TLS 1.3 cannot be signed (RFC 8446 section 4.2.3).
const ONLY_TLS_12: [SignatureScheme; 3] =
    [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::RSA_PKCS1_SHA384, SignatureScheme::RSA_PKCS1_SHA512];

/// The schemes that may be used, the preferred one first; none named: all.
#[derive(Clone, Copy, Default)]
pub struct Signatures(Option<Verified>);

impl Signatures {
    /// These, the preferred one first. They are kept for as long as the process runs: rustls wants it so.
    pub fn only(named: &[Signature]) -> Self {
        let all = default_provider().signature_verification_algorithms.mapping;
        let named = named.iter().filter_map(|named| all.iter().find(|(scheme, _)| *scheme == named.0).copied());
        let named: Vec<_> = named.collect();
        Self((!named.is_empty()).then(|| &*named.leak()))
    }

    fn named(self) -> impl Iterator<Item = SignatureScheme> {
        self.0.unwrap_or_default().iter().map(|(scheme, _)| *scheme)
    }

    /// Whether a handshake of TLS 1.3 can be signed by any of them (RFC 8446 section 4.2.3).
    pub fn sign_tls_13(self) -> bool {
        self.0.is_none() || self.named().any(|scheme| !ONLY_TLS_12.contains(&scheme))
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.unwrap_or_default().iter().map(|(scheme, _)| scheme)).finish()
    }
}

impl TlsPolicy {
    /// `key`, which signs by the named schemes only; nothing where it can sign by none of them, in one of the `versions`.
    pub(crate) fn signer(&self, key: Arc<dyn SigningKey>, versions: TlsVersions) -> Option<Arc<dyn SigningKey>> {
        if self.signatures.0.is_none() {
            return Some(key);
        }
        let is_for = |scheme: &SignatureScheme| versions == TlsVersions::Tls12 || !ONLY_TLS_12.contains(scheme);
        key.choose_scheme(&self.signatures.named().filter(is_for).collect::<Vec<_>>())?;
        Some(Arc::new(Choosy { key, signatures: self.signatures }))
    }

    pub(crate) fn key_log(&self) -> Arc<dyn KeyLog> {
        match &self.key_log {
            Some(file) => Arc::clone(file) as Arc<dyn KeyLog>,
            None => Arc::new(NoKeyLog),
        }
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = default_provider();
        if !self.suites.is_empty() {
            provider.cipher_suites = self.suites.iter().map(|suite| suite.0).collect();
        }
        if !self.groups.is_empty() {
            provider.kx_groups = self.groups.iter().map(|group| group.0).collect();
        }
        if let Some(mapping) = self.signatures.0 {
            let all = provider.signature_verification_algorithms.all;
            provider.signature_verification_algorithms = WebPkiSupportedAlgorithms { all, mapping };
        }
        Arc::new(provider)
    }
}

/// A key that does not sign by all schemes it could sign by.
#[derive(Debug)]
struct Choosy {
    key: Arc<dyn SigningKey>,
    signatures: Signatures,
}

impl SigningKey for Choosy {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut named = self.signatures.named().filter(|scheme| offered.contains(scheme));
        named.find_map(|scheme| self.key.choose_scheme(&[scheme]))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

/// The secrets of connections, in the format of NSS, by which Wireshark reads what went over them.
#[derive(Debug)]
pub struct KeyLogFile(Mutex<File>);

impl KeyLogFile {
    /// Behind what is there; nobody else may read a file that is made, nor one that is there.
    ///
    /// # Errors
    /// It cannot be opened, is no file, or others may read it.
    pub fn open(file: &Path) -> io::Result<Self> {
        append_private(file).map(|file| Self(Mutex::new(file)))
    }
}

impl KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line =
            Zeroizing::new(String::with_capacity(label.len() + 2 * (client_random.len() + secret.len()) + 3));
        line.push_str(label);
        for part in [client_random, secret] {
            line.push(' ');
            // Writing to memory does not fail.
            part.iter().for_each(|byte| write!(line, "{byte:02x}").unwrap_or_default());
        }
        line.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::error!("SSLKEYLOGFILE: {error}: secrets of a connection are missing in it");
        }
    }
}

impl FromStr for Signature {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let all = default_provider().signature_verification_algorithms.supported_schemes();
        let found = all.iter().find(|scheme| signature_name(**scheme) == text);
        found.copied().map(Self).ok_or_else(|| {
            let all: Vec<_> = all.iter().map(|scheme| signature_name(*scheme)).collect();
            ConfigError(format!("'{text}' is none of the signature schemes {}", all.join(", ")))
        })
    }
}

/// IANA's names (RFC 8446 section 4.2.3).
fn signature_name(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ED25519 => "ed25519",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        _ => "another scheme",
    }
}

impl FromStr for Suite {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let found = ALL_CIPHER_SUITES.iter().find(|suite| suite_name(**suite) == text);
        found.copied().map(Self).ok_or_else(|| {
            let all: Vec<_> = ALL_CIPHER_SUITES.iter().map(|suite| suite_name(*suite)).collect();
            ConfigError(format!("'{text}' is none of the cipher suites {}", all.join(", ")))
        })
    }
}

/// IANA's names (RFC 8422 section 5.1.1).
fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        NamedGroup::secp384r1 => "secp384r1",
        _ => "another group",
    }
}

impl FromStr for Group {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let found = ALL_KX_GROUPS.iter().find(|group| group_name(group.name()) == text);
        found.copied().map(Self).ok_or_else(|| {
            let all: Vec<_> = ALL_KX_GROUPS.iter().map(|group| group_name(group.name())).collect();
            ConfigError(format!("'{text}' is none of the groups {}", all.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_groups_and_signatures_have_the_names_that_iana_gave_them() {
        for name in [
            "TLS_AES_128_GCM_SHA256",
            "TLS_AES_256_GCM_SHA384",
            "TLS_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ] {
            assert!(name.parse::<Suite>().is_ok(), "{name}");
        }
        for name in ["x25519", "secp256r1", "secp384r1"] {
            assert!(name.parse::<Group>().is_ok(), "{name}");
        }
        let schemes = default_provider().signature_verification_algorithms.supported_schemes();
        for scheme in &schemes {
            let name = signature_name(*scheme);
            assert_eq!(name.parse::<Signature>().unwrap(), Signature(*scheme), "{name}");
        }
        assert!("RSA-SHA256".parse::<Signature>().unwrap_err().to_string().contains("ecdsa_secp256r1_sha256"));
        let error = "AES128-SHA".parse::<Suite>().unwrap_err().to_string();
        assert!(error.contains("is none of the cipher suites TLS_"), "{error}");
        assert!("P-521".parse::<Group>().unwrap_err().to_string().contains("x25519, secp256r1, secp384r1"));
        let policy = TlsPolicy {
            suites: vec!["TLS_CHACHA20_POLY1305_SHA256".parse().unwrap()],
            groups: vec!["secp384r1".parse().unwrap(), "x25519".parse().unwrap()],
            signatures: Signatures::only(&["ed25519".parse().unwrap()]),
            key_log: None,
        };
        let provider = policy.provider();
        assert!(provider.cipher_suites.len() == 1 && provider.kx_groups.len() == 2);
        assert_eq!(provider.kx_groups[0].name(), NamedGroup::secp384r1);
        assert_eq!(provider.signature_verification_algorithms.supported_schemes(), [SignatureScheme::ED25519]);
        // Certificates may be signed by anything all the same.
        assert!(provider.signature_verification_algorithms.all.len() > 1);
    }
}
