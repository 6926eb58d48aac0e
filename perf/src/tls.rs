//! The far end's TLS: the relay's handshake, moved by blocking calls.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, ServerConfig, SupportedProtocolVersion};
use sealane_relay::{Established, Handshake, Wanted};

/// The TLS version that the server speaks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Tls {
    #[value(name = "1.2")]
    Tls12,
    #[value(name = "1.3")]
    Tls13,
}

/// The AEAD that the server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Aead {
    Aes128,
    Aes256,
    Chacha20,
}

impl Aead {
    fn admits(self, suite: CipherSuite) -> bool {
        use CipherSuite as S;
        match self {
            Self::Aes128 => matches!(
                suite,
                S::TLS13_AES_128_GCM_SHA256
                    | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            ),
            Self::Aes256 => matches!(
                suite,
                S::TLS13_AES_256_GCM_SHA384
                    | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                    | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
            ),
            Self::Chacha20 => matches!(
                suite,
                S::TLS13_CHACHA20_POLY1305_SHA256
                    | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                    | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
            ),
        }
    }
}

/// A configuration for exactly this version and AEAD, with session tickets.
///
/// # Errors
/// A file that cannot be used.
pub(crate) fn server_config(certificate: &Path, key: &Path, tls: Tls, aead: Aead) -> Result<Arc<ServerConfig>> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| certificate.display().to_string())?;
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| aead.admits(suite.suite()));
    let versions: [&SupportedProtocolVersion; 1] = match tls {
        Tls::Tls12 => [&rustls::version::TLS12],
        Tls::Tls13 => [&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.enable_secret_extraction = true;
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Does the server's side of a handshake on `stream`.
///
/// # Errors
/// Why it failed; the alert for the client was sent as far as possible.
pub(crate) fn accept(mut stream: &TcpStream, config: &Arc<ServerConfig>) -> Result<Established> {
    let mut handshake = Handshake::server(config)?;
    loop {
        match handshake.advance() {
            Ok(Wanted::Done) => return Ok(handshake.establish()?),
            Ok(Wanted::Write) => {
                stream.write_all(handshake.output()).context("sending the handshake")?;
                handshake.sent();
            }
            Ok(Wanted::Read) => {
                let count = stream.read(handshake.space()?).context("receiving the handshake")?;
                handshake.filled(count)?;
            }
            Err(error) => {
                // The client may be gone: then there is nobody to tell.
                let _ = stream.write_all(handshake.output());
                return Err(error.into());
            }
        }
    }
}
