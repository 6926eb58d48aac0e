//! Responders of every kind, honest and not, signed by keys of the test's own.

use std::format;
use std::string::{String, ToString};
use std::time::Duration;
use std::vec::Vec;

use der::asn1::{BitString, GeneralizedTime, Null, ObjectIdentifier, OctetString};
use der::{Decode, Encode};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, SigningKey, date_time_ymd,
};
use ring::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use spki::AlgorithmIdentifierOwned;
use webpki::{anchor_from_trusted_cert, ring as algorithms};
use x509_cert::Certificate as X509;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::CrlReason;
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, ResponderId, ResponseData,
    RevokedInfo, SingleResponse, Version,
};

use crate::{Algorithms, Answer, Certified, Date, Fingerprint, Hints, Purpose, Status, nonce, read, request};

const ALGORITHMS: &Algorithms = &[algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA384];
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// 2027-01-15.
const NOW: u64 = 1_800_000_000;

struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new(["nfs.test".to_string()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn certify(&self, certificate: &Certificate) -> Certified {
        let shown = [certificate.der().clone()];
        let path = Certified::path(
            &shown,
            Purpose::Server,
            &[self.root()],
            UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
            ALGORITHMS,
        );
        path.unwrap().remove(0).certified
    }

    fn root(&self) -> TrustAnchor<'static> {
        anchor_from_trusted_cert(self.certificate.der()).unwrap().to_owned()
    }
}

/// What a responder says, and how.
struct Saying {
    about: CertId,
    status: CertStatus,
    this_update: u64,
    next_update: Option<u64>,
    extensions: Vec<Extension>,
    certificates: Vec<X509>,
}

fn time(seconds: u64) -> OcspGeneralizedTime {
    OcspGeneralizedTime(GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).unwrap())
}

impl Saying {
    fn good(about: CertId) -> Self {
        Self {
            about,
            status: CertStatus::Good(Null),
            this_update: NOW - 100,
            next_update: Some(NOW + 1000),
            extensions: Vec::new(),
            certificates: Vec::new(),
        }
    }

    fn signed_by(self, key: &KeyPair) -> Vec<u8> {
        let Self { about, status, this_update, next_update, extensions, certificates } = self;
        let single = SingleResponse {
            cert_id: about,
            cert_status: status,
            this_update: time(this_update),
            next_update: next_update.map(time),
            single_extensions: None,
        };
        let data = ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByKey(OctetString::new([0; 20]).unwrap()),
            produced_at: time(NOW),
            responses: [single].into(),
            response_extensions: (!extensions.is_empty()).then_some(extensions),
        };
        let signature = key.sign(&data.to_der().unwrap()).unwrap();
        let basic = BasicOcspResponse {
            tbs_response_data: data,
            signature_algorithm: AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA256, parameters: None },
            signature: BitString::from_bytes(&signature).unwrap(),
            certs: (!certificates.is_empty()).then_some(certificates),
        };
        OcspResponse::successful(basic).unwrap().to_der().unwrap()
    }
}

/// The CertID of a request for `certified`.
fn asked(certified: &Certified) -> CertId {
    let request = OcspRequest::from_der(&request(certified, None).unwrap()).unwrap();
    request.tbs_request.request_list[0].req_cert.clone()
}

fn said(response: &[u8], certified: &Certified) -> Result<Answer, String> {
    read(response, certified, None, UnixTime::since_unix_epoch(Duration::from_secs(NOW)), ALGORITHMS)
        .map_err(|error| error.to_string())
}

fn x509(certificate: &Certificate) -> X509 {
    X509::from_der(certificate.der()).unwrap()
}

#[test]
fn an_answer_of_the_issuer_says_what_it_says() {
    let ca = Authority::new("ca");
    let (certificate, _) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    let about = asked(&certified);
    let good = said(&Saying::good(about.clone()).signed_by(ca.issuer.key()), &certified).unwrap();
    assert_eq!(
        good,
        Answer { status: Status::Good, this_update: Date(NOW - 100), next_update: Some(Date(NOW + 1000)) }
    );
    assert_eq!(good.valid_until(), Date(NOW + 1060));
    let info = RevokedInfo { revocation_time: time(NOW - 86_400), revocation_reason: Some(CrlReason::KeyCompromise) };
    let revoked = Saying { status: CertStatus::Revoked(info), ..Saying::good(about.clone()) };
    let Status::Revoked(revocation) = said(&revoked.signed_by(ca.issuer.key()), &certified).unwrap().status else {
        panic!("revoked");
    };
    assert_eq!(revocation.to_string(), "revoked on 2027-01-14T08:00:00Z (keyCompromise)");
    let unknown = Saying { status: CertStatus::Unknown(Null), ..Saying::good(about) };
    assert_eq!(said(&unknown.signed_by(ca.issuer.key()), &certified).unwrap().status, Status::Unknown);
}

#[test]
fn an_answer_names_its_certificate_by_either_hash_and_no_other() {
    let (ca, other_ca) = (Authority::new("ca"), Authority::new("ca"));
    let (certificate, _) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    let hash = |oid, algorithm: &'static digest::Algorithm| {
        let hashed = |bytes: &[u8]| OctetString::new(digest::digest(algorithm, bytes).as_ref()).unwrap();
        let issuer = x509(&ca.certificate).tbs_certificate;
        CertId {
            hash_algorithm: AlgorithmIdentifierOwned { oid, parameters: None },
            issuer_name_hash: hashed(&issuer.subject.to_der().unwrap()),
            issuer_key_hash: hashed(issuer.subject_public_key_info.subject_public_key.raw_bytes()),
            serial_number: x509(&certificate).tbs_certificate.serial_number,
        }
    };
    let sha1 = hash(SHA1, &digest::SHA1_FOR_LEGACY_USE_ONLY);
    assert_eq!(asked(&certified).issuer_key_hash, sha1.issuer_key_hash, "what is asked is what RFC 5019 says");
    for about in [sha1, hash(SHA256, &digest::SHA256)] {
        assert!(said(&Saying::good(about).signed_by(ca.issuer.key()), &certified).is_ok());
    }
    let (other, _) = ca.issue(|_| {});
    let of_another = asked(&ca.certify(&other));
    let (foreign, _) = other_ca.issue(|_| {});
    let of_another_ca = CertId { serial_number: asked(&certified).serial_number, ..asked(&other_ca.certify(&foreign)) };
    for about in [of_another, of_another_ca, hash(SHA1, &digest::SHA256)] {
        let error = said(&Saying::good(about).signed_by(ca.issuer.key()), &certified).unwrap_err();
        assert!(error.contains("another certificate"), "{error}");
    }
}

#[test]
fn only_the_issuer_signs_and_whom_it_lets() {
    let (ca, other_ca) = (Authority::new("ca"), Authority::new("other"));
    let (certificate, own_key) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    let may =
        |params: &mut CertificateParams| params.extended_key_usages = [ExtendedKeyUsagePurpose::OcspSigning].into();
    let by = |responder: &(Certificate, KeyPair)| {
        let saying = Saying { certificates: [x509(&responder.0)].into(), ..Saying::good(asked(&certified)) };
        said(&saying.signed_by(&responder.1), &certified)
    };
    assert!(by(&ca.issue(may)).is_ok(), "a delegated responder");
    let between = {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "between");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca.issuer).unwrap();
        Authority { certificate, issuer: Issuer::new(params, key) }
    };
    let expired = ca.issue(|params| {
        may(params);
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    for (what, responder, why) in [
        ("no purpose", ca.issue(|_| {}), "RequiredEkuNotFound"),
        (
            "another purpose",
            ca.issue(|params| params.extended_key_usages = [ExtendedKeyUsagePurpose::ServerAuth].into()),
            "RequiredEkuNotFound",
        ),
        ("of another CA", other_ca.issue(may), "UnknownIssuer"),
        ("not directly of the CA", between.issue(may), "UnknownIssuer"),
        ("expired", expired, "CertExpired"),
        ("itself", (certificate.clone(), own_key), "RequiredEkuNotFound"),
    ] {
        let error = by(&responder).unwrap_err();
        assert!(error.contains("signed neither by") && error.contains(why), "{what}: {error}");
    }
    let nobody = Saying::good(asked(&certified)).signed_by(other_ca.issuer.key());
    assert!(said(&nobody, &certified).unwrap_err().contains("signed neither by"));
    let mut changed = Saying::good(asked(&certified)).signed_by(ca.issuer.key());
    let at = changed.len() - 100;
    changed[at] ^= 1;
    assert!(said(&changed, &certified).is_err(), "a changed byte");
}

#[test]
fn an_answer_has_its_time() {
    let ca = Authority::new("ca");
    let (certificate, _) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    for (this_update, next_update, why) in [
        (NOW - 100, Some(NOW - 59), None),
        (NOW - 100, Some(NOW - 61), Some("has expired on 2027-01-15T07:58:59Z")),
        (NOW + 59, Some(NOW + 100), None),
        (NOW + 61, Some(NOW + 100), Some("not valid before 2027-01-15T08:01:01Z")),
        (NOW - 3599, None, None),
        (NOW - 3601, None, Some("has expired on 2027-01-15T07:59:59Z")),
    ] {
        let saying = Saying { this_update, next_update, ..Saying::good(asked(&certified)) };
        match (said(&saying.signed_by(ca.issuer.key()), &certified), why) {
            (Ok(_), None) => {}
            (Err(error), Some(why)) => assert!(error.contains(why), "{error}"),
            (other, why) => panic!("{other:?} instead of {why:?}"),
        }
    }
}

#[test]
fn nonces_and_what_is_critical_are_looked_at() {
    let ca = Authority::new("ca");
    let (certificate, _) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    let ours = nonce().unwrap();
    let asked_for = OcspRequest::from_der(&request(&certified, Some(&ours)).unwrap()).unwrap();
    let repeated = asked_for.tbs_request.request_extensions.unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let say = |extensions: &[Extension]| {
        let saying = Saying { extensions: extensions.to_vec(), ..Saying::good(asked(&certified)) };
        saying.signed_by(ca.issuer.key())
    };
    let with_nonce =
        |response: &[u8]| read(response, &certified, Some(&ours), now, ALGORITHMS).map_err(|error| error.to_string());
    assert!(with_nonce(&say(&repeated)).is_ok());
    assert!(with_nonce(&say(&[])).unwrap_err().contains("nonce"));
    let other = OcspRequest::from_der(&request(&certified, Some(&nonce().unwrap())).unwrap()).unwrap();
    assert!(with_nonce(&say(&other.tbs_request.request_extensions.unwrap())).unwrap_err().contains("nonce"));
    let odd = Extension {
        extn_id: ObjectIdentifier::new_unwrap("1.2.3.4"),
        critical: true,
        extn_value: OctetString::new([5, 0]).unwrap(),
    };
    let error = said(&say(core::slice::from_ref(&odd)), &certified).unwrap_err();
    assert!(error.contains("unknown critical extension 1.2.3.4"), "{error}");
    assert!(said(&say(&[Extension { critical: false, ..odd }]), &certified).is_ok());
}

#[test]
fn what_is_no_answer_is_told_apart() {
    let ca = Authority::new("ca");
    let (certificate, _) = ca.issue(|_| {});
    let certified = ca.certify(&certificate);
    for (response, why) in [
        (OcspResponse::try_later(), "'tryLater'"),
        (OcspResponse::unauthorized(), "'unauthorized'"),
        (OcspResponse::internal_error(), "'internalError'"),
    ] {
        let error = said(&response.to_der().unwrap(), &certified).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
    let whole = Saying::good(asked(&certified)).signed_by(ca.issuer.key());
    for end in 0..whole.len() {
        assert!(said(&whole[..end], &certified).is_err(), "the first {end} bytes");
    }
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 0x81;
        // Outside what is signed there are a few bits without a meaning; what it says is never another thing.
        if let Ok(answer) = said(&changed, &certified) {
            assert_eq!(answer, said(&whole, &certified).unwrap(), "byte {index}");
        }
    }
}

#[test]
fn hints_are_read_and_issuers_found() {
    let ca = Authority::new("ca");
    // SEQUENCE { 5 }; an AIA with an OCSP responder, one by another method and a caIssuers.
    let must_staple = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 24], [0x30, 3, 2, 1, 5].into());
    let access = |method: u8, tag: u8, value: &str| {
        let mut inner = Vec::from([6, 8, 0x2b, 6, 1, 5, 5, 7, 48, method, tag, value.len() as u8]);
        inner.extend(value.as_bytes());
        [&[0x30, inner.len() as u8], inner.as_slice()].concat()
    };
    let all =
        [access(2, 0x86, "http://ca/"), access(1, 0x82, "name.test"), access(1, 0x86, "http://ocsp.test/a")].concat();
    let aia = [&[0x30, all.len() as u8], all.as_slice()].concat();
    let aia = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], aia);
    let (full, _) = ca.issue(|params| params.custom_extensions = [must_staple, aia].into());
    assert_eq!(
        Hints::of(full.der()).unwrap(),
        Hints { ocsp_urls: ["http://ocsp.test/a".into()].into(), must_staple: true }
    );
    let (bare, _) = ca.issue(|_| {});
    assert_eq!(Hints::of(bare.der()).unwrap(), Hints::default());
    // What cannot be read takes no promise back.
    let [odd_feature, odd_access] =
        [24, 1].map(|last| CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, last], [5, 0].into()));
    let (odd, _) = ca.issue(|params| params.custom_extensions = [odd_feature, odd_access].into());
    assert_eq!(Hints::of(odd.der()).unwrap(), Hints { ocsp_urls: Vec::new(), must_staple: true });
    assert_ne!(Fingerprint::of(full.der()), Fingerprint::of(bare.der()));

    // Of our own chain; a namesake with another key has not issued it.
    let namesake = Authority::new("ca");
    let others: Vec<CertificateDer<'_>> =
        [&bare, &namesake.certificate, &ca.certificate].map(|certificate| certificate.der().clone()).into();
    assert!(Certified::find(full.der(), &others, ALGORITHMS).unwrap().is_some());
    assert!(Certified::find(full.der(), &others[..2], ALGORITHMS).unwrap().is_none());
    assert!(Certified::find(full.der(), &others, &[]).unwrap().is_none(), "no algorithm");
    for end in 0..full.der().len() {
        assert!(Hints::of(&full.der()[..end]).is_err(), "the first {end} bytes");
    }
    assert!(format!("{}", Hints::of(b"x").unwrap_err()).contains("cannot be read"));
}

#[test]
fn the_chain_is_the_one_that_was_verified_and_not_its_namesakes() {
    let ca = Authority::new("ca");
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "between");
    let key = KeyPair::generate().unwrap();
    let real = params.signed_by(&key, &ca.issuer).unwrap();
    // The same name and the same key, signed by itself: what somebody has made who has that key.
    let decoy = params.self_signed(&key).unwrap();
    let between = Authority { certificate: real, issuer: Issuer::new(params, key) };
    let (own, _) = between.issue(|_| {});
    let der = |certificate: &Certificate| certificate.der().clone();
    let shown = [der(&own), der(&decoy), der(&between.certificate), der(&ca.certificate)];
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let path = Certified::path(&shown, Purpose::Server, &[ca.root()], now, ALGORITHMS).unwrap();
    let certificates: Vec<_> = path.iter().map(|link| link.certificate.clone()).collect();
    assert_eq!(certificates, [der(&own), der(&between.certificate)]);
    assert_eq!(path[1].certified.issuer.subject, ca.root().subject);
    assert!(Certified::path(&shown[..2], Purpose::Server, &[ca.root()], now, ALGORITHMS).is_err());
}
