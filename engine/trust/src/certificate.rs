//! What a certificate says, read out of the bytes that were received: its issuer's signature covers these and no others.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use base64ct::{Base64, Encoding};
use der::asn1::{AnyRef, BitStringRef, Int, ObjectIdentifier};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use ring::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, RawPublicKeyEntity, anchor_from_trusted_cert, spki_for_anchor};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::AuthorityInfoAccessSyntax;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

use crate::{Algorithms, Date};

/// RFC 5280 section 4.2.2.1.
const ID_PE_AUTHORITY_INFO_ACCESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.1");
const ID_CE_EXT_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const ID_KP_SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
const ID_KP_CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");
const ID_AD_OCSP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1");
/// RFC 7633 section 4.
const ID_PE_TLS_FEATURE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.1.24");
/// RFC 6066 section 8.
const STATUS_REQUEST: u64 = 5;

/// A certificate that is not what RFC 5280 says, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the certificate cannot be read: {0}")]
pub struct Unreadable(String);

impl From<der::Error> for Unreadable {
    fn from(error: der::Error) -> Self {
        Self(error.to_string())
    }
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Fingerprint([u8; digest::SHA256_OUTPUT_LEN]);

impl Fingerprint {
    /// That of `certificate`, or of any other bytes.
    pub fn of(certificate: &[u8]) -> Self {
        let mut fingerprint = [0; digest::SHA256_OUTPUT_LEN];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(fingerprint)
    }

    /// As pins are written (RFC 7469 section 2.4).
    pub fn to_base64(&self) -> String {
        Base64::encode_string(&self.0)
    }

    /// The same the other way; `None`: it is not such a text.
    pub fn from_base64(text: &str) -> Option<Self> {
        let mut fingerprint = [0; digest::SHA256_OUTPUT_LEN];
        let decoded = Base64::decode(text, &mut fingerprint).ok()?;
        (decoded.len() == digest::SHA256_OUTPUT_LEN).then_some(Self(fingerprint))
    }
}

/// No chain leads from a certificate to a root.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no chain leads from it to a trusted CA: {0}")]
pub struct Unverified(String);

/// What a certificate says about where its status is to be had.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hints {
    /// Where OCSP responders are, in the certificate's order (RFC 5280 section 4.2.2.1).
    pub ocsp_urls: Vec<String>,
    /// The server has to staple its status (RFC 7633).
    pub must_staple: bool,
}

impl Hints {
    /// Those of `certificate`. An extension that names responders and cannot be read names none; one that may promise a staple does.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(certificate: &[u8]) -> Result<Self, Unreadable> {
        let mut hints = Self::default();
        for extension in Parts::read(certificate)?.extensions()? {
            let value = extension.extn_value.as_bytes();
            match extension.extn_id {
                ID_PE_AUTHORITY_INFO_ACCESS => {
                    let all =
                        AuthorityInfoAccessSyntax::from_der(value).map(|all| all.0).unwrap_or_default().into_iter();
                    hints.ocsp_urls.extend(all.filter(|access| access.access_method == ID_AD_OCSP).filter_map(
                        |access| match access.access_location {
                            GeneralName::UniformResourceIdentifier(url) => Some(url.to_string()),
                            _ => None,
                        },
                    ));
                }
                ID_PE_TLS_FEATURE => {
                    hints.must_staple = Vec::<u64>::from_der(value).map_or(true, |all| all.contains(&STATUS_REQUEST))
                }
                _ => {}
            }
        }
        Ok(hints)
    }
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// By a server (serverAuth).
    Server,
    /// By a client (clientAuth).
    Client,
}

/// A certificate and who has issued it.
#[derive(Clone, Debug)]
pub struct Certified {
    pub(crate) serial: SerialNumber,
    /// The issuer's name as the certificate has it, a whole DER `Name`.
    pub(crate) issuer_name: Vec<u8>,
    pub(crate) issuer: TrustAnchor<'static>,
}

/// A certificate of a chain that was verified, below the root.
#[derive(Clone, Debug)]
pub struct Link {
    /// As it was received.
    pub certificate: CertificateDer<'static>,
    /// What it says and who has issued it.
    pub certified: Certified,
}

impl Certified {
    /// The chain of the certificate that was `shown` first, for this `purpose`: the one that webpki has verified, and not what of
    /// the others looks like it. Among what a peer shows can be namesakes of its issuers, with their keys.
    ///
    /// # Errors
    /// There is none, or a certificate of it cannot be read.
    pub fn path(
        shown: &[CertificateDer<'_>],
        purpose: Purpose,
        roots: &[TrustAnchor<'static>],
        now: UnixTime,
        algorithms: &Algorithms,
    ) -> Result<Vec<Link>, Unverified> {
        let unverified = |error: &dyn core::fmt::Display| Unverified(error.to_string());
        let (own, others) = shown.split_first().ok_or_else(|| Unverified("there is no certificate".into()))?;
        let end = EndEntityCert::try_from(own).map_err(|error| unverified(&error))?;
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let path = end.verify_for_usage(algorithms, roots, others, now, usage, None, None);
        let path = path.map_err(|error| unverified(&error))?;
        let above = path.intermediate_certificates().map(|certificate| certificate.der().into_owned());
        let all: Vec<_> = core::iter::once(own.clone().into_owned()).chain(above).collect();
        let issuers = all.iter().skip(1).map(|issuer| anchor_from_trusted_cert(issuer).map(|issuer| issuer.to_owned()));
        let issuers: Result<Vec<_>, _> = issuers.chain([Ok(path.anchor().to_owned())]).collect();
        let issuers = issuers.map_err(|error| unverified(&error))?;
        let links = all.into_iter().zip(issuers).map(|(certificate, issuer)| {
            let certified = Self::by(&Parts::read(&certificate)?, issuer)?;
            Ok::<_, Unreadable>(Link { certificate, certified })
        });
        links.collect::<Result<_, _>>().map_err(|error| unverified(&error))
    }

    fn by(parts: &Parts<'_>, issuer: TrustAnchor<'static>) -> Result<Self, Unreadable> {
        let serial = SerialNumber::from_der(parts.serial)?;
        Ok(Self { serial, issuer_name: parts.issuer.into(), issuer })
    }

    /// A certificate of our own, with its issuer from among `others`: by its name, and by the signature. `None` when it is not
    /// there.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn find(
        certificate: &[u8],
        others: &[CertificateDer<'_>],
        algorithms: &Algorithms,
    ) -> Result<Option<Self>, Unreadable> {
        let parts = Parts::read(certificate)?;
        let name = AnyRef::from_der(parts.issuer)?.value();
        let is_issuer = |candidate: &TrustAnchor<'_>| {
            candidate.subject.as_ref() == name
                && is_signed_by(candidate, algorithms, parts.algorithm, parts.tbs, parts.signature)
        };
        let mut anchors = others.iter().filter_map(|other| anchor_from_trusted_cert(other).ok());
        anchors.find(is_issuer).map(|issuer| Self::by(&parts, issuer.to_owned())).transpose()
    }
}

/// Whether a certificate may be shown for this: it says nothing about purposes, or names it (RFC 5280 section 4.2.1.12).
///
/// # Errors
/// It cannot be read.
pub fn serves(certificate: &[u8], purpose: Purpose) -> Result<bool, Unreadable> {
    let wanted = match purpose {
        Purpose::Server => ID_KP_SERVER_AUTH,
        Purpose::Client => ID_KP_CLIENT_AUTH,
    };
    let extensions = Parts::read(certificate)?.extensions()?;
    let purposes = extensions.iter().find(|extension| extension.extn_id == ID_CE_EXT_KEY_USAGE);
    let purposes = purposes.map(|extension| Vec::<ObjectIdentifier>::from_der(extension.extn_value.as_bytes()));
    Ok(purposes.transpose()?.is_none_or(|all| all.contains(&wanted)))
}

/// The first and the last second in which a certificate is valid.
///
/// # Errors
/// It cannot be read.
pub fn validity(certificate: &[u8]) -> Result<(Date, Date), Unreadable> {
    let Validity { not_before, not_after } = Validity::from_der(Parts::read(certificate)?.validity)?;
    let [first, last] = [not_before, not_after].map(|time| Date(time.to_unix_duration().as_secs()));
    Ok((first, last))
}

/// Whether `issuer` has signed `message`.
pub(crate) fn is_signed_by(
    issuer: &TrustAnchor<'_>,
    algorithms: &Algorithms,
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = spki_for_anchor(issuer);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else { return false };
    // One identifier of ECDSA signatures stands for several curves.
    let mut fitting = algorithms.iter().filter(|known| known.signature_alg_id().as_ref() == algorithm);
    fitting.any(|known| key.verify_signature(*known, message, signature).is_ok())
}

/// The fields of a certificate (RFC 5280 section 4.1) as they were received.
pub(crate) struct Parts<'c> {
    tbs: &'c [u8],
    /// The contents of the AlgorithmIdentifier.
    algorithm: &'c [u8],
    signature: &'c [u8],
    serial: &'c [u8],
    pub(crate) issuer: &'c [u8],
    validity: &'c [u8],
    pub(crate) subject: &'c [u8],
    /// A sequence of extensions.
    extensions: Option<&'c [u8]>,
}

impl<'c> Parts<'c> {
    pub(crate) fn read(certificate: &'c [u8]) -> Result<Self, Unreadable> {
        let mut outer = open(certificate, Tag::Sequence)?;
        let tbs = outer.tlv_bytes()?;
        let algorithm = AnyRef::decode(&mut outer)?.value();
        let signature = bits(BitStringRef::decode(&mut outer)?)?;
        let mut fields = open(tbs, Tag::Sequence)?;
        let mut serial = fields.tlv_bytes()?;
        if is_numbered(serial, TagNumber::N0) {
            serial = fields.tlv_bytes()?;
        }
        Int::from_der(serial)?;
        let _signature_algorithm = fields.tlv_bytes()?;
        let issuer = fields.tlv_bytes()?;
        let validity = fields.tlv_bytes()?;
        let [subject, _key] = [fields.tlv_bytes()?, fields.tlv_bytes()?];
        let mut extensions = None;
        while !fields.is_finished() {
            let field = fields.tlv_bytes()?;
            if is_numbered(field, TagNumber::N3) {
                extensions = Some(AnyRef::from_der(field)?.value());
            }
        }
        Ok(Self { tbs, algorithm, signature, serial, issuer, validity, subject, extensions })
    }

    pub(crate) fn extensions(&self) -> Result<Vec<Extension>, Unreadable> {
        Ok(self.extensions.map(Vec::<Extension>::from_der).transpose()?.unwrap_or_default())
    }
}

/// The contents of `tlv`.
pub(crate) fn open(tlv: &[u8], tag: Tag) -> der::Result<SliceReader<'_>> {
    let any = AnyRef::from_der(tlv)?;
    any.tag().assert_eq(tag)?;
    SliceReader::new(any.value())
}

/// Whether `tlv` has the constructed, context-specific tag with this number.
pub(crate) fn is_numbered(tlv: &[u8], number: TagNumber) -> bool {
    let tag = AnyRef::from_der(tlv).map(|any| any.tag());
    tag == Ok(Tag::ContextSpecific { constructed: true, number })
}

/// A signature: whole bytes.
pub(crate) fn bits(string: BitStringRef<'_>) -> der::Result<&[u8]> {
    string.as_bytes().ok_or_else(|| der::ErrorKind::Value { tag: Tag::BitString }.into())
}
