//! rustls' errors with the cause in words that an administrator can act on.

use std::fmt;

use rustls::{AlertDescription, CertificateError, OtherError, PeerIncompatible};
use sealane_proto::tls::Role;

use crate::server_judge::{NotPinned, NotTrusted};

/// What the other end of a connection is called.
pub(crate) fn peer_of(role: Role) -> &'static str {
    match role {
        Role::Client => "the server",
        Role::Server => "the client",
    }
}

/// An error of rustls at the end `Role`.
pub(crate) struct Explained<'e>(pub(crate) Role, pub(crate) &'e rustls::Error);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use rustls::Error as E;
        let Self(role, error) = self;
        let peer = peer_of(*role);
        match error {
            E::InvalidCertificate(cause) => certificate(f, *role, cause, error),
            E::NoCertificatesPresented => {
                let demands = if *role == Role::Server { ", and --client-ca demands one" } else { "" };
                write!(f, "{peer} showed no certificate{demands} (NoCertificatesPresented)")
            }
            E::InvalidMessage(_) => write!(f, "{peer} does not seem to speak TLS ({error})"),
            E::AlertReceived(AlertDescription::CloseNotify) => {
                write!(f, "{peer} closed the connection during the TLS handshake")
            }
            E::AlertReceived(alert) => write!(f, "{peer} refused the handshake with the alert {alert:?}"),
            E::PeerIncompatible(
                cause @ (PeerIncompatible::ServerDoesNotSupportTls12Or13
                // What a client of TLS 1.1 lacks first.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled),
            ) => write!(f, "{peer} speaks no TLS version that is allowed here ({cause:?}): see --tls"),
            // rustls says the second also where it is the suites that do not fit.
            E::PeerIncompatible(
                cause @ (PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon),
            ) => write!(
                f,
                "{peer} offers no cipher suite that is spoken here: AEAD suites, with ECDHE over X25519, P-256 or P-384 \
                 ({cause:?})"
            ),
            other => write!(f, "{other}"),
        }
    }
}

fn certificate(f: &mut fmt::Formatter<'_>, role: Role, cause: &CertificateError, error: &rustls::Error) -> fmt::Result {
    let peer = peer_of(role);
    match cause {
        CertificateError::UnknownIssuer => {
            let option = match role {
                Role::Client => "--ca-file",
                Role::Server => "--client-ca",
            };
            write!(f, "{peer}'s certificate is not signed by a trusted CA (UnknownIssuer): name its CA with {option}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            write!(f, "{peer}'s certificate is for another name ({error}): see --server-name")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            write!(f, "{peer}'s certificate has expired ({error})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            write!(f, "{peer}'s certificate is not valid yet ({error}): is this host's clock right?")
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let purpose = match role {
                Role::Client => "serverAuth",
                Role::Server => "clientAuth",
            };
            write!(f, "{peer}'s certificate is for another purpose: its extendedKeyUsage lacks {purpose} ({error})")
        }
        CertificateError::Revoked => write!(f, "{peer}'s certificate has been revoked, says a CRL (Revoked)"),
        CertificateError::UnknownRevocationStatus => write!(
            f,
            "there is no CRL of an issuer in its chain (UnknownRevocationStatus): {peer}'s certificate may have been revoked; \
             give that CRL too, or --crl-check own"
        ),
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            write!(
                f,
                "the CRL that {peer}'s certificate wants has expired ({error}): renew it, or --crl-expired accept"
            )
        }
        CertificateError::Other(OtherError(other)) if other.is::<NotPinned>() || other.is::<NotTrusted>() => {
            write!(f, "{peer}'s certificate is not accepted: {other}")
        }
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            write!(
                f,
                "{peer}'s certificate is a CA certificate (CA:TRUE, as 'openssl req -x509' makes them): \
                 issue one without it (CaUsedAsEndEntity)"
            )
        }
        // What it says of them is bytes.
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            write!(
                f,
                "{peer}'s certificate, or one above it, is signed in a way that is not verified here (UnsupportedSignatureAlgorithm)"
            )
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            write!(
                f,
                "a signature of {peer}'s is of a kind that does not go with its key (UnsupportedSignatureAlgorithmForPublicKey)"
            )
        }
        _ => write!(f, "{error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{Error, InvalidMessage, OtherError};

    use super::*;

    /// What the verifier says of a certificate of a CA; its text is all that comes through.
    #[derive(Debug)]
    struct CaUsedAsEndEntity;

    impl fmt::Display for CaUsedAsEndEntity {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Debug::fmt(self, f)
        }
    }

    impl std::error::Error for CaUsedAsEndEntity {}

    #[test]
    fn an_administrator_is_told_what_to_do() {
        use CertificateError as C;
        let other = C::Other(OtherError(Arc::new(CaUsedAsEndEntity)));
        let cases: [(Error, &str, &str); 11] = [
            (C::UnknownIssuer.into(), "name its CA with --ca-file", "name its CA with --client-ca"),
            (C::NotValidForName.into(), "the server's certificate is for another name", "the client's"),
            (C::Expired.into(), "the server's certificate has expired", "the client's certificate has expired"),
            (C::NotValidYet.into(), "is this host's clock right?", "is this host's clock right?"),
            (C::InvalidPurpose.into(), "lacks serverAuth", "lacks clientAuth"),
            (other.into(), "CA:TRUE", "CA:TRUE"),
            (
                Error::NoCertificatesPresented,
                "the server showed no certificate (",
                "client showed no certificate, and --client",
            ),
            (InvalidMessage::InvalidCcs.into(), "the server does not seem to speak TLS", "the client does not seem"),
            (Error::AlertReceived(AlertDescription::CloseNotify), "the server closed", "the client closed"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "the alert UnknownCA", "the client refused"),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), "AEAD suites", "the client offers no cipher suite"),
        ];
        for (error, to_client, to_server) in cases {
            for (role, words) in [(Role::Client, to_client), (Role::Server, to_server)] {
                let text = Explained(role, &error).to_string();
                assert!(text.contains(words) && text.lines().count() == 1, "{error:?}: {text}");
            }
        }
    }
}
