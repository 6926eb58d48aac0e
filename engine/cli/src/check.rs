//! `sealane check`: a connection to the server step by step, explained to somebody who wants to know why there is none.

use std::fmt::Display;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sealane_io::{Driver, Uring, rt};
use sealane_relay::{Inspection, Mode, PemSource, Resources, TunnelConfig, inspect};
use serde_json::json;

use crate::args::{CheckOptions, ClientOptions};
use crate::local::Running;
use crate::{client, log};

/// What one step came to.
struct Line {
    step: &'static str,
    is_good: bool,
    text: String,
}

/// Tries it all and says what was seen.
///
/// # Errors
/// Something is wrong; what, has been printed.
pub(crate) fn run(options: &CheckOptions) -> Result<()> {
    // What a tunnel says of connections that come and go is said here in other words.
    let level = &options.client.tunnel.log_level;
    log::start(if level == "info" { "error" } else { level })?;
    let lines = look(&options.client);
    let is_good = lines.iter().all(|line| line.is_good);
    if options.json {
        let steps: Vec<_> =
            lines.iter().map(|line| json!({ "step": line.step, "ok": line.is_good, "text": line.text })).collect();
        printed(writeln!(io::stdout(), "{}", json!({ "ok": is_good, "steps": steps })))?;
    } else {
        print(&lines)?;
    }
    verdict(&lines)
}

/// Tries the server of a client's options, and says what was seen.
///
/// # Errors
/// Something is wrong; what, has been printed.
pub(crate) fn explain_client(options: &ClientOptions) -> Result<()> {
    let lines = look(options);
    print(&lines)?;
    verdict(&lines)
}

fn print(lines: &[Line]) -> Result<()> {
    let mut out = io::stdout().lock();
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    printed(lines.iter().try_for_each(|line| writeln!(out, "{}", shown(line, is_coloured))))
}

/// Whoever reads no further has seen enough.
fn printed(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        _ => Ok(()),
    }
}

fn verdict(lines: &[Line]) -> Result<()> {
    match lines.iter().find(|line| !line.is_good) {
        None => Ok(()),
        Some(line) => bail!("{}: {}", line.step, line.text),
    }
}

fn shown(line: &Line, is_coloured: bool) -> String {
    let Line { step, is_good, text } = line;
    let (mark, colour) = if *is_good { ("ok    ", 32) } else { ("FAILED", 31) };
    let mark = if is_coloured { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.into() };
    format!("{mark} {step:<10} {text}")
}

fn line(step: &'static str, outcome: Result<impl Display, impl Display>) -> Line {
    match outcome {
        Ok(text) => Line { step, is_good: true, text: text.to_string() },
        Err(text) => Line { step, is_good: false, text: text.to_string() },
    }
}

fn look(options: &ClientOptions) -> Vec<Line> {
    let mut lines = vec![driver()];
    let made = client::tls_options(options, PemSource::File)
        .and_then(|tls| Ok((tls, client::config(options, PemSource::File)?)));
    let (tls, config) = match made {
        Ok(made) => made,
        Err(error) => {
            lines.push(line("options", Err::<&str, _>(log::with_causes(&error))));
            return lines;
        }
    };
    let Mode::Client(mode) = &config.mode else { return lines };
    let seen = match rt::run_on_reactor(inspect(&config, mode, &tls)) {
        Ok(seen) => seen,
        Err(error) => {
            lines.push(line("reactor", Err::<&str, _>(error)));
            return lines;
        }
    };
    let is_through = matches!((&seen.handshake, &seen.status), (Some((_, Ok(_), _)), Some(Ok(_))));
    let has_certificate = options.cert.is_some();
    let wants_certificate = seen.wants_certificate && !has_certificate;
    explain(&seen, &config, has_certificate, &mut lines);
    if is_through {
        lines.extend(nfs(options.tunnel.resources(), config, wants_certificate));
    }
    lines
}

fn driver() -> Line {
    let text = match Uring::probe() {
        Ok(()) => "io_uring; epoll would do as well (--io epoll)".into(),
        Err(error) => format!("epoll; io_uring is not available on this host: {error}"),
    };
    Line { step: "driver", is_good: true, text }
}

fn explain(seen: &Inspection, config: &TunnelConfig, has_certificate: bool, lines: &mut Vec<Line>) {
    let (found, took) = &seen.addresses;
    let found = found.as_ref().map(|all| {
        let all: Vec<_> = all.iter().map(|address| address.ip().to_string()).collect();
        format!("{}: {} ({})", config.connect.host, all.join(", "), shown_time(*took))
    });
    lines.push(line("name", found.map_err(|error| format!("cannot resolve {}: {error}", config.connect.host))));
    // One address that works is enough; what is wrong with the others is still said.
    let is_any = seen.connections.iter().any(|(_, outcome, _)| outcome.is_ok());
    for (address, outcome, took) in &seen.connections {
        let text = match outcome {
            Ok(()) => format!("{address} accepts connections ({})", shown_time(*took)),
            Err(error) => format!("{address} does not accept a connection: {error}"),
        };
        lines.push(Line { step: "connect", is_good: outcome.is_ok() || is_any, text });
    }
    if let Some((address, outcome, took)) = &seen.handshake {
        let text = outcome.as_ref().map(|agreed| format!("{}, {} ({})", agreed.facts, agreed.group, shown_time(*took)));
        let is_asked = seen.wants_certificate && !has_certificate;
        let hint = match outcome {
            Err(error) if is_asked && error.contains("with the alert") => format!("; {DEMANDED}"),
            _ => String::new(),
        };
        lines.push(line("tls", text.map_err(|error| format!("{address}: {error}{hint}"))));
    }
    for (index, certificate) in seen.chain.iter().enumerate() {
        let text = certificate.as_ref().map(|it| {
            let names = if it.names.is_empty() { String::new() } else { format!(", for {}", it.names.join(" ")) };
            let (subject, issuer, from, to) = (&it.subject, &it.issuer, it.not_before, it.not_after);
            format!("{}: {subject}, issued by {issuer}, valid from {from} to {to}{names}", index + 1)
        });
        // That is information: whether it is accepted, the line before says.
        lines.push(Line { is_good: true, ..line("chain", text) });
    }
    let information = |step, text: &String| Line { step, is_good: true, text: text.clone() };
    lines.extend(seen.trust.as_ref().map(|trust| information("trust", trust)));
    if let Some(status) = &seen.status {
        lines.push(line("ocsp", status.as_ref()));
    }
    lines.extend(seen.lists.as_ref().map(|lists| information("crl", lists)));
}

fn shown_time(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// What comes back through a tunnel: twice, so that the second one can resume the session.
fn nfs(resources: Resources, config: TunnelConfig, wants_certificate: bool) -> Vec<Line> {
    let config = TunnelConfig { listen: (Ipv4Addr::LOCALHOST, 0).into(), ..config };
    let running = match Running::start(resources, config) {
        Ok(running) => running,
        Err(error) => return vec![line("tunnel", Err::<&str, _>(log::with_causes(&error)))],
    };
    let called = null(running.address).and_then(|first| Ok((first, null(running.address)?)));
    let resumed = running.counters.all().any(|(name, count)| name == "handshakes_resumed_total" && count > 0);
    match called {
        Ok((first, second)) => vec![
            line(
                "nfs",
                Ok::<_, String>(format!("NULL is answered in {}, then in {}", shown_time(first), shown_time(second))),
            ),
            Line {
                step: "resumption",
                is_good: true,
                text: if resumed {
                    "the second connection resumed the session"
                } else {
                    "the server resumes no session"
                }
                .into(),
            },
        ],
        Err(error) => {
            // Under TLS 1.3 a server says what it thinks of a client only when that takes its handshake for done.
            std::thread::sleep(UNTIL_TOLD);
            // internal_error is what a server says that cannot reach what is behind it: nothing is wrong with the client.
            let is_about_us = |failure: &String| failure.contains("alert") && !failure.contains("internal_error");
            let failure = running.counters.failure().filter(is_about_us);
            let why = match failure {
                Some(_) if wants_certificate => DEMANDED.into(),
                Some(failure) => format!("the server ends the connection: {failure}"),
                None => format!("TLS is there, but no NFS server behind it answers: {error}"),
            };
            vec![line("nfs", Err::<&str, _>(why))]
        }
    }
}

/// Until the thread that has the connection has said why it ended.
const UNTIL_TOLD: Duration = Duration::from_millis(300);
const DEMANDED: &str = "the server demands a client certificate: give it one with --cert and --key";

/// For an answer of an NFS server.
const PATIENCE: Duration = Duration::from_secs(10);

/// NULL of NFS version 4 on a connection of its own; how long the answer took, handshake included.
fn null(address: SocketAddr) -> io::Result<Duration> {
    const XID: u32 = 0x5ea1_a9e0;
    // Call, RPC version 2, NFS, version 4, NULL, and no credential or verifier of any kind (RFC 5531 section 9).
    let words = [0x8000_0000 + 40, XID, 0, 2, 100_003, 4, 0, 0, 0, 0, 0];
    let call: Vec<u8> = words.into_iter().flat_map(u32::to_be_bytes).collect();
    let began = rt::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&call)?;
    let mut mark = [0; 4];
    read(&mut stream, &mut mark)?;
    let length = (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize;
    if !(24..=REPLY_BYTES_MAX).contains(&length) {
        return Err(io::Error::other("what answers is no NFS server"));
    }
    let mut reply = vec![0; length];
    read(&mut stream, &mut reply)?;
    let taken = rt::now() - began;
    let words: Vec<u32> = reply.as_chunks::<4>().0.iter().copied().map(u32::from_be_bytes).collect();
    match words.as_slice() {
        // A reply, accepted, with a verifier of no length, and success (RFC 5531 section 9).
        [XID, 1, 0, _, 0, 0] => Ok(taken),
        [XID, 1, 0, _, 0, 1, ..] => {
            Err(io::Error::other("an RPC server answers that does not know NFS (PROG_UNAVAIL)"))
        }
        [XID, 1, 0, _, 0, 2, ..] => {
            Err(io::Error::other("an NFS server answers that has no version 4 (PROG_MISMATCH)"))
        }
        [XID, 1, 1, ..] => Err(io::Error::other("an RPC server answers that denies the call (MSG_DENIED)")),
        _ => Err(io::Error::other("what answers is no NFS server")),
    }
}

/// More than any reply to NULL.
const REPLY_BYTES_MAX: usize = 512;

fn read(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    stream.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::other(format!("nothing for {} s", PATIENCE.as_secs())),
        _ => error,
    })
}
