//! What may be left of connections that are over: nothing.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::lab::Lab;
use crate::sample::Sample;

/// Time for what connections have left behind to go: a half-closed TLS connection waits 5 s for its peer.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(8);

/// Compares both tunnels at rest with how they were at rest before.
///
/// Descriptors and threads may not be more; resident memory by at most `rss_kib_max`, which is less than a leak of a
/// hundred bytes or so for each connection would come to.
///
/// # Errors
/// What has grown.
pub(crate) fn check(lab: &Lab, before: &[Sample; 2], rss_kib_max: u64) -> Result<[Sample; 2]> {
    let after = lab.settle(Some(before), SETTLE_MAX)?;
    for ((name, _), (before, after)) in lab.tunnels().iter().zip(before.iter().zip(&after)) {
        let grown_kib = after.rss_kib.saturating_sub(before.rss_kib);
        if grown_kib > rss_kib_max {
            bail!("sealane {name} has grown by {grown_kib} KiB (at most {rss_kib_max}): {before:?}, then {after:?}");
        }
    }
    Ok(after)
}

/// How much both have grown, in words.
pub(crate) fn in_words(before: &[Sample; 2], after: &[Sample; 2]) -> String {
    let kib = |index: usize| match (before.get(index), after.get(index)) {
        (Some(before), Some(after)) => after.rss_kib as i64 - before.rss_kib as i64, // far below 2^63
        _ => 0,
    };
    format!("RSS {:+} KiB client, {:+} KiB server, descriptors and threads as before", kib(0), kib(1))
}
