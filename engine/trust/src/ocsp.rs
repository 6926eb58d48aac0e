//! OCSP (RFC 6960, with the profile of RFC 5019): what a responder is asked, and what its answer is worth.
//!
//! The signature is verified over the bytes that were received, never over what they were parsed into.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use base64ct::{Base64, Encoding};
use der::asn1::{AnyRef, BitStringRef, Null, ObjectIdentifier, OctetString};
use der::{Decode, Encode, Reader, Tag, TagNumber};
use ring::digest;
use ring::rand::SecureRandom;
use rustls_pki_types::{CertificateDer, UnixTime};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoRef};
use webpki::{EndEntityCert, KeyUsage, spki_for_anchor};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::CrlReason;
use x509_ocsp::{
    CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, OcspResponseStatus, Request, ResponseData,
    SingleResponse, TbsRequest, Version,
};

use crate::certificate::{bits, is_numbered, is_signed_by, open};
use crate::{Algorithms, Certified, Date};

const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const ID_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const ID_PKIX_OCSP_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const ID_PKIX_OCSP_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
/// id-kp-OCSPSigning, 1.3.6.1.5.5.7.3.9 (RFC 6960 section 4.2.2.2).
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];

/// How far a responder's clock and ours may be apart.
const LEEWAY_SECONDS: u64 = 60;
/// How long an answer stands that does not say until when.
const LIFE_WITHOUT_END_SECONDS: u64 = 3600;
/// The most certificates of an answer that are tried as its signer's.
const SIGNERS_MAX: usize = 8;

/// What a responder says of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Status {
    /// It stands.
    Good,
    /// It does not.
    Revoked(Revocation),
    /// The responder does not know it.
    Unknown,
}

/// When and why a certificate was revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// When.
    pub at: Date,
    /// Why, by its name in RFC 5280 section 5.3.1.
    pub reason: Option<&'static str>,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revoked on {}", self.at)?;
        self.reason.map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

/// A responder's answer about one certificate, verified.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What it says.
    pub status: Status,
    /// Since when that has been known to be so.
    pub this_update: Date,
    /// When there will be news, if the responder says so.
    pub next_update: Option<Date>,
}

impl Answer {
    /// The last second in which it counts.
    pub fn valid_until(&self) -> Date {
        Date(match self.next_update {
            Some(Date(next)) => next.saturating_add(LEEWAY_SECONDS),
            None => self.this_update.0.saturating_add(LIFE_WITHOUT_END_SECONDS),
        })
    }
}

/// Why a response is worth nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OcspError {
    /// It is not a response, or of a kind that nobody uses.
    #[error("the OCSP response cannot be read: {0}")]
    Unreadable(String),
    /// The responder gives none.
    #[error("the OCSP responder answers '{0}'")]
    Refused(&'static str),
    /// It is about something else.
    #[error("the OCSP response is about another certificate")]
    OtherCertificate,
    /// Nobody has signed it who may.
    #[error("the OCSP response is signed neither by the certificate's issuer nor by a responder of its: {0}")]
    Signature(String),
    /// Its time is over.
    #[error("the OCSP response has expired on {0}")]
    Expired(Date),
    /// It is from the future.
    #[error("the OCSP response is not valid before {0}: is this host's clock right?")]
    NotYet(Date),
    /// It may be an old one.
    #[error("the OCSP response does not repeat our nonce")]
    Nonce,
}

impl From<der::Error> for OcspError {
    fn from(error: der::Error) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// A request for the status of `certificate`. Its issuer is named by SHA-1 hashes, which every responder knows (RFC 5019
/// section 2.1.1).
///
/// # Errors
/// What cannot be encoded.
pub fn request(certificate: &Certified, nonce: Option<&[u8]>) -> Result<Vec<u8>, OcspError> {
    let (name, key) = issuer_hashes(certificate, &digest::SHA1_FOR_LEGACY_USE_ONLY)?;
    let req_cert = CertId {
        hash_algorithm: AlgorithmIdentifierOwned { oid: ID_SHA1, parameters: Some(Null.into()) },
        issuer_name_hash: OctetString::new(name.as_ref())?,
        issuer_key_hash: OctetString::new(key.as_ref())?,
        serial_number: certificate.serial.clone(),
    };
    let nonce = nonce.map(|nonce| {
        let value = OctetString::new(OctetString::new(nonce)?.to_der()?)?;
        Ok::<_, der::Error>(Extension { extn_id: ID_PKIX_OCSP_NONCE, critical: false, extn_value: value })
    });
    let tbs_request = TbsRequest {
        version: Version::V1,
        requestor_name: None,
        request_list: [Request { req_cert, single_request_extensions: None }].into(),
        request_extensions: nonce.transpose()?.map(|nonce| [nonce].into()),
    };
    Ok(OcspRequest { tbs_request, optional_signature: None }.to_der()?)
}

/// What `response` says of `certificate`; with a `nonce`, only if it repeats that.
///
/// # Errors
/// Why it says nothing.
pub fn read(
    response: &[u8],
    certificate: &Certified,
    nonce: Option<&[u8]>,
    now: UnixTime,
    algorithms: &Algorithms,
) -> Result<Answer, OcspError> {
    let response = OcspResponse::from_der(response)?;
    if let Some(refusal) = refusal(response.response_status) {
        return Err(OcspError::Refused(refusal));
    }
    let basic = response.response_bytes.filter(|bytes| bytes.response_type == ID_PKIX_OCSP_BASIC);
    let basic = basic.ok_or_else(|| OcspError::Unreadable("it is not of the basic type".into()))?;
    let signed = Signed::read(basic.response.as_bytes())?;
    let data = ResponseData::from_der(signed.data)?;
    let about = answers_about(certificate, &data)?;
    signed.verify(certificate, now, algorithms)?;
    let extensions = data.response_extensions.as_deref().unwrap_or_default();
    check_known(extensions)?;
    if let Some(nonce) = nonce
        && !extensions.iter().any(|extension| is_nonce(extension, nonce))
    {
        return Err(OcspError::Nonce);
    }
    let mut answers = about.into_iter().map(|single| answer(single, now.as_secs()));
    // One that revokes is not hidden behind another that does not.
    let first = answers.next().unwrap_or(Err(OcspError::OtherCertificate));
    answers.find(|answer| matches!(answer, Ok(Answer { status: Status::Revoked(_), .. }))).unwrap_or(first)
}

/// RFC 6960 section 4.2.1.
fn refusal(status: OcspResponseStatus) -> Option<&'static str> {
    match status {
        OcspResponseStatus::Successful => None,
        OcspResponseStatus::MalformedRequest => Some("malformedRequest"),
        OcspResponseStatus::InternalError => Some("internalError"),
        OcspResponseStatus::TryLater => Some("tryLater"),
        OcspResponseStatus::SigRequired => Some("sigRequired"),
        OcspResponseStatus::Unauthorized => Some("unauthorized"),
    }
}

/// Those of `data` that are about `certificate`, by either hash.
fn answers_about<'d>(certificate: &Certified, data: &'d ResponseData) -> Result<Vec<&'d SingleResponse>, OcspError> {
    let hashes = [(ID_SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY), (ID_SHA256, &digest::SHA256)];
    let mut about = Vec::new();
    for (id, algorithm) in hashes {
        let (name, key) = issuer_hashes(certificate, algorithm)?;
        about.extend(data.responses.iter().filter(|single| {
            let CertId { hash_algorithm, issuer_name_hash, issuer_key_hash, serial_number } = &single.cert_id;
            hash_algorithm.oid == id
                && issuer_name_hash.as_bytes() == name.as_ref()
                && issuer_key_hash.as_bytes() == key.as_ref()
                && *serial_number == certificate.serial
        }));
    }
    if about.is_empty() { Err(OcspError::OtherCertificate) } else { Ok(about) }
}

fn answer(single: &SingleResponse, now: u64) -> Result<Answer, OcspError> {
    check_known(single.single_extensions.as_deref().unwrap_or_default())?;
    let date = |time: OcspGeneralizedTime| Date(time.0.to_unix_duration().as_secs());
    let status = match &single.cert_status {
        CertStatus::Good(_) => Status::Good,
        CertStatus::Unknown(_) => Status::Unknown,
        CertStatus::Revoked(info) => {
            Status::Revoked(Revocation { at: date(info.revocation_time), reason: info.revocation_reason.map(reason) })
        }
    };
    let answer = Answer { status, this_update: date(single.this_update), next_update: single.next_update.map(date) };
    if answer.this_update.0 > now.saturating_add(LEEWAY_SECONDS) {
        return Err(OcspError::NotYet(answer.this_update));
    }
    if answer.valid_until().0 < now {
        return Err(OcspError::Expired(answer.next_update.unwrap_or(answer.valid_until())));
    }
    Ok(answer)
}

/// RFC 5280 section 5.3.1.
fn reason(reason: CrlReason) -> &'static str {
    match reason {
        CrlReason::Unspecified => "unspecified",
        CrlReason::KeyCompromise => "keyCompromise",
        CrlReason::CaCompromise => "cACompromise",
        CrlReason::AffiliationChanged => "affiliationChanged",
        CrlReason::Superseded => "superseded",
        CrlReason::CessationOfOperation => "cessationOfOperation",
        CrlReason::CertificateHold => "certificateHold",
        CrlReason::RemoveFromCRL => "removeFromCRL",
        CrlReason::PrivilegeWithdrawn => "privilegeWithdrawn",
        CrlReason::AaCompromise => "aACompromise",
    }
}

/// Nothing critical may be overlooked (RFC 5280 section 4.2).
fn check_known(extensions: &[Extension]) -> Result<(), OcspError> {
    match extensions.iter().find(|extension| extension.critical && extension.extn_id != ID_PKIX_OCSP_NONCE) {
        None => Ok(()),
        Some(unknown) => Err(OcspError::Unreadable(alloc::format!("unknown critical extension {}", unknown.extn_id))),
    }
}

fn is_nonce(extension: &Extension, nonce: &[u8]) -> bool {
    let value = extension.extn_value.as_bytes();
    extension.extn_id == ID_PKIX_OCSP_NONCE && OctetString::from_der(value).is_ok_and(|value| value.as_bytes() == nonce)
}

/// The hashes of the issuer's name and of its key (RFC 6960 section 4.1.1).
fn issuer_hashes(
    certificate: &Certified,
    algorithm: &'static digest::Algorithm,
) -> Result<(digest::Digest, digest::Digest), OcspError> {
    let key = spki_for_anchor(&certificate.issuer);
    let key = SubjectPublicKeyInfoRef::from_der(&key)?.subject_public_key;
    Ok((digest::digest(algorithm, &certificate.issuer_name), digest::digest(algorithm, key.raw_bytes())))
}

/// A BasicOCSPResponse (RFC 6960 section 4.2.1) as it was received.
struct Signed<'r> {
    data: &'r [u8],
    /// The contents of the AlgorithmIdentifier.
    algorithm: &'r [u8],
    signature: &'r [u8],
    certificates: Vec<&'r [u8]>,
}

impl<'r> Signed<'r> {
    fn read(basic: &'r [u8]) -> Result<Self, OcspError> {
        let mut fields = open(basic, Tag::Sequence)?;
        let data = fields.tlv_bytes()?;
        let algorithm = AnyRef::decode(&mut fields)?.value();
        let signature = bits(BitStringRef::decode(&mut fields)?)?;
        let mut certificates = Vec::new();
        if !fields.is_finished() {
            let field = fields.tlv_bytes()?;
            if !is_numbered(field, TagNumber::N0) {
                return Err(OcspError::Unreadable("something follows its signature".into()));
            }
            let mut all = open(AnyRef::from_der(field)?.value(), Tag::Sequence)?;
            while !all.is_finished() {
                certificates.push(all.tlv_bytes()?);
            }
        }
        Ok(Self { data, algorithm, signature, certificates })
    }

    /// By the issuer itself, or by a responder that the issuer, and nobody between, has certified for this (RFC 6960 section
    /// 4.2.2.2).
    fn verify(&self, certificate: &Certified, now: UnixTime, algorithms: &Algorithms) -> Result<(), OcspError> {
        let Self { data, algorithm, signature, certificates } = self;
        if is_signed_by(&certificate.issuer, algorithms, algorithm, data, signature) {
            return Ok(());
        }
        let mut why = webpki::Error::InvalidSignatureForPublicKey;
        for responder in certificates.iter().take(SIGNERS_MAX) {
            match self.verify_delegated(responder, certificate, now, algorithms) {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(OcspError::Signature(why.to_string()))
    }

    fn verify_delegated(
        &self,
        responder: &[u8],
        certificate: &Certified,
        now: UnixTime,
        algorithms: &Algorithms,
    ) -> Result<(), webpki::Error> {
        let responder = CertificateDer::from(responder);
        let responder = EndEntityCert::try_from(&responder)?;
        let mut fitting = algorithms.iter().filter(|known| known.signature_alg_id().as_ref() == self.algorithm);
        let by = fitting.try_fold(webpki::Error::InvalidSignatureForPublicKey, |_, known| {
            match responder.verify_signature(*known, self.data, self.signature) {
                Ok(()) => Err(()),
                Err(error) => Ok(error),
            }
        });
        if let Ok(error) = by {
            return Err(error);
        }
        let usage = KeyUsage::required(OCSP_SIGNING);
        let issuer = core::slice::from_ref(&certificate.issuer);
        responder.verify_for_usage(algorithms, issuer, &[], now, usage, None, None).map(drop)
    }
}

/// Bytes that nobody can foresee (RFC 9654: 32 of them).
///
/// # Errors
/// The host has no random numbers.
pub fn nonce() -> Result<[u8; NONCE_BYTES], NoRandomness> {
    let mut nonce = [0; NONCE_BYTES];
    ring::rand::SystemRandom::new().fill(&mut nonce).map_err(|_| NoRandomness)?;
    Ok(nonce)
}

const NONCE_BYTES: usize = 32;

/// The host gives no random numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this host gives no random numbers")]
pub struct NoRandomness;

/// A request as a segment of a path: base64, with what a URL does not take by its number (RFC 6960 appendix A.1).
pub fn url_encoded(request: &[u8]) -> String {
    Base64::encode_string(request).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D")
}
