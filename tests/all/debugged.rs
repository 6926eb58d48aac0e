//! No type that holds keys shows them to whoever prints it.

use std::fmt::Debug;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use sealane_proto::tls::{Suite, TrafficKey, Version};
use sealane_relay::{PemSource, TlsServerOptions, server_config};

use crate::support::pki::Pki;

/// The forms in which bytes could be printed.
fn forms(bytes: &[u8]) -> [String; 3] {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    [hex.clone(), hex.to_uppercase(), list.trim_matches(['[', ']']).to_string()]
}

fn shows_none(value: &impl Debug, secrets: &[&[u8]]) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for secret in secrets {
            assert!(forms(secret).iter().all(|form| !flat.contains(form.as_str())), "{text}");
            assert!(!text.contains(&*String::from_utf8_lossy(secret)), "{text}");
        }
    }
}

/// `Sealer`, `Opener`, `Inbound`, `Established` and `Handshake` have no `Debug` at all: this would not compile if they had,
/// because both traits would apply.
mod without_debug {
    use sealane_proto::tls::{ExpandedKey, Inbound, Opener, Sealer};
    use sealane_relay::{Established, Handshake};

    trait AmbiguousIfDebug<Marker> {
        fn check() {}
    }
    impl<T: ?Sized> AmbiguousIfDebug<()> for T {}
    #[allow(dead_code, reason = "it is never made: it only names the other implementation")]
    struct HasDebug;
    impl<T: ?Sized + std::fmt::Debug> AmbiguousIfDebug<HasDebug> for T {}

    pub fn check() {
        <Sealer as AmbiguousIfDebug<_>>::check();
        <Opener as AmbiguousIfDebug<_>>::check();
        <Inbound as AmbiguousIfDebug<_>>::check();
        <ExpandedKey as AmbiguousIfDebug<_>>::check();
        <Established as AmbiguousIfDebug<_>>::check();
        <Handshake as AmbiguousIfDebug<_>>::check();
        <sealane_io::secret::Locked<u8> as AmbiguousIfDebug<_>>::check();
    }
}

/// The first bytes of the private number of an elliptic key (RFC 5915 section 3), which no certificate has.
fn secret_of(pem: &str) -> Vec<u8> {
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let der = der.secret_der();
    let start = der.windows(5).position(|bytes| bytes == [2, 1, 1, 4, 32]).unwrap() + 5;
    der[start..start + 8].to_vec()
}

#[test]
fn printing_what_holds_keys_shows_none() {
    without_debug::check();
    let (key, iv) = ([0xc5; 32], [0x9e; 12]);
    let traffic = TrafficKey::new(Version::Tls13, Suite::Aes256Gcm, &key, &iv, 7).unwrap();
    shows_none(&traffic, &[&key[..4], &iv[..4]]);
    let identity = &Pki::get().server;
    let pem = std::fs::read_to_string(&identity.key).unwrap();
    let body = pem.lines().nth(1).unwrap().to_string();
    let secret = secret_of(&pem);
    // What would be seen if somebody printed it.
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap().secret_der().to_vec();
    assert!(forms(&secret).iter().any(|form| format!("{der:?}").contains(form.as_str())));
    let text = PemSource::Text { name: "the key", pem };
    shows_none(&text, &[body.as_bytes(), &secret]);
    let options = TlsServerOptions::new(identity.cert.clone().into(), text);
    shows_none(&options, &[body.as_bytes(), &secret]);
    // All that makes the connections of a tunnel, rustls' configuration with the private key among it.
    shows_none(&server_config(&options).unwrap(), &[&secret]);
}
