//! Which clients may come in, of all that a CA has certified.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sealane_trust::{Description, printable};

use crate::config::ConfigError;
use crate::server_judge::Pin;

/// What a client's certificate must have, to be let in by this.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Allow {
    /// A DNS name, whole: no wildcard of either side means anything.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI, letter by letter.
    Uri(String),
    /// A subject, as RFC 4514 writes it.
    Subject(String),
    /// A key.
    Pin(Pin),
}

impl FromStr for Allow {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || {
            ConfigError(format!("'{text}' is not dns:NAME, ip:ADDRESS, uri:URI, subject:RFC4514 or pin:sha256/BASE64"))
        };
        let (kind, value) = text.split_once(':').filter(|(_, value)| !value.is_empty()).ok_or_else(wrong)?;
        Ok(match kind {
            "dns" => Self::Dns(value.to_ascii_lowercase()),
            "ip" => Self::Ip(value.parse().map_err(|_| wrong())?),
            "uri" => Self::Uri(value.into()),
            "subject" => Self::Subject(value.into()),
            "pin" => Self::Pin(value.parse()?),
            _ => return Err(wrong()),
        })
    }
}

/// Who a client is, by its certificate.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// What it says of itself, or why that cannot be read: webpki has verified it all the same.
    description: Result<Description, String>,
    pin: Pin,
}

impl Client {
    /// That of a certificate that was verified.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let description = Description::of(certificate).map_err(|error| error.to_string());
        Ok(Self { description, pin: Pin::of(certificate).map_err(|error| error.to_string())? })
    }

    /// Whether one of `all` lets it in.
    pub(crate) fn is_among(&self, all: &[Allow]) -> bool {
        let has = |kind: &str, is_it: &dyn Fn(&str) -> bool| {
            let names = self.description.iter().flat_map(|description| &description.names);
            names.filter_map(|name| name.strip_prefix(kind)).any(is_it)
        };
        all.iter().any(|allow| match allow {
            Allow::Dns(name) => has("DNS:", &|own| own.eq_ignore_ascii_case(name)),
            Allow::Ip(address) => has("IP:", &|own| own.parse() == Ok(*address)),
            Allow::Uri(uri) => has("URI:", &|own| own == uri),
            Allow::Subject(subject) => {
                self.description.as_ref().is_ok_and(|description| description.subject == *subject)
            }
            Allow::Pin(pin) => self.pin == *pin,
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES_MAX: usize = 4;
        let Description { subject, names, .. } = match &self.description {
            Ok(description) => description,
            Err(why) => return write!(f, "{} ({})", self.pin, printable(why)),
        };
        f.write_str(if subject.is_empty() { "(no subject)" } else { "" })?;
        f.write_str(&printable(subject))?;
        names.iter().take(NAMES_MAX).try_for_each(|name| write!(f, " {}", printable(name)))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn a_client_is_known_by_each_of_its_names_and_by_no_part_of_one() {
        let mut params = CertificateParams::new(["Host.Example.com".to_string()]).unwrap();
        params.subject_alt_names.push(SanType::URI("spiffe://example.com/nfs".try_into().unwrap()));
        params.subject_alt_names.push(SanType::DnsName("*.wild.example.com".try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "a, client");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let client = Client::of(certificate.der()).unwrap();
        let subject = client.description.as_ref().unwrap().subject.clone();
        let pin = client.pin.to_string();
        for (text, is_it) in [
            ("dns:host.example.com", true),
            ("dns:HOST.example.COM", true),
            ("dns:example.com", false),
            ("dns:ost.example.com", false),
            ("dns:host.example.com.", false),
            ("dns:*.example.com", false),
            ("dns:a.wild.example.com", false),
            ("dns:*.wild.example.com", true),
            ("uri:spiffe://example.com/nfs", true),
            ("uri:spiffe://example.com/", false),
            ("uri:spiffe://example.com/NFS", false),
            ("uri:host.example.com", false),
            ("dns:spiffe://example.com/nfs", false),
            ("subject:CN=a", false),
            ("pin:sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", false),
            (&format!("subject:{subject}"), true),
            (&format!("pin:{pin}"), true),
        ] {
            let allow: Allow = text.parse().unwrap();
            assert_eq!(client.is_among(std::slice::from_ref(&allow)), is_it, "{text}");
            let nobody: Allow = "dns:nobody.test".parse().unwrap();
            assert_eq!(client.is_among(&[nobody, allow]), is_it, "{text}");
        }
        assert!(!client.is_among(&[]));
        assert!(subject.contains("a\\, client"), "what separates names is marked where it is none: {subject}");
        for text in ["", "dns", "dns:", "name:x", "pin:x", "host.example.com"] {
            assert!(text.parse::<Allow>().is_err(), "{text}");
        }
    }
}
