//! Who a TLS client has to be: certified by a CA, or in possession of the key of a certificate that is trusted as it is.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};

use sealane_trust::Purpose;

use crate::ca::Trusted;
use crate::server_judge::NotTrusted;

/// Verifies as `chain` does, but for the certificates that are `trusted` themselves.
#[derive(Debug)]
pub(crate) struct ClientJudge {
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    pub(crate) trusted: Trusted,
    /// None but these.
    pub(crate) trusted_only: bool,
}

impl ClientCertVerifier for ClientJudge {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let is_trusted = self.trusted.contains(end_entity);
        if self.trusted_only && !is_trusted {
            return Err(CertificateError::Other(OtherError(Arc::new(NotTrusted))).into());
        }
        if is_trusted && self.trusted.suffices() {
            self.trusted.check(end_entity, Purpose::Client, now)?;
            return Ok(ClientCertVerified::assertion());
        }
        self.chain.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
