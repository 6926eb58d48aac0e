//! One seed: a worker of the relay, its connections, and a network without mercy.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use sealane_io::{Driver, rt};
use sealane_proto::tls::{Inbound, Role, Sealer, TrafficKey, Version};
use sealane_relay::simulation::{Credential, Outcome, Stage};
use sealane_relay::{
    Endpoint, Established, IoChoice, KeySchedule, Memory, Mode, Resources, SessionError, Spin, Timeouts, TlsFacts,
    TunnelConfig,
};

use crate::credentials;
use crate::driver::{Sim, SimLink, SimStream, Upstream, set_upstream};
use crate::judge;
use crate::moment::Moment;
use crate::network::{End, Network, connection};
use crate::peer::{Peer, Said};
use crate::plan::{Behaviour, Connection, Plan};
use crate::random::Random;
use crate::records::{Records, Secret};
use crate::stats::{Fault, Stats};
use crate::trace::Event;
use crate::transport::Transport;

/// Longer than any connection may last, with all its pauses, but for hours without anything to do: whoever is not over by
/// then hangs.
const WORLD_MAX: Duration = Duration::from_secs(2 * 3600);

/// How often the pool is looked at: while much happens, and later.
const LOOK_INTERVALS: [Duration; 2] = [Duration::from_millis(7), Duration::from_secs(1)];
const MUCH_HAPPENS_FOR: Duration = Duration::from_secs(5);

/// What a world has shown.
pub(crate) struct Report {
    pub(crate) hash: u64,
    pub(crate) stats: Stats,
    /// Bytes compared, from the plain side and to it.
    pub(crate) bytes: [u64; 2],
    pub(crate) wrong: Vec<String>,
    /// From each kind of fault to the end of its connection, in time that nothing explains.
    pub(crate) longest: Vec<(Fault, Duration)>,
}

/// One connection while it runs.
pub(crate) struct Run {
    pub(crate) plan: Connection,
    pub(crate) role: Role,
    pub(crate) plain: RefCell<Option<Rc<Peer>>>,
    pub(crate) tls: RefCell<Option<Rc<Peer>>>,
    /// What the plain peer says, and the other one.
    pub(crate) said: [Said; 2],
    pub(crate) outcome: RefCell<Option<Outcome>>,
    /// The session panicked.
    pub(crate) panic: RefCell<Option<String>>,
    pub(crate) started: Moment,
    /// The session ended.
    pub(crate) ended: Cell<Option<Moment>>,
    /// Its peers too.
    pub(crate) over: Cell<Option<Moment>>,
    /// Peers that still run.
    pub(crate) peers_running: Cell<u32>,
    /// Its TLS peer's certificate has been revoked.
    pub(crate) revoked: Cell<Option<Moment>>,
    /// A fault before there was a session.
    pub(crate) unreached: Cell<Option<Moment>>,
    index: u32,
}

struct Known {
    secret: Secret,
    sending: u32,
    receiving: u32,
}

impl KeySchedule for Known {
    fn next_sending_key(&mut self) -> Result<TrafficKey, SessionError> {
        self.sending += 1;
        Ok(self.secret.traffic_key(true, self.sending))
    }

    fn next_receiving_key(&mut self) -> Result<TrafficKey, SessionError> {
        self.receiving += 1;
        Ok(self.secret.traffic_key(false, self.receiving))
    }

    fn ticket(&mut self, _body: &[u8]) -> Result<(), SessionError> {
        Ok(())
    }
}

/// Long enough for a peer on this network to answer meanwhile, now and then.
const SPIN: Duration = Duration::from_millis(4);

fn resources(plan: &Plan) -> Resources {
    let memory = Memory { bytes_max: plan.memory_bytes, connections_max: plan.connections.len(), workers: 1 };
    Resources { io: IoChoice::Epoll, memory, spin: if plan.spins { Spin::For(SPIN) } else { Spin::Off } }
}

fn config(plan: &Plan) -> TunnelConfig {
    static SHARED: [OnceLock<Mode>; 2] = [const { OnceLock::new() }; 2];
    let fresh = plan.connections.iter().any(|connection| connection.shakes_hands);
    let [client, server] = &SHARED;
    let shared = if plan.role == Role::Client { client } else { server };
    let mode =
        if fresh { credentials::mode(plan.role) } else { shared.get_or_init(|| credentials::mode(plan.role)).clone() };
    TunnelConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 20049)),
        connect: Endpoint { host: "nfs.test".into(), port: 2049 },
        mode,
        timeouts: Timeouts::default(),
        accepted: Default::default(),
        outgoing: Default::default(),
        records_per_key_max: plan.records_per_key_max,
        revoked_live: sealane_relay::RevokedLive::Close,
        watched: Vec::new(),
        panic_on: None,
    }
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + index as u16))
}

/// Runs a seed.
pub(crate) fn run(seed: u64, is_printed: bool) -> Report {
    let plan = Plan::new(seed);
    if is_printed {
        println!("{plan:#?}");
    }
    let report = Sim::run(0, live(&plan, is_printed));
    set_upstream(None);
    report.expect("a runtime")
}

async fn live(plan: &Plan, is_printed: bool) -> Report {
    let stage = Rc::new(Stage::new(resources(plan), config(plan)).expect("a stage"));
    let network = Rc::new(Network::new(plan.weather, Random::new(plan.seed, 2)));
    network.trace.borrow_mut().is_printed = is_printed;
    let runs: Vec<Rc<Run>> = (0..)
        .zip(&plan.connections)
        .map(|(index, connection)| Run::new(connection, plan.role, index, &network))
        .collect();
    for (index, run) in runs.iter().enumerate() {
        start(index, run, plan, &stage, &network);
    }
    let idle = plan.connections.iter().filter_map(|connection| connection.client.idle).map(|(_, idle)| idle).max();
    let limit = WORLD_MAX + idle.unwrap_or_default();
    let ended = rt::timeout(limit, until_over(&runs, &stage, &network)).await;
    let mut wrong = Vec::new();
    if ended.is_none() {
        wrong.push("it never ends".into());
    }
    let mut bytes = [0; 2];
    for (index, run) in runs.iter().enumerate() {
        for found in judge::judge(run, plan) {
            let kind = run.plan.fault.or(run.plan.oddity);
            wrong.push(format!("connection {index} ({kind:?}, {:?}): {found}", run.plan.secret.version));
        }
        let [from_plain, to_plain] = judge::bytes_compared(run);
        bytes = [bytes[0] + from_plain, bytes[1] + to_plain];
    }
    count_connections(&runs, &network);
    let (layout, small, big) = stage.buffers();
    if (small, big) != (layout.small_count, layout.big_count) {
        wrong.push(format!("buffers are missing: {small} of {}, {big} of {}", layout.small_count, layout.big_count));
    }
    let panics = stage.counters().connections_panicked_total.get();
    if panics > 0 {
        wrong.push(format!("{panics} panics"));
    }
    let stats = network.stats.borrow().clone();
    let hash = network.trace.borrow().hash();
    let longest = runs.iter().filter_map(|run| judge::time_to_end(run)).collect();
    Report { hash, stats, bytes, wrong, longest }
}

/// Waits until every connection is over, and lets the tunnel stop where that is the fault.
async fn until_over(runs: &[Rc<Run>], stage: &Stage, network: &Network) {
    let (mut starved, started) = (false, rt::now());
    loop {
        let (_, _, big) = stage.buffers();
        if big == 0 && !std::mem::replace(&mut starved, true) {
            network.count(Fault::PoolExhausted);
        }
        let open: Vec<&Rc<Run>> = runs.iter().filter(|run| !run.is_over()).collect();
        if open.is_empty() {
            return;
        }
        if open.iter().all(|run| run.plan.fault == Some(Fault::Stopped)) {
            for run in open {
                run.unreached.set(run.unreached.get().or(Some(network.moment(run.index))));
                network.count(Fault::Stopped);
            }
            stage.stop();
            rt::sleep(Duration::from_secs(1)).await;
        }
        let [often, later] = LOOK_INTERVALS;
        let interval = if rt::now() - started < MUCH_HAPPENS_FOR { often } else { later };
        rt::race(network.one_is_over.wait(), rt::sleep(interval)).await;
    }
}

fn count_connections(runs: &[Rc<Run>], network: &Network) {
    for run in runs {
        if run.outcome.borrow().as_ref().is_some_and(|outcome| outcome.drained) {
            network.count(match run.revoked.get() {
                Some(_) if run.plan.leaves => Fault::Left,
                Some(_) => Fault::Revoked,
                None => Fault::KeyUsedUp,
            });
        }
        network.trace.borrow_mut().note(rt::now(), 99, 0, Event::Ended, run.said[0].borrow().len());
    }
}

impl Run {
    fn new(plan: &Connection, role: Role, index: u32, network: &Network) -> Rc<Self> {
        Rc::new(Self {
            plan: plan.clone(),
            role,
            plain: RefCell::default(),
            tls: RefCell::default(),
            said: Default::default(),
            outcome: RefCell::default(),
            panic: RefCell::default(),
            started: network.moment(index),
            ended: Cell::new(None),
            over: Cell::new(None),
            peers_running: Cell::new(0),
            revoked: Cell::new(None),
            unreached: Cell::new(None),
            index,
        })
    }

    fn is_over_now(&self, network: &Network) {
        self.over.set(Some(network.moment(self.index)));
        network.one_is_over.set();
    }

    fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    fn peer(&self, is_plain: bool, end: End, transport: Transport, plan: &Plan, index: usize) -> Rc<Peer> {
        let is_client = (self.role == Role::Client) == is_plain;
        let behaviour = self.behaviour(is_client).clone();
        let random = Random::new(plan.seed, 10 + 2 * index as u64 + u64::from(is_plain));
        let [plain_said, tls_said] = &self.said;
        let said = if is_plain { [plain_said, tls_said] } else { [tls_said, plain_said] };
        let peer = Rc::new(Peer::new(end, transport, behaviour, is_client, random, said.map(Rc::clone)));
        *(if is_plain { &self.plain } else { &self.tls }).borrow_mut() = Some(Rc::clone(&peer));
        peer
    }

    fn behaviour(&self, is_client: bool) -> &Behaviour {
        if is_client { &self.plan.client } else { &self.plan.server }
    }
}

/// Starts a connection: its peers and the relay's part.
fn start(index: usize, run: &Rc<Run>, plan: &Plan, stage: &Rc<Stage>, network: &Rc<Network>) {
    let number = 2 * index as u32;
    let (stage, run) = (Rc::clone(stage), Rc::clone(run));
    if run.plan.shakes_hands {
        return start_unprepared(index, run, plan, stage, network);
    }
    let (plain_end, plain) = connection(network, number);
    let (tls_end, tls) = connection(network, number + 1);
    let records = Records::new(run.plan.secret, plan.records_per_key_max);
    let records = Transport::Records(Box::new(records));
    let plain_peer = run.peer(true, plain_end, Transport::Plain, plan, index);
    let tls_peer = run.peer(false, tls_end, records, plan, index);
    let secret = run.plan.secret;
    let established = Established {
        sealer: Sealer::new(&secret.traffic_key(true, 0)),
        inbound: Inbound::new(plan.role, &secret.traffic_key(false, 0)),
        keys: Box::new(Known { secret, sending: 0, receiving: 0 }),
        early: Vec::new(),
        left_over: Vec::new(),
        peer_closed: false,
        facts: TlsFacts { version: secret.version, suite: "any", resumed: false },
    };
    let network = Rc::clone(network);
    let credential = run.plan.revoked.map(|after| revoked(after, &run, Rc::clone(&network)));
    rt::spawn(async move {
        let session = async {
            let session = stage.session::<SimStream>(plain, tls, address(index), established, credential);
            match rt::catch_panic(session).await {
                Ok(outcome) => *run.outcome.borrow_mut() = Some(outcome),
                Err(panic) => *run.panic.borrow_mut() = Some(panic),
            }
            run.ended.set(Some(network.moment(run.index)));
        };
        rt::join(session, rt::join(live_peer(&plain_peer), live_peer(&tls_peer))).await;
        run.is_over_now(&network);
    });
}

/// A certificate that is revoked after a while, or whose tunnel stops by then.
fn revoked(after: Duration, run: &Rc<Run>, moments: Rc<Network>) -> Credential {
    let (credential, run) = (Credential::default(), Rc::downgrade(run));
    let revoked = credential.clone();
    rt::spawn(async move {
        rt::sleep(after).await;
        if let Some(run) = run.upgrade().filter(|run| !run.is_over()) {
            run.revoked.set(Some(moments.moment(run.index)));
            if !run.plan.leaves {
                return revoked.revoke();
            }
            revoked.leave();
            rt::sleep(Timeouts::DEFAULT.leave).await;
            revoked.stop();
        }
    });
    credential
}

async fn live_peer(peer: &Peer) {
    peer.run().await;
    peer.let_go();
}

/// A connection that is accepted, connected and shaken hands on.
fn start_unprepared(index: usize, run: Rc<Run>, plan: &Plan, stage: Rc<Stage>, network: &Rc<Network>) {
    let (peer_end, accepted) = connection(network, 2 * index as u32);
    let version = run.plan.secret.version;
    let transport = match plan.role {
        Role::Client => Transport::Plain,
        Role::Server => Transport::rustls_client(credentials::peer_client(version), credentials::name()),
    };
    let first = run.peer(plan.role == Role::Client, peer_end, transport, plan, index);
    let transient = Random::new(plan.seed, 3).below(3);
    set_upstream(Some(Rc::new(Servers {
        run: Rc::clone(&run),
        plan: plan.clone(),
        index,
        network: Rc::clone(network),
        failures_left: Cell::new(if transient == 0 { 2 } else { usize::MAX }),
        version,
    })));
    let over = Rc::clone(network);
    rt::spawn(async move {
        let served = stage.serve::<Sim>(SimLink { end: accepted }, address(index));
        rt::join(served, live_peer(&first)).await;
        while run.peers_running.get() > 0 {
            rt::sleep(Duration::from_millis(10)).await;
        }
        run.is_over_now(&over);
    });
}

/// The servers behind the relay.
struct Servers {
    run: Rc<Run>,
    plan: Plan,
    index: usize,
    network: Rc<Network>,
    failures_left: Cell<usize>,
    version: Version,
}

impl Servers {
    fn fails(&self, fault: Fault) -> bool {
        if self.run.plan.fault != Some(fault) || self.failures_left.get() == 0 {
            return false;
        }
        let left = self.failures_left.get();
        self.failures_left.set(if left == usize::MAX { left } else { left - 1 });
        if self.run.unreached.get().is_none() {
            self.network.count(fault);
        }
        let lasts = left == usize::MAX;
        self.run.unreached.set(Some(self.network.moment(self.run.index)).filter(|_| lasts));
        true
    }
}

impl Upstream for Servers {
    fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self.fails(Fault::NameUnknown) {
            true => Err(io::Error::from(io::ErrorKind::NotFound)),
            false => Ok(vec![SocketAddr::from(([10, 0, 0, 1], 2049))]),
        }
    }

    fn connect(&self, _address: SocketAddr) -> Option<io::Result<End>> {
        if self.fails(Fault::ConnectRefused) {
            return Some(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
        }
        if self.fails(Fault::ConnectHangs) {
            return None;
        }
        let (peer_end, connected) = connection(&self.network, 2 * self.index as u32 + 1);
        let transport = match self.plan.role {
            Role::Client => Transport::rustls_server(credentials::peer_server(self.version)),
            Role::Server => Transport::Plain,
        };
        let peer = self.run.peer(self.plan.role == Role::Server, peer_end, transport, &self.plan, self.index);
        self.run.peers_running.set(self.run.peers_running.get() + 1);
        let run = Rc::clone(&self.run);
        rt::spawn(async move {
            live_peer(&peer).await;
            run.peers_running.set(run.peers_running.get() - 1);
        });
        Some(Ok(connected))
    }
}
