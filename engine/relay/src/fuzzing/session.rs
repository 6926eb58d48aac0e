//! Whole sessions over loopback sockets, under known keys: what both ends do is a script.

use std::cell::{Cell, OnceCell};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sealane_io::rt::{self, Broadcast};
use sealane_io::{Control, Driver, Epoll, Pool, Socket};
use sealane_proto::fuzzing::{End, Line, Receiver, Script, Setup, key};
use sealane_proto::limits::BUFFER_BIG_BYTES;
use sealane_proto::rpc::RecordScanner;
use sealane_proto::tls::{Inbound, Role, Sealer, TrafficKey, Version};

use super::ends::{Ends, name};
use crate::config::{ClientMode, Endpoint, Memory, Mode, ServerMode, Spin, Timeouts, TunnelConfig};
use crate::counters::Counters;
use crate::error::SessionError;
use crate::handshake::Established;
use crate::keys::{KeySchedule, TlsFacts};
use crate::session::{self, Ended, Parts, Surroundings};
use crate::spinning::Spinning;

/// Longer than any session here takes, even on a busy host.
const SESSION_MAX: Duration = Duration::from_secs(15);
/// The most that one end says.
const SAID_BYTES_MAX: usize = 96 * 1024;

/// What is delivered is a prefix of what was said, and all of it when both ends close well. Nothing but a close is
/// delivered as a close, what is sent are lawful records, the session ends, and every buffer comes back.
///
/// The input is a byte of [`Setup`], one of options, one of bytes that came with the handshake, one of the length of
/// the begun record that was left over from it, and then what both ends do.
///
/// # Panics
/// When that is not so.
pub fn session(data: &[u8]) {
    let mut script = Script::new(data);
    let setup = Setup { sequence: 0, ..Setup::of(script.byte()) };
    let options = script.byte();
    let memory = Memory { bytes_max: 4 << 20, connections_max: 1, workers: 1 };
    let layout = memory.layout().expect("a layout");
    let ran = Epoll::run(2, async move {
        let pool = Pool::new(layout).expect("a pool");
        let mut peers = Peers::new(script, setup);
        let parts = peers.parts(setup, config(setup, options), pool.clone());
        let done = Cell::new(false);
        let session = async {
            let ended = session::run::<<Epoll as Driver>::Stream>(parts).await;
            done.set(true);
            ended
        };
        let (ended, ()) = rt::join(session, peers.run(&done)).await;
        peers.judge(setup, &ended);
        assert_eq!((pool.small_free(), pool.big_free()), (layout.small_count, layout.big_count), "buffers are missing");
    });
    ran.expect("a reactor");
}

fn config(setup: Setup, options: u8) -> TunnelConfig {
    let Ends { client, server } = Ends::shared(0);
    let mode = match setup.role {
        Role::Client => Mode::Client(ClientMode { tls: client.clone().into(), server_name: name(), verified: true }),
        Role::Server => Mode::Server(ServerMode {
            tls: server.clone().into(),
            handshakes_max: 1,
            per_address: crate::PerAddress::UNLIMITED,
            proxy_protocol: None,
        }),
    };
    TunnelConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        connect: Endpoint { host: "127.0.0.1".into(), port: 1 },
        mode,
        // A session waits for none of these: its ends close, or break.
        timeouts: Timeouts { drain: Duration::from_millis(100), ..Timeouts::default() },
        accepted: Default::default(),
        outgoing: Default::default(),
        records_per_key_max: if options & 1 == 0 { u64::MAX } else { u64::from(2 + (options >> 1)) },
        revoked_live: crate::config::RevokedLive::default(),
        watched: Vec::new(),
        panic_on: None,
    }
}

/// Keys that follow from their number.
struct Known {
    setup: Setup,
    sending: u32,
    receiving: u32,
}

impl KeySchedule for Known {
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError> {
        self.sending += 1;
        Ok(key(self.setup, self.sending))
    }

    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError> {
        self.receiving += 1;
        Ok(key(self.setup, self.receiving))
    }

    fn ticket(&mut self, _body: &[u8]) -> Result<(), SessionError> {
        Ok(())
    }
}

/// How the session ended its direction towards a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Heard {
    Open,
    Fin,
    Reset,
}

/// A peer's end of a connection.
struct Outside {
    stream: TcpStream,
    /// Said and not sent.
    out: Vec<u8>,
    /// It ends when everything is sent.
    ends: bool,
    fin_sent: bool,
    was_reset: bool,
    /// A send has told that the session reset it. A receive does not tell it again.
    is_broken: bool,
    heard: Heard,
}

impl Outside {
    /// A connection: the peer's end and the session's.
    fn pair() -> io::Result<(Self, TcpStream)> {
        thread_local!(static LISTENER: OnceCell<TcpListener> = const { OnceCell::new() });
        let (stream, inside) = LISTENER.with(|listener| {
            let listener = match listener.get() {
                Some(listener) => listener,
                None => {
                    let new = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                    listener.get_or_init(|| new)
                }
            };
            let stream = TcpStream::connect(listener.local_addr()?)?;
            Ok::<_, io::Error>((stream, listener.accept()?.0))
        })?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let outside = Self {
            stream,
            out: Vec::new(),
            ends: false,
            fin_sent: false,
            was_reset: false,
            is_broken: false,
            heard: Heard::Open,
        };
        Ok((outside, inside))
    }

    /// Sends at most so much; true when something was done.
    fn send(&mut self, most: usize) -> bool {
        let part = self.out.get(..most.min(self.out.len())).unwrap_or_default();
        let mut sent = 0;
        if !part.is_empty() {
            match self.stream.write(part) {
                Ok(count) => sent = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.is_broken = true;
                    sent = self.out.len();
                }
            }
            self.out.drain(..sent);
        }
        if self.ends && self.out.is_empty() && !self.fin_sent {
            self.fin_sent = true;
            // The session may have reset it.
            let _ = self.stream.shutdown(Shutdown::Write);
            return true;
        }
        sent > 0
    }

    /// What is there, at most so much.
    fn hear(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        if self.heard != Heard::Open || self.was_reset {
            return Vec::new();
        }
        match self.stream.read(&mut bytes) {
            Ok(0) => self.heard = if self.is_broken { Heard::Reset } else { Heard::Fin },
            Ok(count) => {
                bytes.truncate(count);
                return bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.heard = Heard::Reset,
        }
        Vec::new()
    }

    fn reset(&mut self) {
        self.was_reset = true;
        self.out.clear();
        if let Ok(stream) = self.stream.try_clone() {
            Socket::new(stream).abort();
        }
    }
}

/// Both peers of a session.
struct Peers<'d> {
    script: Script<'d>,
    plain: Outside,
    tls: Outside,
    /// The session's ends, until it has them.
    inside: Option<(TcpStream, TcpStream)>,
    /// What the TLS peer says.
    line: Line,
    /// The data that came with the handshake.
    early: Vec<u8>,
    /// What the plain peer says.
    said: Vec<u8>,
    /// What the plain peer hears.
    heard: Vec<u8>,
    /// What the TLS peer hears.
    receiver: Receiver,
    stop: Rc<Broadcast>,
}

impl<'d> Peers<'d> {
    fn new(script: Script<'d>, setup: Setup) -> Self {
        let (plain, plain_inside) = Outside::pair().expect("a connection");
        let (tls, tls_inside) = Outside::pair().expect("a connection");
        let role = match setup.role {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        };
        Self {
            script,
            plain,
            tls,
            inside: Some((plain_inside, tls_inside)),
            line: Line::new(setup),
            early: Vec::new(),
            said: Vec::new(),
            heard: Vec::new(),
            receiver: Receiver::new(Setup { role, ..setup }, BUFFER_BIG_BYTES),
            stop: Rc::default(),
        }
    }

    /// A session between both, as a handshake leaves it.
    fn parts(&mut self, setup: Setup, config: TunnelConfig, pool: Pool) -> Parts<Socket> {
        let (plain, tls) = self.inside.take().expect("the session's ends");
        self.early = (0..u32::from(self.script.byte()) * 150).map(|at| (at ^ at >> 8) as u8).collect();
        let left_over = usize::from(self.script.byte());
        if left_over > 0 {
            self.line.act(&mut self.script);
            self.tls.out.extend_from_slice(&self.line.wire);
        }
        // Less than a record: a handshake does not end in front of a whole one.
        let whole = match *self.tls.out {
            [_, _, _, high, low, ..] => 5 + usize::from(u16::from_be_bytes([high, low])),
            _ => 1,
        };
        let left_over: Vec<u8> = self.tls.out.drain(..left_over.min(whole - 1).min(self.tls.out.len())).collect();
        let facts = TlsFacts { version: setup.version, suite: "any", resumed: false };
        let established = Established {
            sealer: Sealer::new(&key(setup, 0)),
            inbound: Inbound::new(setup.role, &key(setup, 0)),
            keys: Box::new(Known { setup, sending: 0, receiving: 0 }),
            early: self.early.clone(),
            left_over,
            peer_closed: false,
            facts,
        };
        let surroundings = Surroundings::new(pool, Spinning::new(Spin::Off, None));
        Parts {
            plain: Socket::new(plain),
            tls: Socket::new(tls),
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            established,
            shown: None,
            config: Arc::new(config),
            counters: Arc::new(Counters::default()),
            surroundings: Surroundings { stop: Rc::clone(&self.stop), ..surroundings },
        }
    }

    /// Does what the script says, then lets both ends close, until the session is over.
    async fn run(&mut self, done: &Cell<bool>) {
        while !self.script.is_over() && !done.get() {
            self.act();
            rt::yield_now().await;
        }
        if self.line.is_open() && !self.tls.ends {
            self.say_on_line(Line::close);
        }
        self.plain.ends = true;
        self.tls.ends = true;
        let started = rt::now();
        let mut idle = 0;
        while !done.get() {
            assert!(rt::now() - started < SESSION_MAX, "the session does not end");
            let went_on = self.plain.send(usize::MAX) | self.tls.send(usize::MAX) | self.hear(1 << 16);
            idle = if went_on { 0 } else { idle + 1 };
            if idle > 20 {
                rt::sleep(Duration::from_millis(1)).await;
            } else {
                rt::yield_now().await;
            }
        }
        // Its sockets are closed: what is on its way comes, and then an end.
        for end in [&self.plain, &self.tls] {
            end.stream.set_nonblocking(false).expect("a blocking socket");
            end.stream.set_read_timeout(Some(SESSION_MAX)).expect("a time limit");
        }
        while self.hear(1 << 16) {}
    }

    fn act(&mut self) {
        match self.script.byte() % 16 {
            0..=2 => self.say_plain(),
            3..=6 if self.line.is_open() && !self.tls.ends && self.line.wire.len() < SAID_BYTES_MAX => {
                let mut script = std::mem::replace(&mut self.script, Script::new(&[]));
                self.say_on_line(|line| line.act(&mut script));
                self.script = script;
            }
            7 => {
                let most = usize::from(self.script.word());
                self.plain.send(most);
            }
            8 => {
                let most = usize::from(self.script.word());
                self.tls.send(most);
            }
            9 => {
                let most = usize::from(self.script.byte()) * 16;
                self.hear(most.max(1));
            }
            10 => self.plain.ends = true,
            11 => self.tls.ends = true,
            12 if self.line.is_open() && !self.tls.ends => self.say_on_line(Line::close),
            // Rare, or most scripts would end so.
            13 => match self.script.byte() {
                0xf1 => self.plain.reset(),
                0xf2 => self.tls.reset(),
                0xf3 => self.stop.set(),
                _ => {}
            },
            _ => {
                self.plain.send(usize::MAX);
                self.tls.send(usize::MAX);
            }
        }
    }

    fn say_on_line(&mut self, say: impl FnOnce(&mut Line)) {
        let before = self.line.wire.len();
        say(&mut self.line);
        self.tls.out.extend_from_slice(self.line.wire.get(before..).unwrap_or_default());
    }

    fn say_plain(&mut self) {
        if self.plain.ends || self.said.len() > SAID_BYTES_MAX {
            return;
        }
        let bits = self.script.byte();
        let mut words = if bits & 1 == 0 { vec![7, 0, 2] } else { vec![7, 1, 0] };
        words.resize(5 + usize::from(bits >> 3) * if bits & 4 == 0 { 1 } else { 300 }, self.said.len() as u32);
        let bytes: Vec<u8> = if bits & 2 == 0 {
            let mark = 0x8000_0000 | (words.len() * 4) as u32;
            std::iter::once(mark).chain(words).flat_map(u32::to_be_bytes).collect()
        } else {
            let count = usize::from(bits >> 3);
            self.script.bytes(count).to_vec()
        };
        self.said.extend_from_slice(&bytes);
        self.plain.out.extend(bytes);
    }

    /// Takes what has come to both ends; true when anything has.
    fn hear(&mut self, most: usize) -> bool {
        let before = (self.plain.heard, self.tls.heard);
        let plain = self.plain.hear(most);
        self.heard.extend_from_slice(&plain);
        let records = self.tls.hear(most);
        let mut rest = &records[..];
        while !rest.is_empty() && self.receiver.end == End::Open {
            let count = self.receiver.read(rest);
            rest = rest.get(count..).unwrap_or_default();
        }
        !plain.is_empty() || !records.is_empty() || before != (self.plain.heard, self.tls.heard)
    }

    fn judge(&self, setup: Setup, ended: &Ended) {
        let Self { plain, tls, line, said, receiver, .. } = self;
        let expected = line.expected(line.wire.len());
        let all: Vec<u8> = self.early.iter().chain(&expected.data).copied().collect();
        assert!(all.starts_with(&self.heard), "{} bytes on the plain side, of {}", self.heard.len(), all.len());
        assert!(said.starts_with(&receiver.data), "{} bytes on the TLS side, of {}", receiver.data.len(), said.len());
        match receiver.end {
            End::Open | End::Closed | End::Failed(sealane_proto::tls::TlsError::PeerAlert(_)) => {}
            _ => panic!("the records of the session: {:?}", receiver.end),
        }
        let is_13 = setup.version == Version::Tls13;
        let is_quiet = !self.stop.is_set() && !plain.was_reset && !tls.was_reset;
        let mut scanner = RecordScanner::new();
        // A stream that is not RPC may end anywhere.
        let _ = scanner.advance(said);
        let plain_ends_well = is_quiet && (scanner.at_boundary() || scanner.is_refused());
        if is_13 && is_quiet && receiver.end == End::Closed {
            assert!(plain_ends_well && receiver.data == *said, "close_notify behind {} bytes", receiver.data.len());
        }
        if is_quiet && plain.heard == Heard::Fin && !ended.drained {
            assert!(line.is_closed() && self.heard == all, "FIN behind {} bytes of {}", self.heard.len(), all.len());
        }
        if plain_ends_well && line.is_closed() && !ended.drained {
            assert!(ended.failure.is_none(), "{:?}", ended.failure);
            assert!(self.heard == all, "{} of {} bytes on the plain side", self.heard.len(), all.len());
            assert_eq!(receiver.end, End::Closed);
            // Under TLS 1.2 the plain peer may still be writing when all is over.
            assert!(!is_13 || plain.heard == Heard::Fin, "{:?}", plain.heard);
            assert!(!is_13 || receiver.data == *said, "{} of {} bytes", receiver.data.len(), said.len());
        }
        if is_quiet && matches!(expected.end, End::Failed(_)) && !ended.drained {
            assert!(ended.failure.is_some(), "nothing was found wrong with {:?}", expected.end);
        }
    }
}
