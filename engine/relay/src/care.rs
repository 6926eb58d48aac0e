//! What is looked after while a tunnel runs: its files are read again when it is told to, what is stapled is kept fresh, and
//! somebody is told before its certificate expires.

use std::future::pending;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use sealane_io::files::DirectoryChanges;
use sealane_io::rt::{self, Either, Requests};
use sealane_trust::validity;

use crate::config::{Mode, TunnelConfig};
use crate::reports::Reports;
use crate::status::Stapled;
use crate::tls_config::TlsConfigError;
use crate::tls_server::TlsServer;

const DAY: Duration = Duration::from_secs(86_400);
/// So many days before its end an expiring certificate is spoken of; from then on every day.
const DAYS_MAX: u64 = 30;
/// From so few days on it is an error.
const DAYS_URGENT: u64 = 7;

/// Looks after what `config` is made of, until it is dropped. Without `hangups` and `changes` files are read once.
pub(crate) async fn run(
    config: Arc<TunnelConfig>,
    mut hangups: Option<Requests>,
    mut changes: Option<DirectoryChanges>,
    reports: Rc<Reports>,
) {
    warn_of_expiry(&config.mode);
    loop {
        let why = match next(&mut hangups, &mut changes).await {
            Ok(Some(Reason::Gone)) => {
                tracing::error!(
                    "--watch: a directory is gone or elsewhere: what takes its place is not watched before a new start"
                );
                "--watch"
            }
            Ok(Some(Reason::Changed)) => "--watch",
            Ok(Some(Reason::Told)) => "SIGHUP",
            Ok(None) => {
                warn_of_expiry(&config.mode);
                continue;
            }
            Err(error) => {
                tracing::error!("--watch: {error}: files are not watched any more");
                changes = None;
                continue;
            }
        };
        match reports.reloading(reload(&config.mode)).await {
            Ok(()) => {
                tracing::info!("{why}: certificates, keys, CAs and CRLs were read again, for new connections");
                judge_live(&config.mode).await;
                warn_of_expiry(&config.mode);
            }
            Err(error) => tracing::error!("{why}: nothing was replaced, what was read before stays in use: {error}"),
        }
    }
}

/// Why the files are read again.
enum Reason {
    Told,
    Changed,
    Gone,
}

/// Waits for a reason to read the files again, for a day at most.
///
/// # Errors
/// Changes are not to be had any more.
async fn next(hangups: &mut Option<Requests>, changes: &mut Option<DirectoryChanges>) -> io::Result<Option<Reason>> {
    let told = async {
        match hangups {
            Some(hangups) => hangups.next().await,
            None => pending().await,
        }
    };
    let changed = async {
        match changes {
            Some(changes) => changes.next().await,
            None => pending().await,
        }
    };
    Ok(match rt::race(pin!(told), rt::race(pin!(changed), rt::sleep(DAY))).await {
        Either::Left(()) => Some(Reason::Told),
        Either::Right(Either::Left(changed)) => Some(if changed? { Reason::Changed } else { Reason::Gone }),
        Either::Right(Either::Right(())) => None,
    })
}

/// Reads all files; replaces what was made of them only if all of them can be used.
async fn reload(mode: &Mode) -> Result<(), TlsConfigError> {
    match mode {
        Mode::Client(mode) => {
            if let Some(next) = mode.tls.renewed()? {
                mode.tls.put(next);
            }
        }
        Mode::Server(mode) => {
            if let Some(next) = mode.tls.renewed()? {
                // A certificate that promises a staple is not shown without one.
                staple(&next).await;
                if next.stapled.as_ref().is_some_and(|stapled| stapled.breaks_its_promise()) {
                    return Err(TlsConfigError::NoStaple);
                }
                mode.tls.put(next);
            }
        }
        Mode::Plain => {}
    }
    Ok(())
}

/// Has live sessions hear of it whose peers a CRL names by now; others run meanwhile.
async fn judge_live(mode: &Mode) {
    match mode {
        Mode::Client(mode) => {
            let tls = mode.tls.now();
            for shown in tls.live() {
                tls.judge(&shown, &mode.server_name);
                rt::yield_now().await;
            }
        }
        Mode::Server(mode) => {
            let tls = mode.tls.now();
            for shown in tls.live() {
                tls.judge(&shown);
                rt::yield_now().await;
            }
        }
        Mode::Plain => {}
    }
}

/// Has the status of our certificate stapled. For the first answer clients wait, at most `--ocsp-timeout`: one that is told that
/// there will be a staple refuses a connection without.
pub(crate) async fn staple(tls: &TlsServer) {
    if let Some(stapled) = &tls.stapled {
        let mut failures = 0;
        let pause = stapled.ask(&mut failures).await;
        rt::spawn(Stapled::keep(Arc::downgrade(stapled), pause, failures));
    }
}

fn warn_of_expiry(mode: &Mode) {
    let own = match mode {
        Mode::Client(mode) => mode.tls.now().own.clone(),
        Mode::Server(mode) => mode.tls.now().own.clone(),
        Mode::Plain => None,
    };
    if let Some(own) = own {
        speak_of_expiry(&own, UnixTime::now().as_secs());
    }
}

fn speak_of_expiry(own: &CertificateDer<'_>, now: u64) {
    // A certificate whose dates cannot be read is none that a peer accepts; that is told elsewhere.
    let Ok((_, not_after)) = validity(own) else { return };
    let days = not_after.0.saturating_sub(now) / DAY.as_secs();
    if not_after.0 < now {
        tracing::error!("our certificate has expired on {not_after}");
    } else if days <= DAYS_URGENT {
        tracing::error!("our certificate expires on {not_after}, in {days} days");
    } else if days <= DAYS_MAX {
        tracing::warn!("our certificate expires on {not_after}, in {days} days");
    }
}
