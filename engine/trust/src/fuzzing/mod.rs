//! What the fuzz target of OCSP runs.

use core::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{anchor_from_trusted_cert, ring as algorithms};

use crate::{Algorithms, Answer, Certified, Date, Hints, Purpose, Revocation, Status, read, request};

const CA: &[u8] = include_bytes!("ca.der");
const LEAF: &[u8] = include_bytes!("leaf.der");
const ALGORITHMS: &Algorithms = &[algorithms::ECDSA_P256_SHA256];
/// When the responses of the corpus were made, and what they say beside the status.
const MADE: Date = Date(1_795_802_625);
const NEXT: Date = Date(MADE.0 + 7000 * 86_400);

/// Nobody without the key of the CA or of its responder makes an answer, or a certificate, that counts: whatever bytes are a
/// response says what one of the corpus says.
///
/// The input is a response behind a 0, or a certificate behind another byte.
///
/// # Panics
/// When that is not so.
pub fn ocsp(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let ca = CertificateDer::from(CA);
    let root = anchor_from_trusted_cert(&ca).expect("a root").to_owned();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(MADE.0 + 86_400));
    let leaf =
        Certified::find(LEAF, core::slice::from_ref(&ca), ALGORITHMS).expect("readable").expect("issued by the root");
    match kind {
        0 => {
            let Ok(Answer { status, this_update, next_update }) = read(bytes, &leaf, None, now, ALGORITHMS) else {
                return;
            };
            let revocation = Revocation { at: Date(1_767_323_045), reason: Some("keyCompromise") };
            assert!([Status::Good, Status::Unknown, Status::Revoked(revocation)].contains(&status), "{status:?}");
            assert!(
                this_update.0.abs_diff(MADE.0) < 60 && next_update.is_some_and(|next| next.0.abs_diff(NEXT.0) < 60)
            );
        }
        _ => {
            let shown = [CertificateDer::from(bytes), CertificateDer::from(LEAF), ca];
            if let Ok(links) = Certified::path(&shown, Purpose::Server, &[root], now, ALGORITHMS) {
                assert!(links.iter().all(|link| request(&link.certified, None).is_ok()));
                assert!(Hints::of(bytes).is_ok(), "what a CA has signed is readable");
            }
        }
    }
}
