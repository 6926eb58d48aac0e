//! The names that a server's certificate may be for.

use std::fmt;
use std::str::FromStr;

use rustls::CertificateError;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use rustls::server::ParsedCertificate;
use sealane_trust::Description;

use crate::config::ConfigError;

/// What a server's certificate has to be for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ExpectedName {
    /// A host or an address. Where the certificate has a wildcard, it means what RFC 9525 says.
    Host(ServerName<'static>),
    /// All hosts of a domain, `*.example.com`: the certificate has this very name, as OpenSSL compares it.
    Hosts(String),
}

const WILDCARD: &str = "*.";

impl ExpectedName {
    /// By which name a server may be asked for.
    pub fn host(&self) -> Option<&ServerName<'static>> {
        match self {
            Self::Host(name) => Some(name),
            Self::Hosts(_) => None,
        }
    }

    /// Looks for it in a certificate.
    ///
    /// # Errors
    /// [`CertificateError::NotValidForName`] and its kin, or a certificate that cannot be read.
    pub(crate) fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let all = match self {
            Self::Host(name) => return verify_server_name(&ParsedCertificate::try_from(certificate)?, name),
            Self::Hosts(all) => all,
        };
        let description = Description::of(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let mut names = description.names.iter().filter_map(|name| name.strip_prefix("DNS:"));
        let has_it = names.any(|name| name.eq_ignore_ascii_case(all));
        if has_it { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}

impl From<ServerName<'static>> for ExpectedName {
    fn from(name: ServerName<'static>) -> Self {
        Self::Host(name)
    }
}

impl FromStr for ExpectedName {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError(format!("'{text}' is neither a DNS name nor an IP address"));
        match text.strip_prefix(WILDCARD) {
            Some(domain) => DnsName::try_from(domain).map(|_| Self::Hosts(text.into())).map_err(|_| wrong()),
            None => ServerName::try_from(text.to_string()).map(Self::Host).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for ExpectedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(&name.to_str()),
            Self::Hosts(all) => f.write_str(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_wildcard_is_that_very_name_and_a_host_is_covered_by_one() {
        let names = ["*.File.example.net".to_string(), "one.example.com".to_string()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        for (text, is_for) in [
            ("*.file.example.net", true),
            ("*.FILE.example.net", true),
            ("a.file.example.net", true),
            ("one.example.com", true),
            ("*.example.com", false),
            ("*.example.net", false),
            ("*.a.file.example.net", false),
            ("a.b.file.example.net", false),
            ("file.example.net", false),
            ("127.0.0.1", false),
        ] {
            let name: ExpectedName = text.parse().unwrap();
            assert_eq!(name.check(certificate.der()).is_ok(), is_for, "{text}");
            assert_eq!((name.to_string().as_str(), name.host().is_some()), (text, !text.starts_with('*')));
        }
        for text in ["", "*", "*.", "**.example.com", "a.*.example.com", "*.-", "*.*.example.com", "*x.example.com"] {
            assert!(text.parse::<ExpectedName>().is_err(), "{text}");
        }
    }
}
