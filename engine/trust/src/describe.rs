//! What a certificate says, for people.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use der::Decode;
use der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

use crate::Date;
use crate::certificate::{Parts, Unreadable, validity};

/// RFC 5280 section 4.2.1.6.
const ID_CE_SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");

/// A certificate in words: what it says, however long, with whatever signs. [`printable`] is for showing it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// Whom it is for, as RFC 4514 writes names.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// The first second in which it is valid.
    pub not_before: Date,
    /// The last one.
    pub not_after: Date,
    /// `DNS:` names, `IP:` addresses and `URI:`s.
    pub names: Vec<String>,
}

impl Description {
    /// That of `certificate`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(certificate: &[u8]) -> Result<Self, Unreadable> {
        let parts = Parts::read(certificate)?;
        let (not_before, not_after) = validity(certificate)?;
        let mut names = Vec::new();
        for extension in parts.extensions()?.iter().filter(|extension| extension.extn_id == ID_CE_SUBJECT_ALT_NAME) {
            names.extend(SubjectAltName::from_der(extension.extn_value.as_bytes())?.0.iter().filter_map(named));
        }
        let name = |der| Ok::<_, Unreadable>(Name::from_der(der)?.to_string());
        Ok(Self { subject: name(parts.subject)?, issuer: name(parts.issuer)?, not_before, not_after, names })
    }
}

fn named(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(alloc::format!("DNS:{name}")),
        GeneralName::UniformResourceIdentifier(uri) => Some(alloc::format!("URI:{uri}")),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(|four| Ipv4Addr::from(four).to_string());
            let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(|all| Ipv6Addr::from(all).to_string()));
            address.ok().map(|address| alloc::format!("IP:{address}"))
        }
        _ => None,
    }
}

/// As much of what a peer wrote as belongs into a line, and commands no terminal.
pub fn printable(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(200).collect()
}
