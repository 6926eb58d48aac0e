//! A tunnel that is there already, and what is behind it: nothing is written unless that is asked for.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};
use sealane_relay::{ConfigError, Endpoint};
use sealane_selftest::Session;
use sealane_selftest::client::{Create, OpenFile};
use sealane_selftest::load::{File, Progress, Workload};
use sealane_selftest::nfs4::{Access, FileType, Stateid};

use super::report::{Report, Row, Window};
use super::{Files, Meter, PAYLOAD_BYTES, Step, WARM_UP, session_options};
use crate::args::BenchOptions;

/// Measures the steps that were asked for.
///
/// # Errors
/// An address that is not meant, or the first call that failed.
pub(super) fn measure(options: &BenchOptions, endpoint: &Endpoint) -> Result<Report> {
    let address = resolve(options, endpoint)?;
    let mut session = Session::open(address, &session_options(options))
        .with_context(|| format!("opening an NFSv4.1 session with {endpoint}"))?;
    let workload = Workload { directory: format!("sealane-bench-{}", std::process::id()), ..Workload::default() };
    let theirs = options.path.as_deref().map(|path| open(&mut session, path)).transpose()?;
    let prepared = options.write.then(|| workload.prepare(&mut session)).transpose();
    let prepared = prepared.with_context(|| format!("making {}", workload.directory))?;
    let own =
        prepared.as_ref().map(|own| Files { all: own.files().to_vec(), bytes: workload.file_bytes, pass: Some(0) });
    let filled =
        prepared.as_ref().map_or(Ok(()), |own| Ok(own.write(&mut session, 0, &Progress::default()).map(drop)?));
    let measured = filled
        .and_then(|()| steps(&mut session, theirs.as_ref(), own.as_ref()))
        .and_then(|steps| rows(options, endpoint, &mut session, &steps));
    // Whatever happened: what was made is to be gone.
    let removed = prepared.map_or(Ok(()), |prepared| prepared.remove(&mut session));
    let rows = measured?;
    theirs.map_or(Ok(()), |theirs| theirs.close(&mut session))?;
    removed.with_context(|| format!("removing {}", workload.directory))?;
    session.close().context("ending the session")?;
    let wrote = if options.write { "in files that were made for it and are gone again" } else { "nothing was written" };
    let head = vec![format!("NFSv4.1 client -> {endpoint}: {wrote}")];
    Ok(Report { head, rounds: options.rounds, seconds: options.seconds, rows, rival: None })
}

/// A mistyped address is not to get load.
fn resolve(options: &BenchOptions, endpoint: &Endpoint) -> Result<SocketAddr> {
    let mut addresses =
        (endpoint.host.as_str(), endpoint.port).to_socket_addrs().with_context(|| format!("looking up {endpoint}"))?;
    let address = addresses.next().with_context(|| format!("{endpoint} has no address"))?;
    if !address.ip().to_canonical().is_loopback() && !options.allow_remote {
        bail!(ConfigError(format!(
            "{endpoint} is not on this host: the calls would load its network and server, and travel as plain text; \
             --allow-remote if that is meant"
        )));
    }
    Ok(address)
}

/// What each step is about.
fn steps(session: &mut Session, theirs: Option<&Files>, own: Option<&Files>) -> Result<Vec<(Step, Files)>> {
    let open = OpenFile { handle: session.root()?, stateid: Stateid::ANONYMOUS };
    let root = Files { all: vec![File { number: 0, open }], bytes: PAYLOAD_BYTES.into(), pass: None };
    let steps = [
        (Step::Write, own),
        (Step::Read, theirs.or(own)),
        (Step::GetattrAlone, Some(&root)),
        (Step::GetattrMany, Some(&root)),
    ];
    Ok(steps.into_iter().filter_map(|(step, files)| Some((step, files?.clone()))).collect())
}

fn rows(
    options: &BenchOptions,
    endpoint: &Endpoint,
    session: &mut Session,
    steps: &[(Step, Files)],
) -> Result<Vec<Row>> {
    let meter = Meter::start(u64::from(options.rounds) * steps.len() as u64);
    let name = endpoint.to_string();
    let mut rows: Vec<Row> =
        steps.iter().map(|(step, _)| Row { subject: name.clone(), step: *step, windows: Vec::new() }).collect();
    for _ in 0..options.rounds {
        for ((step, files), row) in steps.iter().zip(&mut rows) {
            meter.begin(&name, *step);
            let mut load = |time| files.load(session, *step, time).with_context(|| step.title());
            load(WARM_UP)?;
            row.windows.push(Window { outcome: load(options.seconds)?, cpu: None });
            meter.end();
        }
    }
    Ok(rows)
}

/// An existing file, to be read: as much of it as is a multiple of the payload.
fn open(session: &mut Session, path: &str) -> Result<Files> {
    let trimmed = path.trim_matches('/');
    let (directory, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    let said = || format!("{path} on the server");
    let directory = session.lookup(directory).with_context(said)?;
    let file = session.open_file(&directory, name, Access::Read, Create::Never).with_context(said)?;
    let attributes = session.attributes(&file.handle).with_context(said)?;
    if attributes.file_type != FileType::Regular {
        bail!("{path} on the server is no regular file");
    }
    let payload = u64::from(PAYLOAD_BYTES);
    let bytes = attributes.size / payload * payload;
    if bytes == 0 {
        bail!("{path} on the server has {} bytes: less than one call of {payload}", attributes.size);
    }
    Ok(Files { all: vec![File { number: 0, open: file }], bytes, pass: None })
}
