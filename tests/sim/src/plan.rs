//! What a seed says: the weather, the connections, what each peer does, and which fault comes when.

use std::time::Duration;

use sealane_proto::tls::{Role, Suite, Version};

use crate::network::Weather;
use crate::peer::FLOOD_CALLS_MIN;
use crate::random::Random;
use crate::records::Secret;
use crate::stats::Fault;

/// A fault comes when nothing more can be said.
pub(crate) const WHEN_BLOCKED: usize = usize::MAX;

/// What every seed moves each way, at least, on the connection that nothing happens to.
pub(crate) const BYTES_EACH_WAY_MIN: usize = 256 * 1024;

/// One world.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) role: Role,
    pub(crate) weather: Weather,
    /// More big buffers than connections, or one for all.
    pub(crate) memory_bytes: usize,
    pub(crate) records_per_key_max: u64,
    /// The worker polls for what comes behind a lone message instead of waiting to be told.
    pub(crate) spins: bool,
    /// The first one is the one that nothing happens to.
    pub(crate) connections: Vec<Connection>,
}

/// One connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) secret: Secret,
    /// Keys come from a handshake.
    pub(crate) shakes_hands: bool,
    pub(crate) fault: Option<Fault>,
    /// What is odd about it, though it must end well.
    pub(crate) oddity: Option<Fault>,
    /// When its TLS peer's certificate is revoked.
    pub(crate) revoked: Option<Duration>,
    /// It is not: its tunnel stops instead.
    pub(crate) leaves: bool,
    pub(crate) client: Behaviour,
    pub(crate) server: Behaviour,
}

/// When a peer ends its direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Close {
    /// Everything is answered.
    Done,
    /// Everything is said; replies are still to come.
    Said,
    /// The other one has ended.
    After,
    /// So many calls are answered.
    Answered(usize),
}

/// What a peer does.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// Calls: their bytes, and those of their replies.
    pub(crate) calls: Vec<(usize, usize)>,
    pub(crate) depth: usize,
    /// Instead of RPC: so many bytes of anything.
    pub(crate) stream: Option<usize>,
    /// How much of such a stream the other one says.
    pub(crate) expects: usize,
    /// What it says between its messages that is hostile at the RPC layer.
    pub(crate) hostile: Option<Fault>,
    /// After so many calls there is nothing to do for a while.
    pub(crate) idle: Option<(usize, Duration)>,
    /// After so many calls it takes that long to go on answering.
    pub(crate) late: Option<(usize, Duration)>,
    /// After so many bytes it takes nothing for a while.
    pub(crate) shut: Option<(usize, Duration)>,
    /// It closes its socket when it has said everything, and hears nothing.
    pub(crate) leaves: bool,
    pub(crate) close: Close,
    pub(crate) fragment: usize,
    /// The most bytes of one TLS record.
    pub(crate) record: usize,
    /// Extras of TLS, of a thousand records.
    pub(crate) extras: usize,
    /// Pauses, of a thousand reads or writes.
    pub(crate) pauses: usize,
    pub(crate) pause: Duration,
    /// Pauses in writing only.
    pub(crate) reads_on: bool,
    /// The most bytes that it says at once.
    pub(crate) piece: usize,
    /// The fault of the connection is this peer's, after so many bytes.
    pub(crate) fault: Option<(Fault, usize)>,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let random = &mut Random::new(seed, 1);
        let role = random.pick(&[Role::Client, Role::Server]);
        let count = random.within(2, 4);
        // In good weather nothing takes any time, unless somebody missed something.
        let is_calm = random.chance(150);
        let weather = Weather {
            short: random.pick(&[0, 20, 200, 700]),
            late: if is_calm { 0 } else { random.pick(&[0, 20, 200]) },
            slow: if is_calm { 0 } else { random.pick(&[0, 20, 200]) },
            delay_ms_max: random.pick(&[1, 5, 40]),
            capacity: random.pick(&[6_000, 40_000, 200_000, 1 << 20]),
        };
        let short_keys = random.chance(300);
        let connections: Vec<_> =
            (0..count).map(|index| Connection::new(random, seed, index, role, short_keys)).collect();
        let mut connections = connections;
        // The name and address that are connected to are those of one.
        connections
            .iter_mut()
            .filter(|connection| connection.shakes_hands)
            .skip(1)
            .for_each(Connection::without_handshake);
        let small = count * 2 * 20_000 + 100_000;
        Self {
            spins: seed % 4 == 3,
            seed,
            role,
            weather,
            memory_bytes: small + 1_200_000 * random.pick(&[1, 1, 2, 6]),
            records_per_key_max: if short_keys { random.within(2, 40) as u64 } else { u64::MAX },
            connections,
        }
    }
}

/// Faults of either peer by its side.
const PLAIN_FAULTS: &[Fault] = &[Fault::PlainReset, Fault::PlainEndInRecord];
const TLS_FAULTS: &[Fault] = &[
    Fault::TlsReset,
    Fault::TlsEndWithoutClose,
    Fault::TlsEndInRecord,
    Fault::CloseInRecord,
    Fault::RecordChanged,
    Fault::RecordDropped,
    Fault::RecordRepeated,
    Fault::RecordTooLong,
    Fault::RecordOfNoType,
    Fault::FatalAlert,
    Fault::Flood,
    Fault::Interleaved,
    Fault::KeyUpdateNotLast,
    Fault::AlertInMessage,
    Fault::EarlyClose,
    Fault::Garbage,
    Fault::PathCut,
];
/// Faults of any peer.
const FAULTS: &[Fault] = &[Fault::HalfARecord, Fault::PeerTakesNothing, Fault::NeverEnds, Fault::Stopped];
/// What ends no connection.
const ODDITIES: &[Fault] = &[
    Fault::ZeroFragment,
    Fault::AbsurdMark,
    Fault::NotRpcMidway,
    Fault::NoMessage,
    Fault::UnsolicitedReplies,
    Fault::RepeatedXids,
    Fault::CallFlood,
    Fault::IdleHours,
    Fault::LateReply,
    Fault::WindowShut,
    Fault::OrderlyClose,
];
const HANDSHAKE_FAULTS: &[Fault] = &[
    Fault::ConnectRefused,
    Fault::ConnectHangs,
    Fault::NameUnknown,
    Fault::HandshakeCut,
    Fault::HandshakeStalled,
    Fault::HandshakeChanged,
];

fn what_happens(random: &mut Random, shakes_hands: bool) -> (Option<Fault>, Option<Fault>) {
    match (random.below(100), shakes_hands) {
        (0..85, true) => (Some(random.pick(HANDSHAKE_FAULTS)), None),
        (0..8, _) => (Some(random.pick(PLAIN_FAULTS)), None),
        (8..50, false) => (Some(random.pick(TLS_FAULTS)), None),
        (50..62, false) => (Some(random.pick(FAULTS)), None),
        (62..66, false) => (Some(Fault::ServerSilent), None),
        (66..95, false) => (None, Some(random.pick(ODDITIES))),
        _ => (None, None),
    }
}

/// The same fault, or one like it, in a version that has it.
fn in_version(fault: Fault, version: Version) -> Fault {
    match (fault, version) {
        // Under TLS 1.2 it ends both directions (RFC 5246 section 7.2.1).
        (Fault::CloseInRecord, Version::Tls12) => Fault::EarlyClose,
        (Fault::EarlyClose, Version::Tls13) => Fault::CloseInRecord,
        (Fault::KeyUpdateNotLast, Version::Tls12) => Fault::AlertInMessage,
        (fault, _) => fault,
    }
}

impl Connection {
    fn new(random: &mut Random, seed: u64, index: usize, role: Role, short_keys: bool) -> Self {
        let is_survivor = index == 0;
        let shakes_hands = !is_survivor && random.chance(120);
        let (fault, oddity) = if is_survivor { (None, None) } else { what_happens(random, shakes_hands) };
        let keeps_its_key = is_survivor || shakes_hands || oddity.is_some() || fault == Some(Fault::NeverEnds);
        let version = match keeps_its_key && short_keys {
            // A TLS 1.2 key that is used up ends its connection.
            true => Version::Tls13,
            false => random.pick(&[Version::Tls12, Version::Tls13, Version::Tls13]),
        };
        let fault = fault.map(|fault| in_version(fault, version));
        let suite = random.pick(&[Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
        let secret = Secret { seed: seed.wrapping_mul(31).wrapping_add(index as u64), version, suite };
        let happens = [fault, oddity];
        let must_stream = [Fault::PeerTakesNothing, Fault::WindowShut, Fault::OrderlyClose];
        // Half of the resets come while the other peer takes nothing: then nobody reads from the one that is reset.
        let is_reset = matches!(fault, Some(Fault::PlainReset | Fault::TlsReset));
        let not_rpc = (is_reset && random.chance(500))
            || must_stream.iter().any(|kind| happens.contains(&Some(*kind)))
            || (happens == [None; 2] && random.chance(60));
        let least = if is_survivor { BYTES_EACH_WAY_MIN } else { random.within(20_000, 120_000) };
        let mut client = Behaviour::new(random, least, not_rpc);
        let mut server = Behaviour::new(random, 0, not_rpc);
        server.close = Close::After;
        server.stream = client.stream;
        (client.expects, server.expects) = (client.stream.unwrap_or(0), client.stream.unwrap_or(0));
        if !not_rpc && random.chance(300) {
            server.calls =
                (0..random.within(1, 20)).map(|_| (random.within(20, 2000), random.within(20, 500))).collect();
        }
        // Whoever says close_notify under TLS 1.2 has renounced the replies (RFC 5246 section 7.2.1).
        let renounces = version == Version::Tls12 && role == Role::Server;
        let uses_up = short_keys && version == Version::Tls12;
        // A late reply may come behind a half-close.
        let must_be_done = oddity.is_some_and(|oddity| oddity != Fault::LateReply) || fault == Some(Fault::NeverEnds);
        if client.close == Close::Said && (renounces || uses_up || not_rpc || must_be_done) {
            client.close = Close::Done;
        }
        let mut connection = Self { secret, shakes_hands, fault, oddity, revoked: None, leaves: false, client, server };
        connection.prepare_revocation(seed, index);
        connection.prepare_fault(random, role);
        connection.prepare_oddity(random, role);
        connection.blame(random, role);
        connection
    }

    /// Most of those to which nothing else happens are to end while much is under way.
    fn prepare_revocation(&mut self, seed: u64, index: usize) {
        let random = &mut Random::new(seed, 50 + index as u64);
        let is_plain = self.fault.is_none() && self.oddity.is_none() && self.client.stream.is_none();
        if index > 0 && is_plain && !self.shakes_hands && random.chance(800) {
            let micros = random.pick(&[0, 300, 3_000, 30_000, 300_000]);
            self.revoked = Some(Duration::from_micros(random.within(micros, 3 * micros + 1) as u64));
            if random.chance(300) && !self.client.calls.is_empty() {
                // Nobody says anything by then that would bring it about.
                self.idle(random);
            }
            self.leaves = random.chance(500);
        }
    }

    /// What a fault needs, so that it can be seen.
    fn prepare_fault(&mut self, random: &mut Random, role: Role) {
        let Self { fault, client, server, .. } = self;
        match fault {
            Some(Fault::Stopped) => {
                client.pauses = 1000;
                client.piece = random.pick(&[50, 3000, 1 << 18]);
                // Or so short that whoever spins is still spinning.
                client.pause = random.pick(&[Duration::from_secs(20), Duration::from_millis(1)]);
            }
            Some(Fault::CloseInRecord) => {
                client.depth = 64;
                if role == Role::Client { client.dawdle() } else { server.dawdle() }
            }
            Some(Fault::EarlyClose) => client.depth = 64,
            _ => {}
        }
    }

    fn prepare_oddity(&mut self, random: &mut Random, role: Role) {
        let Self { client, server, oddity, .. } = self;
        let Some(oddity) = *oddity else { return };
        match oddity {
            Fault::CallFlood => {
                client.calls = (0..random.within(FLOOD_CALLS_MIN, 600))
                    .map(|_| (random.within(20, 100), random.within(400, 2000)))
                    .collect();
                client.depth = client.calls.len();
                (client.pauses, client.pause) = (300, Duration::from_millis(400));
            }
            Fault::IdleHours => self.idle(random),
            Fault::LateReply => {
                let late = Duration::from_secs(random.within(100, 170) as u64);
                server.late = Some((random.within(1, client.calls.len()), late));
            }
            Fault::WindowShut => {
                let peer = if random.chance(500) { client } else { server };
                peer.shut = Some((random.below(100_000), Duration::from_secs(100)));
            }
            Fault::OrderlyClose => {
                let (plain, tls) = if role == Role::Client { (client, server) } else { (server, client) };
                (plain.close, plain.leaves, plain.expects) = (Close::Done, true, 0);
                (tls.close, tls.stream) = (Close::After, Some(0));
                tls.shut = Some((random.below(100_000), Duration::from_secs(30)));
            }
            hostile => {
                let who = random.below(3);
                client.hostile = Some(hostile).filter(|_| who != 1);
                server.hostile = Some(hostile).filter(|_| who != 0);
            }
        }
    }

    /// Both have nothing to say for hours.
    fn idle(&mut self, random: &mut Random) {
        self.server.calls.clear();
        let hours = Duration::from_secs(random.within(3600, 9000) as u64);
        self.client.idle = Some((random.below(self.client.calls.len()), hours));
        self.server.idle = self.client.idle;
    }

    fn without_handshake(&mut self) {
        self.shakes_hands = false;
        self.fault = None;
        self.client.fault = None;
        self.server.fault = None;
    }

    /// Gives the fault to the peer whose it is.
    fn blame(&mut self, random: &mut Random, role: Role) {
        let Some(fault) = self.fault else { return };
        let is_plain = match fault {
            fault if PLAIN_FAULTS.contains(&fault) => true,
            Fault::ServerSilent => role == Role::Server,
            Fault::HalfARecord | Fault::PeerTakesNothing | Fault::NeverEnds => random.chance(500),
            _ => false,
        };
        let is_client = (role == Role::Client) == is_plain;
        if is_client && fault == Fault::NeverEnds {
            self.server.close = Close::Answered(self.client.calls.len());
        }
        let is_blocked = matches!(fault, Fault::PlainReset | Fault::TlsReset) && self.client.stream.is_some();
        let (peer, other) = match is_client {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        if is_blocked {
            other.shut = Some((random.below(20_000), Duration::from_secs(90)));
            peer.fault = Some((fault, WHEN_BLOCKED));
            return;
        }
        let most = if HANDSHAKE_FAULTS.contains(&fault) { 1500 } else { 60_000 };
        // So that more is still to come than the buffers on the way hold.
        let at = if fault == Fault::PeerTakesNothing { 0 } else { random.below(most) };
        peer.fault = Some((fault, at));
    }

    /// Whether all of it is to arrive, and both ends are to close well.
    pub(crate) fn is_to_end_well(&self, records_per_key_max: u64) -> bool {
        self.fault.is_none()
            && self.revoked.is_none()
            && (records_per_key_max == u64::MAX || self.secret.version == Version::Tls13)
    }
}

impl Behaviour {
    fn new(random: &mut Random, least: usize, not_rpc: bool) -> Self {
        let size = |random: &mut Random| match random.below(20) {
            0 => random.within(100_000, 300_000),
            1..6 => random.within(4_000, 70_000),
            _ => random.within(20, 600),
        };
        let (mut calls, mut said, mut asked) = (Vec::new(), 0, 0);
        while (said < least || asked < least) && !not_rpc && least > 0 {
            let call = (size(random), size(random));
            said += call.0;
            asked += call.1;
            calls.push(call);
        }
        Self {
            calls,
            depth: random.pick(&[1, 2, 8, 64]),
            stream: not_rpc.then(|| random.within(1_400_000, 1_600_000)),
            expects: 0,
            hostile: None,
            idle: None,
            late: None,
            shut: None,
            leaves: false,
            close: if random.chance(300) { Close::Said } else { Close::Done },
            fragment: random.pick(&[7, 300, 20_000, 1 << 24, 1 << 24, 1 << 24]),
            record: random.pick(&[9, 700, 16_384, 16_384, 16_384]),
            extras: random.pick(&[0, 0, 20, 200]),
            pauses: random.pick(&[0, 0, 10, 100]),
            pause: Duration::from_millis(random.pick(&[1, 30, 400])),
            reads_on: false,
            piece: 1 << 18,
            fault: None,
        }
    }

    /// What it has to say takes minutes.
    fn dawdle(&mut self) {
        self.pauses = 1000;
        self.pause = Duration::from_secs(20);
        self.reads_on = true;
        self.piece = 4000;
    }
}
