//! What the demo measured, for people and for programs.

use std::time::Duration;

use sealane_relay::TlsFacts;
use sealane_selftest::load::Outcome;
use serde_json::{Value, json};

use crate::local::Told;

const GIB: f64 = (1_u64 << 30) as f64;

/// All READs, or all WRITEs.
pub(super) struct Direction {
    pub(super) outcome: Option<Outcome>,
    /// CPU time of the worker of the client's tunnel and of the server's; `None` where the kernel keeps no account.
    pub(super) cpu: [Option<Duration>; 2],
}

impl Default for Direction {
    fn default() -> Self {
        Self { outcome: None, cpu: [Some(Duration::ZERO); 2] }
    }
}

impl Direction {
    fn bytes(&self) -> u64 {
        self.outcome.as_ref().map_or(0, |outcome| outcome.bytes)
    }

    fn mib_per_second(&self) -> f64 {
        self.outcome.as_ref().map_or(0.0, Outcome::mib_per_second)
    }

    fn cpu_seconds_per_gib(&self) -> [Option<f64>; 2] {
        let gib = self.bytes() as f64 / GIB;
        self.cpu.map(|cpu| cpu.map(|cpu| cpu.as_secs_f64() / gib.max(f64::MIN_POSITIVE)))
    }

    fn line(&self, name: &str, what: &str) -> String {
        let cpu = self.cpu_seconds_per_gib().map(|cpu| cpu.map_or("unknown".into(), |cpu| format!("{cpu:.2}")));
        let [client, server] = cpu;
        format!(
            "{name:<8} {:<46} {:>6.0} MiB/s    CPU s/GiB: client {client}, server {server}",
            format!("{:.2} GiB in calls of 1 MiB, {what}", self.bytes() as f64 / GIB),
            self.mib_per_second(),
        )
    }

    fn json(&self) -> Value {
        let [client, server] = self.cpu_seconds_per_gib();
        json!({
            "bytes": self.bytes(),
            "mib_per_second": self.mib_per_second(),
            "cpu_seconds_per_gib": { "client": client, "server": server },
        })
    }
}

/// Everything that was measured.
pub(super) struct Report {
    /// Where the client's tunnel, the server's tunnel and the NFS server listened.
    pub(super) ports: [u16; 3],
    pub(super) driver: (&'static str, String),
    pub(super) tls: TlsFacts,
    pub(super) write: Direction,
    pub(super) read: Direction,
    pub(super) getattr_one: Outcome,
    pub(super) getattr_many: Outcome,
    pub(super) getattr_depth: usize,
}

impl Told for Report {
    fn text(&self) -> String {
        let Self { ports: [client, server, nfs], driver: (driver, why), tls, .. } = self;
        let lines = [
            "NFSv4.1 client -> sealane client -> TLS -> sealane server -> NFSv4.1 server, all in this process:".into(),
            format!("127.0.0.1:{client} (plain), 127.0.0.1:{server} (TLS), 127.0.0.1:{nfs} (plain)"),
            format!("{tls}; driver {driver} ({why})"),
            String::new(),
            self.write.line("WRITE", "COMMIT"),
            self.read.line("READ", "each byte compared"),
            calls_line("one at a time", &self.getattr_one),
            calls_line(&format!("{} at a time", self.getattr_depth), &self.getattr_many),
            String::new(),
            "ok: every byte that was written through the tunnels came back through them".into(),
            String::new(),
            "To mount a real server:".into(),
            "  sealane client --listen 127.0.0.1:20049 --connect nfs.example.com:2049".into(),
            "  mount -t nfs4 -o vers=4.1,rsize=1048576,wsize=1048576,port=20049,proto=tcp,hard 127.0.0.1:/ /mnt".into(),
        ];
        lines.join("\n")
    }

    fn json(&self) -> Value {
        let Self { ports: [client, server, nfs], driver: (driver, why), tls, .. } = self;
        let facts = tls.to_string();
        let version = facts.strip_suffix(tls.suite).unwrap_or(&facts).trim_end();
        json!({
            "ok": true,
            "ports": { "client": client, "tls": server, "nfs": nfs },
            "driver": { "name": driver, "reason": why },
            "tls": { "version": version, "suite": tls.suite },
            "write": self.write.json(),
            "read": self.read.json(),
            "getattr": {
                "one_at_a_time": calls_json(1, &self.getattr_one),
                "many_at_a_time": calls_json(self.getattr_depth, &self.getattr_many),
            },
        })
    }
}

/// p50, p99 and p99.9 in microseconds.
fn latencies_us(outcome: &Outcome) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|quantile| outcome.latency(quantile).as_secs_f64() * 1e6)
}

fn calls_line(how: &str, outcome: &Outcome) -> String {
    let [p50, p99, p999] = latencies_us(outcome);
    let name = format!("{} calls, {how}", outcome.calls);
    let rate = outcome.calls_per_second();
    format!("GETATTR  {name:<46} {rate:>6.0} calls/s  latency us: p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}")
}

fn calls_json(depth: usize, outcome: &Outcome) -> Value {
    let [p50, p99, p999] = latencies_us(outcome);
    json!({
        "calls": outcome.calls,
        "depth": depth,
        "calls_per_second": outcome.calls_per_second(),
        "latency_us": { "p50": p50, "p99": p99, "p99_9": p999 },
    })
}
