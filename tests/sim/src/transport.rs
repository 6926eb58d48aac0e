//! How a peer's bytes travel: as they are, in records under known keys, or by rustls.

use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Connection, ServerConfig};
use sealane_proto::tls::Version;

use crate::plan::Behaviour;
use crate::random::Random;
use crate::records::{ALERT, DATA, HANDSHAKE, Heard, Records};
use crate::stats::{Fault, Stats};

pub(crate) enum Transport {
    Plain,
    Records(Box<Records>),
    Rustls(Box<Connection>),
}

impl Transport {
    pub(crate) fn rustls_client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Self {
        let connection = rustls::ClientConnection::new(config, name).expect("a client");
        Self::Rustls(Box::new(connection.into()))
    }

    pub(crate) fn rustls_server(config: Arc<ServerConfig>) -> Self {
        Self::Rustls(Box::new(rustls::ServerConnection::new(config).expect("a server").into()))
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// The wire's form of `bytes`.
    pub(crate) fn say(
        &mut self,
        bytes: &[u8],
        behaviour: &Behaviour,
        random: &mut Random,
        stats: &mut Stats,
    ) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Records(records) => say_in_records(records, bytes, behaviour, random, stats),
            Self::Rustls(connection) => {
                connection.set_buffer_limit(None);
                connection.writer().write_all(bytes).expect("rustls takes everything");
                pending(connection)
            }
        }
    }

    /// The end of what is said, in TLS.
    pub(crate) fn close(&mut self) -> Vec<u8> {
        match self {
            Self::Plain => Vec::new(),
            Self::Records(records) => records.seal(ALERT, &[1, 0], 0),
            Self::Rustls(connection) => {
                connection.send_close_notify();
                pending(connection)
            }
        }
    }

    /// What must be said before anything else: the handshake's flights.
    pub(crate) fn pending(&mut self) -> Vec<u8> {
        match self {
            Self::Rustls(connection) => pending(connection),
            _ => Vec::new(),
        }
    }

    /// Whether data has to wait.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(self, Self::Rustls(connection) if connection.is_handshaking())
    }

    /// What the relay's bytes say. `silent_from`: from there on its wire may carry no data.
    ///
    /// # Errors
    /// What the relay did wrong.
    pub(crate) fn hear(&mut self, bytes: Vec<u8>, silent_from: Option<u64>) -> Result<Vec<Heard>, String> {
        match self {
            Self::Plain => Ok(vec![Heard::Data(bytes)]),
            Self::Records(records) => {
                records.take(&bytes);
                let mut heard = Vec::new();
                while let Some(next) = records.hear(silent_from)? {
                    heard.push(next);
                }
                Ok(heard)
            }
            Self::Rustls(connection) => hear_by_rustls(connection, &bytes),
        }
    }
}

fn pending(connection: &mut Connection) -> Vec<u8> {
    let mut wire = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut wire).expect("a vector takes everything");
    }
    wire
}

fn hear_by_rustls(connection: &mut Connection, mut bytes: &[u8]) -> Result<Vec<Heard>, String> {
    let mut heard = Vec::new();
    while !bytes.is_empty() {
        if connection.read_tls(&mut bytes).map_err(|error| error.to_string())? == 0 {
            break;
        }
        // rustls asserts that no error comes behind its own close_notify; a changed byte of a handshake can be one.
        let processed = catch_unwind(AssertUnwindSafe(|| connection.process_new_packets()));
        let state = match processed.map_err(|_| "rustls gave up")? {
            Ok(state) => state,
            Err(rustls::Error::AlertReceived(alert)) => {
                heard.push(Heard::Alert(alert.into()));
                return Ok(heard);
            }
            Err(error) => return Err(error.to_string()),
        };
        let mut data = vec![0; state.plaintext_bytes_to_read()];
        match connection.reader().read_exact(&mut data) {
            Ok(()) if !data.is_empty() => heard.push(Heard::Data(data)),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
        if state.peer_has_closed() {
            heard.push(Heard::CloseNotify);
            break;
        }
    }
    Ok(heard)
}

fn say_in_records(
    records: &mut Records,
    mut bytes: &[u8],
    behaviour: &Behaviour,
    random: &mut Random,
    stats: &mut Stats,
) -> Vec<u8> {
    let mut wire = Vec::new();
    while !bytes.is_empty() {
        if random.chance(behaviour.extras) {
            wire.extend(extra(records, random, stats));
        }
        // Tiny ones among others: of nothing but tiny ones a seed would take too long.
        let length = match behaviour.record {
            most if most < 100 && random.chance(500) => {
                stats.count(Fault::TinyRecords);
                random.within(1, most)
            }
            most if most < 100 => random.within(1, 2000),
            most => random.within(1 + most / 2, most),
        };
        let (now, later) = bytes.split_at(length.min(bytes.len()));
        let pads = records.version == Version::Tls13 && random.chance(behaviour.extras);
        let padding = if pads { random.below(500).min(crate::records::PLAIN_BYTES_MAX - now.len()) } else { 0 };
        wire.extend(records.seal(DATA, now, padding));
        bytes = later;
    }
    wire
}

/// Something lawful that is no data.
fn extra(records: &mut Records, random: &mut Random, stats: &mut Stats) -> Vec<u8> {
    match (records.version, random.below(3)) {
        (Version::Tls13, 0) => {
            stats.count(Fault::PeerKeyUpdate);
            records.key_update(random.chance(500))
        }
        (_, 1) => {
            stats.count(Fault::Padding);
            records.seal(DATA, &[], 0)
        }
        (_, _) => {
            stats.count(Fault::Padding);
            records.seal(ALERT, &[1, 90], 0)
        }
    }
}

/// Two tickets, split and joined anyhow; only a server may send them.
pub(crate) fn tickets(records: &mut Records, random: &mut Random) -> Vec<u8> {
    let mut messages = Vec::new();
    for length in [random.within(10, 200), random.within(10, 3000)] {
        messages.extend([4, 0, (length >> 8) as u8, length as u8]);
        messages.resize(messages.len() + length, 7);
    }
    let mut wire = Vec::new();
    let mut rest = &messages[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(random.within(1, rest.len()));
        wire.extend(records.seal(HANDSHAKE, now, 0));
        rest = later;
    }
    wire
}
