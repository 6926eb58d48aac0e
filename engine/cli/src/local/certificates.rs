//! An authority and a server's certificate that exist in memory only, for as long as they are used.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use sealane_relay::PemSource;

/// What the two tunnels are given.
pub(crate) struct Certificates {
    pub(crate) ca: PemSource,
    pub(crate) certificate: PemSource,
    pub(crate) key: PemSource,
}

/// Makes an ECDSA P-256 authority and a certificate for `name` under it.
///
/// # Errors
/// What the generator says.
pub(crate) fn make(name: &str) -> Result<Certificates> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name.push(DnType::CommonName, "Sealane demo CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec![name.to_string()])?;
    server.distinguished_name.push(DnType::CommonName, name);
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer)?.pem();
    Ok(Certificates {
        ca: PemSource::Text { name: "the demo's CA", pem: ca_pem },
        certificate: PemSource::Text { name: "the demo's certificate", pem: certificate },
        key: PemSource::Text { name: "the demo's key", pem: key.serialize_pem() },
    })
}
