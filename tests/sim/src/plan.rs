//! What a seed says: the weather, the connections, what each peer does, and which fault comes when.

use std::time::Duration;

use sealane_proto::tls::{Role, Suite, Version};

use crate::network::Weather;
use crate::random::Random;
use crate::records::Secret;
use crate::stats::Fault;

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
}

/// What a peer does.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// Calls: their bytes, and those of their replies.
    pub(crate) calls: Vec<(usize, usize)>,
    pub(crate) depth: usize,
    /// Instead of RPC: so many bytes of anything.
    pub(crate) stream: Option<usize>,
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
        let weather = Weather {
            short: random.pick(&[0, 20, 200, 700]),
            late: random.pick(&[0, 20, 200]),
            slow: random.pick(&[0, 20, 200]),
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
    Fault::Garbage,
    Fault::PathCut,
];
/// Faults of any peer.
const FAULTS: &[Fault] = &[Fault::HalfARecord, Fault::PeerTakesNothing, Fault::Stopped];
const HANDSHAKE_FAULTS: &[Fault] = &[
    Fault::ConnectRefused,
    Fault::ConnectHangs,
    Fault::NameUnknown,
    Fault::HandshakeCut,
    Fault::HandshakeStalled,
    Fault::HandshakeChanged,
];

impl Connection {
    fn new(random: &mut Random, seed: u64, index: usize, role: Role, short_keys: bool) -> Self {
        let is_survivor = index == 0;
        let shakes_hands = !is_survivor && random.chance(90);
        let version = match (is_survivor || shakes_hands) && short_keys {
            // A TLS 1.2 key that is used up ends its connection.
            true => Version::Tls13,
            false => random.pick(&[Version::Tls12, Version::Tls13, Version::Tls13]),
        };
        let suite = random.pick(&[Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]);
        let secret = Secret { seed: seed.wrapping_mul(31).wrapping_add(index as u64), version, suite };
        let kind = random.below(100);
        let fault = match (is_survivor, shakes_hands) {
            (true, _) => None,
            (false, true) if kind < 85 => Some(random.pick(HANDSHAKE_FAULTS)),
            (false, true) => None,
            (false, false) => match kind {
                0..12 => Some(random.pick(PLAIN_FAULTS)),
                12..70 => match random.pick(TLS_FAULTS) {
                    // Under TLS 1.2 it ends both directions (RFC 5246 section 7.2.1).
                    Fault::CloseInRecord if version == Version::Tls12 => Some(Fault::TlsEndInRecord),
                    fault => Some(fault),
                },
                70..85 => Some(random.pick(FAULTS)),
                85..90 => Some(Fault::ServerSilent),
                _ => None,
            },
        };
        let not_rpc = fault == Some(Fault::PeerTakesNothing) || (fault.is_none() && random.chance(60));
        let least = if is_survivor { BYTES_EACH_WAY_MIN } else { random.within(20_000, 120_000) };
        let mut client = Behaviour::new(random, least, not_rpc);
        let mut server = Behaviour::new(random, 0, not_rpc);
        server.close = Close::After;
        server.stream = client.stream;
        if !not_rpc && random.chance(300) {
            server.calls =
                (0..random.within(1, 20)).map(|_| (random.within(20, 2000), random.within(20, 500))).collect();
        }
        if version == Version::Tls12 && role == Role::Server && client.close == Close::Said {
            // Whoever says close_notify under TLS 1.2 has renounced the replies (RFC 5246 section 7.2.1).
            client.close = Close::Done;
        }
        let uses_up = short_keys && version == Version::Tls12;
        if client.close == Close::Said && (uses_up || not_rpc) {
            client.close = Close::Done;
        }
        if fault == Some(Fault::Stopped) {
            client.pauses = 1000;
            client.pause = Duration::from_secs(20);
        }
        if fault == Some(Fault::CloseInRecord) {
            client.depth = 64;
            if role == Role::Client { client.dawdle() } else { server.dawdle() }
        }
        let mut connection = Self { secret, shakes_hands, fault, client, server };
        connection.blame(random, role);
        connection
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
            Fault::HalfARecord | Fault::PeerTakesNothing => random.chance(500),
            _ => false,
        };
        let peer = if (role == Role::Client) == is_plain { &mut self.client } else { &mut self.server };
        let most = if HANDSHAKE_FAULTS.contains(&fault) { 1500 } else { 60_000 };
        // So that more is still to come than the buffers on the way hold.
        let at = if fault == Fault::PeerTakesNothing { 0 } else { random.below(most) };
        peer.fault = Some((fault, at));
    }

    /// Whether all of it is to arrive, and both ends are to close well.
    pub(crate) fn is_to_end_well(&self, records_per_key_max: u64) -> bool {
        self.fault.is_none() && (records_per_key_max == u64::MAX || self.secret.version == Version::Tls13)
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
