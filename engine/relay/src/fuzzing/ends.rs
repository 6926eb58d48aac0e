//! Configurations of both ends, with a certificate for fuzzing only.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

use crate::ca::CaOptions;
use crate::config::TlsVersions;
use crate::tls_client::{TlsClient, TlsClientOptions, client_config};
use crate::tls_config::PemSource;
use crate::tls_server::{TlsServer, TlsServerOptions, server_config};

const CA: &str = include_str!("certificates/ca.pem");
const LEAF: &str = include_str!("certificates/leaf.pem");
const LEAF_KEY: &str = include_str!("certificates/leaf-key.pem");

/// What the certificate is for.
pub(super) fn name() -> ServerName<'static> {
    ServerName::try_from("nfs.test").expect("a valid name")
}

/// Both ends' configurations.
pub(super) struct Ends {
    pub(super) client: TlsClient,
    pub(super) server: TlsServer,
}

impl Ends {
    /// New ones, without a session to resume. The lowest two bits say which versions, the third one whether the client
    /// shows a certificate.
    pub(super) fn new(bits: u8) -> Self {
        let text = |name, pem: &str| PemSource::Text { name, pem: pem.into() };
        let versions = match bits & 3 {
            0 | 3 => TlsVersions::Both,
            1 => TlsVersions::Tls13,
            _ => TlsVersions::Tls12,
        };
        let is_mutual = bits & 4 != 0;
        let identity = || (text("leaf", LEAF), text("leaf key", LEAF_KEY));
        let client = TlsClientOptions {
            cas: text("ca", CA).into(),
            identity: is_mutual.then(identity),
            versions,
            ..TlsClientOptions::default()
        };
        let (certificate, key) = identity();
        let client_cas = if is_mutual { text("ca", CA).into() } else { CaOptions::default() };
        let server = TlsServerOptions { client_cas, versions, ..TlsServerOptions::new(certificate, key) };
        Self {
            client: client_config(&client).expect("the client's configuration"),
            server: server_config(&server).expect("the server's configuration"),
        }
    }

    /// The same each time. What it remembers of former connections is not offered: each is as if it were the first.
    pub(super) fn shared(bits: u8) -> &'static Self {
        static ENDS: [OnceLock<Ends>; 8] = [const { OnceLock::new() }; 8];
        let bits = bits & 7;
        let slot = ENDS.get(usize::from(bits)).expect("three bits");
        slot.get_or_init(|| {
            let Self { client, server } = Self::new(bits);
            Self { client: TlsClient { config: Arc::clone(&client.fresh), ..client }, server }
        })
    }

    /// rustls' configurations, with handshake messages split into fragments of so many bytes.
    pub(super) fn configs(&self, fragment: Option<usize>) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
        let mut client = ClientConfig::clone(&self.client.config);
        let mut server = ServerConfig::clone(&self.server.config);
        client.max_fragment_size = fragment;
        server.max_fragment_size = fragment;
        (Arc::new(client), Arc::new(server))
    }
}
