//! From measurements to medians, ratios and bars.

use std::fmt::Write as _;
use std::time::Duration;

use crate::compare::Plan;
use crate::load::QUANTILES;
use crate::subject::Subject;
use crate::tls::Tls;
use crate::work::Work;

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

pub(crate) const CSV_HEAD: &str = "round,tls,work,subject,accepted,seconds,ops,bytes,subject_cpu_s,cpu_s_per_gib,cpu_us_per_op,\
     mib_per_s,ops_per_s,p10_us,p50_us,p90_us,p99_us,p99_9_us,max_us,rss_kib,voluntary_switches,outer_cpu_s,foreign_cpu_s,end";

/// What was measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) tls: Tls,
    pub(crate) work: Work,
    pub(crate) subject: Subject,
}

/// Everything that a round measures, in its order. What has no TLS is measured once.
pub(crate) fn keys(plan: &Plan) -> Vec<Key> {
    let mut all = Vec::new();
    for (index, tls) in plan.tls.iter().enumerate() {
        for (work, subjects) in &plan.works {
            let subjects = subjects.iter().filter(|it| (index == 0 || !it.is_plain()) && it.can(*tls, *work));
            all.extend(subjects.map(|subject| Key { tls: *tls, work: *work, subject: *subject }));
        }
    }
    all
}

/// One window.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) round: u32,
    pub(crate) key: Key,
    pub(crate) seconds: f64,
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    /// What all threads of the subject, and of its children, used.
    pub(crate) subject_cpu: Duration,
    /// What the load and the far end used.
    pub(crate) outer_cpu: Duration,
    /// What anybody else used, as far as ticks tell; it can come out below zero.
    pub(crate) foreign_cpu_seconds: f64,
    pub(crate) resident_kib: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) latencies_us: [f64; QUANTILES.len()],
    /// How the connections ended.
    pub(crate) end: String,
    /// Nobody else used much of the machine.
    pub(crate) accepted: bool,
}

impl Measurement {
    /// CPU seconds per GiB of payload; for small calls, CPU microseconds per call.
    pub(crate) fn cost(&self) -> f64 {
        match self.key.work.is_bulk() {
            true => self.subject_cpu.as_secs_f64() * GIB / self.bytes as f64,
            false => self.subject_cpu.as_secs_f64() * 1e6 / self.ops as f64,
        }
    }

    /// MiB of payload per second; for small calls, calls per second.
    pub(crate) fn rate(&self) -> f64 {
        if self.key.work.is_bulk() { self.bytes as f64 / MIB / self.seconds } else { self.ops as f64 / self.seconds }
    }

    pub(crate) fn csv(&self) -> String {
        let cpu = self.subject_cpu.as_secs_f64();
        let Self { round, key, seconds, ops, bytes, .. } = self;
        let (tls, work, subject) = (key.tls.name(), key.work.name(), key.subject.name());
        let per_gib = if *bytes == 0 { 0.0 } else { cpu * GIB / *bytes as f64 };
        let (per_op, mib_per_s, ops_per_s) =
            (cpu * 1e6 / *ops as f64, *bytes as f64 / MIB / seconds, *ops as f64 / seconds);
        let latencies = self.latencies_us.map(|us| format!("{us:.1}")).join(",");
        format!(
            "{round},{tls},{work},{subject},{},{seconds:.4},{ops},{bytes},{cpu:.4},{per_gib:.4},{per_op:.3},\
             {mib_per_s:.1},{ops_per_s:.1},{latencies},{},{},{:.4},{:.4},{}",
            u8::from(self.accepted),
            self.resident_kib,
            self.voluntary_switches,
            self.outer_cpu.as_secs_f64(),
            self.foreign_cpu_seconds,
            self.end,
        )
    }
}

/// Middle and ends of several values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of one value.
    pub(crate) const fn one(value: f64) -> Self {
        Self { median: value, min: value, max: value }
    }

    /// None of no values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.get(sorted.len().saturating_sub(1) / 2)? + sorted.get(sorted.len() / 2)?;
        Some(Self { median: middle / 2.0, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// What is said about one subject at one work.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) key: Key,
    pub(crate) cost: Spread,
    pub(crate) rate: Spread,
    /// The median of each quantile.
    pub(crate) latencies_us: [f64; QUANTILES.len()],
    resident_mib: f64,
    switches_per_op: f64,
    points: Vec<Point>,
    /// Windows that count; none: those that do not are shown.
    accepted: usize,
    windows: usize,
}

impl Line {
    /// Medians over the accepted windows. Where there is none, the line shows the rejected ones and takes part in no ratio: a
    /// busy machine changes how much each read brings, and so the cost itself, in either direction.
    fn new(key: Key, all: &[Measurement]) -> Option<Self> {
        let windows: Vec<_> = all.iter().filter(|it| it.key == key).collect();
        let accepted: Vec<_> = windows.iter().copied().filter(|it| it.accepted).collect();
        let used = if accepted.is_empty() { &windows } else { &accepted };
        let spread = |value: &dyn Fn(&Measurement) -> f64| Spread::of(used.iter().map(|it| value(it)));
        let mut latencies_us = [0.0; QUANTILES.len()];
        for (index, place) in latencies_us.iter_mut().enumerate() {
            *place = spread(&|it| it.latencies_us.get(index).copied().unwrap_or(0.0))?.median;
        }
        Some(Self {
            key,
            cost: spread(&Measurement::cost)?,
            rate: spread(&Measurement::rate)?,
            latencies_us,
            resident_mib: spread(&|it| it.resident_kib as f64 / 1024.0)?.median,
            switches_per_op: spread(&|it| it.voluntary_switches as f64 / it.ops as f64)?.median,
            points: accepted
                .iter()
                .map(|it| Point { round: it.round, cost: it.cost(), p50_us: quantile("p50", &it.latencies_us) })
                .collect(),
            accepted: accepted.len(),
            windows: windows.len(),
        })
    }

    fn p50_us(&self) -> f64 {
        quantile("p50", &self.latencies_us)
    }

    fn p99_us(&self) -> f64 {
        quantile("p99", &self.latencies_us)
    }
}

fn quantile(wanted: &str, latencies_us: &[f64; QUANTILES.len()]) -> f64 {
    QUANTILES.iter().zip(latencies_us).find(|((name, _), _)| *name == wanted).map_or(0.0, |(_, us)| *us)
}

/// What sealing and opening cost alone, in CPU seconds per GiB, over the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    pub(crate) seal: Spread,
    pub(crate) open: Spread,
}

impl Floor {
    /// Of what one version cost to seal and to open in each round; none where it was not measured.
    pub(crate) fn of(rounds: &[(Tls, (f64, f64))], tls: Tls) -> Option<Self> {
        let costs = || rounds.iter().filter(|(other, _)| *other == tls).map(|(_, costs)| *costs);
        Some(Self {
            seal: Spread::of(costs().map(|(seal, _)| seal))?,
            open: Spread::of(costs().map(|(_, open)| open))?,
        })
    }
}

/// Those of the versions that were measured.
pub(crate) type Floors = Vec<(Tls, Floor)>;

/// Of two medians; and the least and the most that it is of two windows of the same round.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    of_medians: f64,
    by_round: Option<(f64, f64)>,
}

impl Ratio {
    /// `figure` of one line by that of another. None when either has no accepted window.
    fn new(own: &Line, other: &Line, figure: impl Fn(&Point) -> f64) -> Option<Self> {
        Self::offset(own, other, figure, 0.0)
    }

    /// The same, with something added to the other's.
    fn offset(own: &Line, other: &Line, figure: impl Fn(&Point) -> f64, more: f64) -> Option<Self> {
        let median = |line: &Line| Spread::of(line.points.iter().map(&figure)).map(|spread| spread.median);
        let of_medians = median(own)? / (median(other)? + more);
        let same = |point: &Point| other.points.iter().find(|it| it.round == point.round);
        let ratios = own.points.iter().filter_map(|it| Some(figure(it) / (figure(same(it)?) + more)));
        Some(Self { of_medians, by_round: Spread::of(ratios).map(|spread| (spread.min, spread.max)) })
    }
}

/// What a subject keeps resident.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) tls: Tls,
    pub(crate) subject: Subject,
    /// Before anybody connects.
    pub(crate) idle_kib: f64,
    /// For each idle connection beyond a hundred.
    pub(crate) each_kib: f64,
    /// With four connections, on each of which four calls of 1 MiB are outstanding.
    pub(crate) busy_kib: f64,
}

/// One accepted window, as far as it is compared.
#[derive(Clone, Copy, Debug)]
struct Point {
    round: u32,
    cost: f64,
    p50_us: f64,
}

/// A figure that is to be reached.
struct Bar {
    what: &'static str,
    tls: Tls,
    subject: Subject,
    /// None: what it is held against was not measured.
    value: Option<Ratio>,
    bar: f64,
    stretch: f64,
}

/// What a run says.
pub(crate) struct Summary {
    pub(crate) lines: Vec<Line>,
    floors: Floors,
    /// System calls for each MiB.
    calls: Vec<(Key, f64)>,
    memory: Vec<Memory>,
}

impl Summary {
    pub(crate) fn new(
        plan: &Plan,
        all: &[Measurement],
        floors: Floors,
        calls: Vec<(Key, f64)>,
        memory: Vec<Memory>,
    ) -> Self {
        Self { lines: keys(plan).into_iter().filter_map(|key| Line::new(key, all)).collect(), floors, calls, memory }
    }

    fn counted(&self, tls: Tls, work: Work) -> impl Iterator<Item = &Line> {
        let is_here = move |key: Key| key.work == work && (key.tls == tls || key.subject.is_plain());
        self.lines.iter().filter(move |line| line.accepted > 0 && is_here(line.key))
    }

    /// The other proxy for which `figure` is lowest.
    fn best_rival(&self, tls: Tls, work: Work, figure: impl Fn(&Line) -> f64) -> Option<&Line> {
        let rivals = self.counted(tls, work).filter(|line| line.key.subject.is_rival());
        rivals.min_by(|left, right| figure(left).total_cmp(&figure(right)))
    }

    /// Sealane's cost as a share of stunnel's as it comes.
    pub(crate) fn to_stunnel(&self, line: &Line) -> Option<f64> {
        self.by_stunnel(line).map(|ratio| ratio.of_medians)
    }

    fn by_stunnel(&self, line: &Line) -> Option<Ratio> {
        let stunnel = self.counted(line.key.tls, line.key.work).find(|it| it.key.subject == Subject::Stunnel)?;
        Ratio::new(line, stunnel, |point| point.cost)
    }

    /// Its share of what a relay that copies costs together with the cipher alone.
    fn to_floor(&self, line: &Line) -> Option<Ratio> {
        let relay = self.counted(line.key.tls, line.key.work).find(|it| it.key.subject == Subject::Relay)?;
        let (_, floor) = self.floors.iter().find(|(tls, _)| *tls == line.key.tls)?;
        let cipher = if line.key.work == Work::Write { floor.seal.median } else { floor.open.median };
        Ratio::offset(line, relay, |point| point.cost, cipher)
    }

    fn bars(&self) -> Vec<Bar> {
        let mut all = Vec::new();
        for line in self.lines.iter().filter(|line| line.key.subject.is_sealane()) {
            let Key { tls, work, subject } = line.key;
            let mut add = |what, value, bar, stretch| all.push(Bar { what, tls, subject, value, bar, stretch });
            let cost = |point: &Point| point.cost;
            if subject.sleeping() != subject {
                let asleep = self.counted(tls, work).find(|it| it.key.subject == subject.sleeping());
                let ratio = asleep.and_then(|asleep| Ratio::new(line, asleep, cost));
                match work {
                    Work::GetattrAlone => add("GETATTR alone, CPU per call to that without spinning", ratio, 1.0, 1.0),
                    Work::GetattrFar => {
                        add("GETATTR 500 us away, CPU per call to that without spinning", ratio, 1.05, 1.0)
                    }
                    _ => {}
                }
            }
            let best = self.best_rival(tls, work, |it| it.cost.median);
            let to_best = best.and_then(|best| Ratio::new(line, best, cost));
            match work {
                Work::Read => {
                    add("READ CPU to stunnel's", self.by_stunnel(line), 0.41, 0.35);
                    add("READ CPU to the best rival's", to_best, 0.75, 0.63);
                    add("READ CPU to relay + AEAD", self.to_floor(line), 1.25, 1.05);
                }
                Work::Write => {
                    add("WRITE CPU to stunnel's", self.by_stunnel(line), 0.37, 0.29);
                    add("WRITE CPU to the best rival's", to_best, 0.50, 0.40);
                    add("WRITE CPU to relay + AEAD", self.to_floor(line), 1.25, 1.05);
                }
                Work::Getattr => add("GETATTR 4x16 CPU to the best rival's", to_best, 1.0, 0.85),
                Work::GetattrAlone if subject.sleeping() == subject => {}
                Work::GetattrAlone => {
                    let best = self.best_rival(tls, work, Line::p50_us);
                    let p50 = best.and_then(|best| Ratio::new(line, best, |point| point.p50_us));
                    add("GETATTR alone, p50 to the best rival's", p50, 0.5, 0.35);
                    add("GETATTR alone, CPU per call to the best rival's", to_best, 1.0, 1.0);
                }
                Work::GetattrFar | Work::Mixed => {}
            }
        }
        for (Key { tls, work, subject }, calls) in self.calls.iter().filter(|(key, _)| key.subject.is_sealane()) {
            let what = if *work == Work::Read { "READ system calls per MiB" } else { "WRITE system calls per MiB" };
            let value = Some(Ratio { of_medians: *calls, by_round: None });
            all.push(Bar { what, tls: *tls, subject: *subject, value, bar: 8.0, stretch: 4.0 });
        }
        for Memory { tls, subject, idle_kib, each_kib, busy_kib } in self.memory.iter().copied() {
            let mut add = |what, value, bar, stretch| {
                let value = Some(Ratio { of_medians: value, by_round: None });
                all.push(Bar { what, tls, subject, value, bar, stretch });
            };
            add("resident MiB when idle", idle_kib / 1024.0, 8.0, 5.0);
            add("resident KiB for each further idle connection", each_kib, 16.0, 8.0);
            add("resident MiB under 4x4 of 1 MiB", busy_kib / 1024.0, 32.0, 20.0);
        }
        all
    }

    /// Tables in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let mut works: Vec<(Tls, Work)> = self.lines.iter().map(|line| (line.key.tls, line.key.work)).collect();
        works.dedup();
        for (tls, work) in works {
            self.put_table(&mut text, tls, work);
        }
        self.put_calls(&mut text);
        text += "## Bars\n\nRatios are of medians; in brackets the least and the most that it was within one round.\n\n\
                 | figure | TLS | driver | reached | bar | stretch |\n|---|---|---|---|---|---|\n";
        for Bar { what, tls, subject, value, bar, stretch } in self.bars() {
            let reached = value.map_or("not measured".to_string(), |Ratio { of_medians: value, by_round }| {
                let range = by_round.map_or_else(String::new, |(least, most)| format!(" [{least:.2}-{most:.2}]"));
                if value <= stretch {
                    format!("**{value:.2}**{range} (stretch)")
                } else if value <= bar {
                    format!("**{value:.2}**{range}")
                } else {
                    format!("{value:.2}{range} MISSED")
                }
            });
            let _ = writeln!(text, "| {what} | {} | {} | {reached} | {bar} | {stretch} |", tls.name(), subject.name());
        }
        text += "\nThat nothing is allocated or copied for a MiB, tests/all/footprint.rs counts.\n";
        for (tls, Floor { seal, open }) in &self.floors {
            let name = tls.name();
            let _ = writeln!(
                text,
                "\nAEAD alone, TLS {name}: seals at {:.3} [{:.3}-{:.3}], opens at {:.3} [{:.3}-{:.3}] CPU s/GiB.",
                seal.median, seal.min, seal.max, open.median, open.min, open.max
            );
        }
        text
    }

    fn put_calls(&self, text: &mut String) {
        let mut lines: Vec<(Tls, Subject)> = self.calls.iter().map(|(key, _)| (key.tls, key.subject)).collect();
        lines.sort_unstable();
        lines.dedup();
        if lines.is_empty() {
            return;
        }
        *text += "## system calls per MiB\n\n| TLS | subject | READ | WRITE |\n|---|---|---|---|\n";
        for (tls, subject) in lines {
            let of = |work| {
                let wanted = |(key, _): &&(Key, f64)| *key == Key { tls, work, subject };
                self.calls.iter().find(wanted).map_or_else(String::new, |(_, calls)| format!("{calls:.1}"))
            };
            let (read, write) = (of(Work::Read), of(Work::Write));
            let _ = writeln!(text, "| {} | {} | {read} | {write} |", tls.name(), subject.name());
        }
        text.push('\n');
    }

    fn put_table(&self, text: &mut String, tls: Tls, work: Work) {
        let (cost, rate) = if work.is_bulk() { ("CPU s/GiB", "MiB/s") } else { ("CPU us/call", "calls/s") };
        let _ = writeln!(
            text,
            "## {}, TLS {}\n\n| subject | {cost} | {rate} | p50 us | p99 us | switches/call | RSS MiB | windows | to stunnel |\n\
             |---|---|---|---|---|---|---|---|---|",
            work.name(),
            tls.name()
        );
        for line in self.lines.iter().filter(|line| (line.key.tls, line.key.work) == (tls, work)) {
            let Line { cost, rate, resident_mib, switches_per_op, accepted, windows, .. } = line;
            let marked = if *accepted == 0 { " (busy machine)" } else { "" };
            let ratio = self.to_stunnel(line).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let digits = if work.is_bulk() { 3 } else { 2 };
            let _ = writeln!(
                text,
                "| {} | {:.digits$} [{:.digits$}-{:.digits$}] | {:.0} [{:.0}-{:.0}] | {:.0} | {:.0} | {switches_per_op:.2} | \
                 {resident_mib:.1} | {accepted} of {windows}{marked} | {ratio} |",
                line.key.subject.name(),
                cost.median,
                cost.min,
                cost.max,
                rate.median,
                rate.min,
                rate.max,
                line.p50_us(),
                line.p99_us(),
            );
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    fn measurement(work: Work, subject: Subject, cpu_ms: u64, accepted: bool) -> Measurement {
        Measurement {
            round: 0,
            key: Key { tls: Tls::Tls12, work, subject },
            seconds: 2.0,
            ops: 1024,
            bytes: if work.is_bulk() { 1 << 30 } else { 0 },
            subject_cpu: Duration::from_millis(cpu_ms),
            outer_cpu: Duration::ZERO,
            foreign_cpu_seconds: 0.0,
            resident_kib: 4096,
            voluntary_switches: 0,
            latencies_us: [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            end: "clean".into(),
            accepted,
        }
    }

    fn summary(all: &[Measurement]) -> Summary {
        let plan = Plan {
            seconds: Duration::from_secs(2),
            rounds: 1,
            works: [Work::Read, Work::Write]
                .map(|work| (work, vec![Subject::Relay, Subject::Epoll, Subject::Stunnel, Subject::NginxTuned]))
                .to_vec(),
            tls: vec![Tls::Tls12],
            rate: None,
            is_quick: false,
        };
        let calls = [(Work::Read, 6.5), (Work::Write, 8.5)];
        let calls = calls.map(|(work, calls)| (Key { tls: Tls::Tls13, work, subject: Subject::Epoll }, calls));
        let memory = Memory {
            tls: Tls::Tls12,
            subject: Subject::Epoll,
            idle_kib: 4096.0,
            each_kib: 17.0,
            busy_kib: 30.0 * 1024.0,
        };
        Summary::new(
            &plan,
            all,
            vec![(
                Tls::Tls12,
                Floor {
                    seal: Spread { median: 0.2, min: 0.15, max: 0.9 },
                    open: Spread { median: 0.1, min: 0.05, max: 0.8 },
                },
            )],
            calls.to_vec(),
            vec![memory],
        )
    }

    #[test]
    fn ratios_are_of_medians_over_accepted_windows() {
        let all = [
            measurement(Work::Read, Subject::Epoll, 400, true),
            measurement(Work::Read, Subject::Epoll, 600, true),
            measurement(Work::Read, Subject::Epoll, 9000, false),
            measurement(Work::Read, Subject::Stunnel, 2000, true),
            measurement(Work::Read, Subject::Stunnel, 100, false),
            measurement(Work::Read, Subject::NginxTuned, 1000, true),
            measurement(Work::Read, Subject::Relay, 400, true),
        ];
        let summary = summary(&all);
        let line = summary.lines.iter().find(|line| line.key.subject == Subject::Epoll).unwrap();
        assert_eq!(line.cost, Spread { median: 0.5, min: 0.4, max: 0.6 });
        assert_eq!((line.accepted, line.windows), (2, 3));
        let values: Vec<_> = summary.bars().iter().map(|bar| bar.value.map(|ratio| ratio.of_medians)).collect();
        let expected = [0.25, 0.5, 1.0, 6.5, 8.5, 4.0, 17.0, 30.0];
        assert_eq!(values, expected.map(Some));
        let text = summary.markdown();
        assert!(
            text.contains("| READ CPU to stunnel's | 1.2 | epoll | **0.25** [0.20-0.30] (stretch) | 0.41 | 0.35 |"),
            "{text}"
        );
        assert!(text.contains("| 1.2 | epoll | 17.00 MISSED | 16 | 8 |"), "{text}");
        assert!(text.contains("| epoll | 6.5 | 8.5 |"), "{text}");
        let alone = "AEAD alone, TLS 1.2: seals at 0.200 [0.150-0.900], opens at 0.100 [0.050-0.800] CPU s/GiB.";
        assert!(text.contains(alone), "{text}");
        assert!(text.contains("| WRITE system calls per MiB | 1.3 | epoll | 8.50 MISSED | 8 | 4 |"), "{text}");
    }

    #[test]
    fn what_the_cipher_costs_is_the_median_of_the_rounds_of_its_version() {
        let rounds = [(0.3, 0.1), (0.1, 0.2), (0.2, 0.6)];
        let rounds: Vec<_> =
            rounds.into_iter().flat_map(|costs| [(Tls::Tls13, costs), (Tls::Tls12, (9.0, 9.0))]).collect();
        let Floor { seal, open } = Floor::of(&rounds, Tls::Tls13).unwrap();
        assert_eq!(seal, Spread { median: 0.2, min: 0.1, max: 0.3 });
        assert_eq!(open, Spread { median: 0.2, min: 0.1, max: 0.6 });
        assert!(Floor::of(&[], Tls::Tls13).is_none());
    }

    #[test]
    fn rejected_windows_alone_give_no_ratio_on_either_side() {
        for (ours, theirs) in [(true, false), (false, true), (false, false)] {
            let all = [
                measurement(Work::Read, Subject::Epoll, 400, ours),
                measurement(Work::Read, Subject::Stunnel, 2000, theirs),
            ];
            let summary = summary(&all);
            let bars = summary.bars();
            let ratios = bars.iter().filter(|bar| bar.what.contains("READ CPU"));
            assert!(ratios.clone().count() == 3 && ratios.clone().all(|bar| bar.value.is_none()), "{ours} {theirs}");
        }
    }

    #[test]
    fn calls_without_payload_cost_by_the_call_and_a_csv_row_has_every_column() {
        let getattr = measurement(Work::Getattr, Subject::Uring, 1024, true);
        assert_eq!((getattr.cost(), getattr.rate()), (1000.0, 512.0));
        assert_eq!(getattr.csv().split(',').count(), CSV_HEAD.split(',').count());
    }

    #[test]
    fn what_has_no_tls_is_measured_once_and_nobody_with_what_it_cannot_do() {
        let plan = Plan {
            seconds: Duration::from_secs(1),
            rounds: 1,
            works: vec![
                (Work::Read, vec![Subject::Relay, Subject::Uring, Subject::EfsProxy]),
                (Work::Getattr, vec![Subject::EfsProxy]),
            ],
            tls: vec![Tls::Tls12, Tls::Tls13],
            rate: None,
            is_quick: false,
        };
        let subjects: Vec<_> = keys(&plan).iter().map(|key| (key.tls, key.subject)).collect();
        let expected = [
            (Tls::Tls12, Subject::Relay),
            (Tls::Tls12, Subject::Uring),
            (Tls::Tls12, Subject::EfsProxy),
            (Tls::Tls13, Subject::Uring),
        ];
        assert_eq!(subjects, expected);
    }
}
