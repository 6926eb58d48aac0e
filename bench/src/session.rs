//! A whole session, both directions, between an NFS client and server that are only numbers of bytes.
//!
//! The streams are memory: the client's side makes up its calls, the server's side hands out replies that were sealed
//! before. So what is measured is all that the relay does for a call but the system calls: scanning, sealing, opening,
//! lending, waking.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use sealane_io::rt::{self, Signal};
use sealane_io::{Buffer, Control, Patience, Received, Stream, Unheard};
use sealane_proto::tls::{AlertDescription, ContentType, Inbound, Role, Sealer, Suite, TrafficKey, Version};
use sealane_relay::simulation::{Credential, Stage};
use sealane_relay::{
    ClientMode, Endpoint, Established, IoChoice, KeySchedule, Memory, Mode, PemSource, Resources, SessionError, Spin,
    Timeouts, TlsClientOptions, TlsFacts, TlsVersions, TunnelConfig, client_config,
};

use crate::parts::message;
use crate::{Scenario, VERSIONS, Work, key};

const SUITE: Suite = Suite::Aes128Gcm;
/// Calls that the client makes before it has the reply of the first.
const DEPTH: usize = 4;
/// What an NFSv4.1 call or reply has around its payload, about.
const AROUND_BYTES: usize = 200;
const PAYLOAD_BYTES: usize = 1 << 20;
const MEMORY_BYTES: usize = 64 << 20;

/// Name, bytes of a call, bytes of a reply, calls.
const KINDS: [(&str, usize, usize, usize); 3] = [
    ("write", AROUND_BYTES + PAYLOAD_BYTES, AROUND_BYTES, 16),
    ("read", AROUND_BYTES, AROUND_BYTES + PAYLOAD_BYTES, 16),
    ("getattr", AROUND_BYTES, AROUND_BYTES, 2000),
];

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (version, version_name) in VERSIONS {
        for (kind, call_bytes, reply_bytes, calls) in KINDS {
            let name = format!("session/{version_name}/{kind}");
            let payload = ((call_bytes + reply_bytes) / PAYLOAD_BYTES * PAYLOAD_BYTES * calls) as u64;
            all.push(Scenario::new(name, payload, calls as u64, move || {
                Session::new(version, call_bytes, reply_bytes, calls)
            }));
        }
    }
    all
}

/// What both ends of a connection have to say, and how far it has gone.
struct Exchange {
    call: Vec<u8>,
    reply_bytes: usize,
    calls: usize,
    /// All replies and the end, as records; and the length of a reply's records.
    wire: Vec<u8>,
    reply_wire_bytes: usize,
    call_bytes_given: Cell<usize>,
    call_bytes_sent: Cell<usize>,
    wire_given: Cell<usize>,
    reply_bytes_sent: Cell<usize>,
    has_ended: Cell<bool>,
    plain_due: Signal,
    tls_due: Signal,
}

impl Exchange {
    fn new(version: Version, call_bytes: usize, reply_bytes: usize, calls: usize) -> Self {
        let mut sealer = Sealer::new(&key(version, SUITE));
        let shape = sealer.shape();
        let mut wire = Vec::new();
        let mut place = vec![0; reply_bytes + (reply_bytes / (1 << 14) + 1) * (shape.prefix + shape.suffix)];
        let mut reply_wire_bytes = 0;
        for index in 0..calls {
            let reply = message(reply_bytes, index as u32, 1);
            let mut rest = &reply[..];
            for (start, length) in shape.chunks(reply_bytes) {
                let (chunk, behind) = rest.split_at(length);
                place[start..start + length].copy_from_slice(chunk);
                rest = behind;
            }
            reply_wire_bytes = sealer.seal(&mut place, reply_bytes).expect("a fresh key");
            wire.extend_from_slice(&place[..reply_wire_bytes]);
        }
        let close = AlertDescription::CLOSE_NOTIFY.encode();
        let length = sealer.seal_message(ContentType::ALERT, &close, &mut place).expect("a fresh key");
        wire.extend_from_slice(&place[..length]);
        Self {
            call: message(call_bytes, 0, 0),
            reply_bytes,
            calls,
            wire,
            reply_wire_bytes,
            call_bytes_given: Cell::new(0),
            call_bytes_sent: Cell::new(0),
            wire_given: Cell::new(0),
            reply_bytes_sent: Cell::new(0),
            has_ended: Cell::new(false),
            plain_due: Signal::default(),
            tls_due: Signal::default(),
        }
    }

    /// Bytes of calls that the client has to say now; `None`: it ends.
    fn calls_due(&self) -> Option<usize> {
        let replies = self.reply_bytes_sent.get() / self.reply_bytes;
        if replies == self.calls {
            return None;
        }
        let calls = (replies + DEPTH).min(self.calls);
        Some(calls * self.call.len() - self.call_bytes_given.get())
    }

    /// Bytes of records that the server has to say now.
    fn wire_due(&self) -> usize {
        let replies = self.call_bytes_sent.get() / self.call.len();
        let until = if self.has_ended.get() { self.wire.len() } else { replies * self.reply_wire_bytes };
        until - self.wire_given.get()
    }

    /// Lays the calls' next bytes into the buffer's slices: only heads and xids are written, the payload is what lies there.
    fn give_calls(&self, buffer: &mut Buffer, due: usize) -> usize {
        const HEAD_BYTES: usize = 16;
        let ranges = buffer.ranges().collect::<Vec<_>>();
        let bytes = buffer.bytes_mut();
        let mut given = 0;
        for range in ranges {
            let length = range.len().min(due - given);
            let mut at = 0;
            while at < length {
                let position = self.call_bytes_given.get() + given + at;
                let (index, inside) = (position / self.call.len(), position % self.call.len());
                if inside < HEAD_BYTES {
                    let xid = (index as u32).to_be_bytes();
                    bytes[range.start + at] =
                        if (4..8).contains(&inside) { xid[inside - 4] } else { self.call[inside] };
                    at += 1;
                } else {
                    at += self.call.len() - inside;
                }
            }
            given += length;
        }
        self.call_bytes_given.set(self.call_bytes_given.get() + given);
        given
    }

    fn give_wire(&self, buffer: &mut Buffer, due: usize) -> usize {
        let ranges = buffer.ranges().collect::<Vec<_>>();
        let bytes = buffer.bytes_mut();
        let mut given = 0;
        for range in ranges {
            let length = range.len().min(due - given);
            let from = self.wire_given.get() + given;
            bytes[range.start..range.start + length].copy_from_slice(&self.wire[from..from + length]);
            given += length;
        }
        self.wire_given.set(self.wire_given.get() + given);
        given
    }
}

/// One of the relay's two sockets.
#[derive(Clone)]
struct End {
    exchange: Rc<Exchange>,
    is_plain: bool,
}

impl Control for End {
    fn shutdown_read(&self) {}

    fn shutdown_write(&self) {}

    fn abort(&self) {}

    fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn peek(&self, _bytes: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send_room(&self) -> usize {
        4 << 20
    }

    fn is_acknowledged(&self) -> bool {
        true
    }

    fn unheard(&self) -> Option<Unheard> {
        None
    }

    fn user_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_user_timeout(&self, _: Option<Duration>) {}

    fn is_gone(&self) -> bool {
        false
    }
}

struct MemoryStream(End);

impl Stream for MemoryStream {
    type Socket = End;

    fn adopt(socket: End) -> io::Result<Self> {
        Ok(Self(socket))
    }

    fn socket(&self) -> &End {
        &self.0
    }

    async fn look(&self) {
        rt::yield_now().await;
    }

    fn is_look_due(&self) -> bool {
        false
    }

    async fn readable(&self) -> io::Result<()> {
        let Exchange { plain_due, tls_due, .. } = &*self.0.exchange;
        loop {
            match self.0.is_plain {
                true if self.0.exchange.calls_due() != Some(0) => return Ok(()),
                true => plain_due.wait().await,
                false if self.0.exchange.wire_due() > 0 => return Ok(()),
                false => tls_due.wait().await,
            }
        }
    }

    async fn receive(&self, mut buffer: Buffer, _patience: Patience) -> (io::Result<Received>, Buffer) {
        let exchange = &self.0.exchange;
        let received = if self.0.is_plain {
            match exchange.calls_due() {
                None => {
                    exchange.has_ended.set(true);
                    exchange.tls_due.set();
                    Received::End
                }
                Some(0) => Received::Nothing,
                Some(due) => Received::Bytes(exchange.give_calls(&mut buffer, due)),
            }
        } else {
            match exchange.wire_due() {
                0 => Received::Nothing,
                due => Received::Bytes(exchange.give_wire(&mut buffer, due)),
            }
        };
        // As with a driver, the other direction has its turn.
        rt::yield_now().await;
        (Ok(received), buffer)
    }

    async fn send(&self, mut buffer: Buffer) -> (io::Result<()>, Buffer) {
        let exchange = &self.0.exchange;
        let bytes = buffer.slices_bytes();
        buffer.consume(bytes);
        if self.0.is_plain {
            exchange.reply_bytes_sent.set(exchange.reply_bytes_sent.get() + bytes);
            exchange.plain_due.set();
        } else {
            exchange.call_bytes_sent.set(exchange.call_bytes_given.get());
            exchange.tls_due.set();
        }
        (Ok(()), buffer)
    }
}

struct NoUpdates;

impl KeySchedule for NoUpdates {
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError> {
        Err(SessionError::Internal("no key update is due"))
    }

    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError> {
        Err(SessionError::Internal("no key update is due"))
    }

    fn ticket(&mut self, _body: &[u8]) -> Result<(), SessionError> {
        Ok(())
    }
}

fn mode() -> Mode {
    static MODE: OnceLock<Mode> = OnceLock::new();
    let make = || {
        let mut params = CertificateParams::new(Vec::new()).expect("a CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = params.self_signed(&KeyPair::generate().expect("a key")).expect("a CA");
        let options = TlsClientOptions {
            cas: PemSource::Text { name: "ca", pem: ca.pem() }.into(),
            versions: TlsVersions::Both,
            ..TlsClientOptions::default()
        };
        let tls = client_config(&options).expect("a configuration");
        Mode::Client(ClientMode {
            tls: tls.into(),
            server_name: ServerName::try_from("nfs.test").expect("a name"),
            verified: true,
        })
    };
    MODE.get_or_init(make).clone()
}

/// A session from its start to its end.
struct Session {
    version: Version,
    exchange: RefCell<Rc<Exchange>>,
    make: Box<dyn Fn() -> Exchange>,
    stage: Rc<Stage>,
}

impl Session {
    fn new(version: Version, call_bytes: usize, reply_bytes: usize, calls: usize) -> Self {
        let memory = Memory { bytes_max: MEMORY_BYTES, connections_max: 4, workers: 1 };
        let resources = Resources { io: IoChoice::Epoll, memory, spin: Spin::Off };
        let config = TunnelConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 20049)),
            connect: Endpoint { host: "nfs.test".into(), port: 2049 },
            mode: mode(),
            timeouts: Timeouts::default(),
            accepted: Default::default(),
            outgoing: Default::default(),
            records_per_key_max: u64::MAX,
            revoked_live: sealane_relay::RevokedLive::default(),
            watched: Vec::new(),
            panic_on: None,
        };
        let make = move || Exchange::new(version, call_bytes, reply_bytes, calls);
        let stage = Rc::new(Stage::new(resources, config).expect("a stage"));
        Self { version, exchange: RefCell::new(Rc::new(make())), make: Box::new(make), stage }
    }
}

impl Work for Session {
    fn prepare(&mut self) {
        self.exchange.replace(Rc::new((self.make)()));
    }

    fn run(&mut self) {
        let exchange = Rc::clone(&self.exchange.borrow());
        let key = key(self.version, SUITE);
        let established = Established {
            sealer: Sealer::new(&key),
            inbound: Inbound::new(Role::Client, &key),
            keys: Box::new(NoUpdates),
            early: Vec::new(),
            left_over: Vec::new(),
            peer_closed: false,
            facts: TlsFacts { version: self.version, suite: "any", resumed: false },
        };
        let ends = [true, false].map(|is_plain| End { exchange: Rc::clone(&exchange), is_plain });
        let [plain, tls] = ends;
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1000));
        let session = self.stage.session::<MemoryStream>(plain, tls, peer, established, Some(Credential::default()));
        let outcome = rt::run_on_virtual_time(session).expect("a runtime");
        assert!(outcome.failure.is_none(), "{outcome:?}");
        assert_eq!(exchange.reply_bytes_sent.get(), exchange.calls * exchange.reply_bytes, "not all was relayed");
    }
}
