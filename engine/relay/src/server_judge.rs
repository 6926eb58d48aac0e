//! Who a TLS server has to be: certified by a CA for one of the names, or in possession of a key that is pinned, or both.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use sealane_trust::{Fingerprint, Purpose};

use crate::ca::Trusted;
use crate::config::ConfigError;
use crate::expected_name::ExpectedName;

/// The SHA-256 of a public key (a DER SubjectPublicKeyInfo), as RFC 7469 has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pin(Fingerprint);

const PIN_PREFIX: &str = "sha256/";

impl Pin {
    /// That of a certificate's key.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Fingerprint::of(&key)))
    }
}

impl FromStr for Pin {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let hash = text.strip_prefix(PIN_PREFIX).and_then(Fingerprint::from_base64);
        hash.map(Self).ok_or_else(|| {
            ConfigError(format!("'{text}' is not sha256/BASE64, the 44 characters of a hash of a public key"))
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN_PREFIX}{}", self.0.to_base64())
    }
}

/// A server's key is another one.
#[derive(Debug)]
pub(crate) struct NotPinned(Pin);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its key is none of --pin: it is {}", self.0)
    }
}

impl std::error::Error for NotPinned {}

/// A peer's certificate is another one.
#[derive(Debug)]
pub(crate) struct NotTrusted;

impl fmt::Display for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is none of those that are trusted themselves (--trusted-only)")
    }
}

impl std::error::Error for NotTrusted {}

thread_local! {
    /// What came stapled to the certificate that this thread is verifying: rustls shows it to its verifier, to nobody else.
    static STAPLE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What was stapled to the certificate that this thread has just verified; once.
pub(crate) fn take_staple() -> Vec<u8> {
    STAPLE.take()
}

/// Verifies what the options want, and keeps what is stapled for after the handshake: only then is it known that the server has
/// the key, and only then may anybody wait.
#[derive(Debug)]
pub(crate) struct ServerJudge {
    /// `None`: no chain and no name is asked for.
    pub(crate) chain: Option<Arc<WebPkiServerVerifier>>,
    /// Of these no chain is asked for, but all else.
    pub(crate) trusted: Trusted,
    /// None but these.
    pub(crate) trusted_only: bool,
    /// Any of them is enough; none: the one that the handshake asks for (SNI).
    pub(crate) names: Vec<ExpectedName>,
    /// Any name is, and none.
    pub(crate) any_name: bool,
    /// Any of them; none: any key.
    pub(crate) pins: Vec<Pin>,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl ServerJudge {
    fn check_chain(
        &self,
        chain: &WebPkiServerVerifier,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked_for: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let its_own = [ExpectedName::from(asked_for.to_owned())];
        let names = if self.names.is_empty() { &its_own } else { self.names.as_slice() };
        let mut verdict = Err(rustls::Error::General("no name to verify".into()));
        let is_trusted = self.trusted.contains(end_entity);
        if self.trusted_only && !is_trusted {
            return Err(CertificateError::Other(OtherError(Arc::new(NotTrusted))).into());
        }
        let is_trusted = is_trusted && self.trusted.suffices();
        if is_trusted {
            self.trusted.check(end_entity, Purpose::Server, now)?;
        }
        for name in names {
            let by_chain =
                |name: &ServerName<'_>| chain.verify_server_cert(end_entity, intermediates, name, &[], now).map(drop);
            verdict = match name {
                name if is_trusted => name.check(end_entity),
                ExpectedName::Host(name) => by_chain(name),
                // The name is looked at last.
                ExpectedName::Hosts(_) => match by_chain(asked_for) {
                    Err(error) if !is_about_name(&error) => Err(error),
                    _ => name.check(end_entity),
                },
            };
            match &verdict {
                Err(error) if is_about_name(error) && self.any_name => return Ok(()),
                Err(error) if is_about_name(error) => {}
                _ => return verdict,
            }
        }
        verdict
    }
}

/// Whether a certificate is good, but for another name.
fn is_about_name(error: &rustls::Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

impl ServerCertVerifier for ServerJudge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        STAPLE.with_borrow_mut(|staple| *staple = ocsp_response.to_vec());
        if let Some(chain) = &self.chain {
            self.check_chain(chain, end_entity, intermediates, server_name, now)?;
        }
        if !self.pins.is_empty() {
            let pin = Pin::of(end_entity)?;
            if !self.pins.contains(&pin) {
                return Err(CertificateError::Other(OtherError(Arc::new(NotPinned(pin)))).into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
