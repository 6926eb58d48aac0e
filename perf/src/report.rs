//! From measurements to medians and ratios.

use std::fmt::Write as _;
use std::time::Duration;

use crate::rpc::Kind;
use crate::subject::Subject;

const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

pub(crate) const CSV_HEAD: &str = "round,kind,subject,accepted,seconds,ops,bytes,subject_cpu_s,cpu_s_per_gib,cpu_us_per_op,\
     mib_per_s,ops_per_s,p50_us,p99_us,rss_kib,voluntary_switches,outer_cpu_s,foreign_cpu_s,end";

/// One window.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) round: u32,
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
    pub(crate) seconds: f64,
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
    /// What all threads of the subject used.
    pub(crate) subject_cpu: Duration,
    /// What the load and the far end used.
    pub(crate) outer_cpu: Duration,
    /// What anybody else used, as far as ticks tell; it can come out below zero.
    pub(crate) foreign_cpu_seconds: f64,
    pub(crate) resident_kib: u64,
    pub(crate) voluntary_switches: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// How the connections ended.
    pub(crate) end: String,
    /// Nobody else used much of the machine.
    pub(crate) accepted: bool,
}

impl Measurement {
    /// CPU seconds per GiB of payload; for calls without payload, CPU microseconds per call.
    fn cost(&self) -> f64 {
        match self.kind {
            Kind::Getattr => self.subject_cpu.as_secs_f64() * 1e6 / self.ops as f64,
            Kind::Read | Kind::Write => self.subject_cpu.as_secs_f64() * GIB / self.bytes as f64,
        }
    }

    /// MiB of payload per second; for calls without payload, calls per second.
    fn rate(&self) -> f64 {
        match self.kind {
            Kind::Getattr => self.ops as f64 / self.seconds,
            Kind::Read | Kind::Write => self.bytes as f64 / MIB / self.seconds,
        }
    }

    pub(crate) fn csv(&self) -> String {
        let cpu = self.subject_cpu.as_secs_f64();
        let Self { round, kind, subject, seconds, ops, bytes, .. } = self;
        let (kind, subject, accepted) = (kind.name(), subject.name(), u8::from(self.accepted));
        let per_gib = if *bytes == 0 { 0.0 } else { cpu * GIB / *bytes as f64 };
        let per_op = cpu * 1e6 / *ops as f64;
        let (mib_per_s, ops_per_s) = (*bytes as f64 / MIB / seconds, *ops as f64 / seconds);
        format!(
            "{round},{kind},{subject},{accepted},{seconds:.4},{ops},{bytes},{cpu:.4},{per_gib:.4},{per_op:.3},\
             {mib_per_s:.1},{ops_per_s:.1},{:.1},{:.1},{},{},{:.4},{:.4},{}",
            self.p50_us,
            self.p99_us,
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
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// None of no values.
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.get(sorted.len().saturating_sub(1) / 2)? + sorted.get(sorted.len() / 2)?;
        Some(Self { median: middle / 2.0, min: *sorted.first()?, max: *sorted.last()? })
    }
}

/// What is said about one subject and kind.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
    cost: Spread,
    rate: f64,
    p50_us: f64,
    resident_mib: f64,
    accepted: usize,
    windows: usize,
    /// Sealane's median cost divided by stunnel's; none unless both have an accepted window.
    pub(crate) ratio: Option<f64>,
}

/// Medians over the accepted windows of each subject and kind, and the ratios to stunnel.
///
/// Where no window was accepted, the line shows the rejected ones, says "0 of n", and takes part in no ratio: a busy
/// machine changes how much each read brings, and so the cost itself, in either direction.
pub(crate) fn summarize(kinds: &[Kind], subjects: &[Subject], all: &[Measurement]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for kind in kinds {
        let of_kind = subjects.iter().filter_map(|subject| line(*kind, *subject, all));
        let mut of_kind: Vec<Line> = of_kind.collect();
        let stunnel = of_kind.iter().find(|line| line.subject == Subject::Stunnel && line.accepted > 0);
        let stunnel = stunnel.map(|line| line.cost.median);
        for line in of_kind.iter_mut().filter(|line| line.subject.is_sealane() && line.accepted > 0) {
            line.ratio = stunnel.map(|stunnel| line.cost.median / stunnel);
        }
        lines.append(&mut of_kind);
    }
    lines
}

fn line(kind: Kind, subject: Subject, all: &[Measurement]) -> Option<Line> {
    let windows: Vec<_> = all.iter().filter(|it| (it.kind, it.subject) == (kind, subject)).collect();
    let accepted: Vec<_> = windows.iter().copied().filter(|it| it.accepted).collect();
    let used = if accepted.is_empty() { &windows } else { &accepted };
    let spread = |value: fn(&Measurement) -> f64| Spread::of(used.iter().map(|it| value(it)));
    Some(Line {
        kind,
        subject,
        cost: spread(Measurement::cost)?,
        rate: spread(Measurement::rate)?.median,
        p50_us: spread(|it| it.p50_us)?.median,
        resident_mib: spread(|it| it.resident_kib as f64 / 1024.0)?.median,
        accepted: accepted.len(),
        windows: windows.len(),
        ratio: None,
    })
}

/// The table.
pub(crate) fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<8} {:<8} {:>8} {:<15} {:<9} {:>9} {:<6} {:>8} {:>8} {:>8}  {}\n",
        "kind", "subject", "CPU", "[min-max]", "", "rate", "", "p50 us", "RSS MiB", "windows", "CPU / stunnel's"
    );
    for line in lines {
        let (cost_unit, rate_unit) = match line.kind {
            Kind::Getattr => ("us/call", "call/s"),
            Kind::Read | Kind::Write => ("s/GiB", "MiB/s"),
        };
        let Spread { median, min, max } = line.cost;
        let range = format!("[{min:.3}-{max:.3}]");
        let windows = format!("{} of {}", line.accepted, line.windows);
        let ratio = line.ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        let (kind, subject) = (line.kind.name(), line.subject.name());
        let _ = writeln!(
            text,
            "{kind:<8} {subject:<8} {median:>8.3} {range:<15} {cost_unit:<9} {:>9.0} {rate_unit:<6} {:>8.0} {:>8.1} {windows:>8}  {ratio}",
            line.rate, line.p50_us, line.resident_mib,
        );
    }
    text
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

    fn measurement(kind: Kind, subject: Subject, cpu_ms: u64, accepted: bool) -> Measurement {
        Measurement {
            round: 0,
            kind,
            subject,
            seconds: 2.0,
            ops: 1024,
            bytes: if kind == Kind::Getattr { 0 } else { 1 << 30 },
            subject_cpu: Duration::from_millis(cpu_ms),
            outer_cpu: Duration::ZERO,
            foreign_cpu_seconds: 0.0,
            resident_kib: 4096,
            voluntary_switches: 0,
            p50_us: 1.0,
            p99_us: 2.0,
            end: "clean".into(),
            accepted,
        }
    }

    #[test]
    fn ratios_are_of_medians_over_accepted_windows() {
        let all = [
            measurement(Kind::Read, Subject::Epoll, 400, true),
            measurement(Kind::Read, Subject::Epoll, 600, true),
            measurement(Kind::Read, Subject::Epoll, 9000, false),
            measurement(Kind::Read, Subject::Stunnel, 2000, true),
            measurement(Kind::Read, Subject::Stunnel, 100, false),
        ];
        let lines = summarize(&[Kind::Read, Kind::Write], &[Subject::Epoll, Subject::Stunnel], &all);
        let [epoll, stunnel] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!(epoll.cost, Spread { median: 0.5, min: 0.4, max: 0.6 });
        assert_eq!((epoll.ratio, epoll.accepted, epoll.windows), (Some(0.25), 2, 3));
        assert_eq!((stunnel.ratio, stunnel.accepted, stunnel.windows), (None, 1, 2));
    }

    #[test]
    fn rejected_windows_alone_give_no_ratio_on_either_side() {
        for (ours, theirs) in [(true, false), (false, true), (false, false)] {
            let all = [
                measurement(Kind::Read, Subject::Epoll, 400, ours),
                measurement(Kind::Read, Subject::Stunnel, 2000, theirs),
            ];
            let lines = summarize(&[Kind::Read], &[Subject::Epoll, Subject::Stunnel], &all);
            assert!(lines.iter().all(|line| line.ratio.is_none()), "{ours} {theirs}");
        }
    }

    #[test]
    fn calls_without_payload_cost_by_the_call_and_a_csv_row_has_every_column() {
        let getattr = measurement(Kind::Getattr, Subject::Uring, 1024, true);
        assert_eq!((getattr.cost(), getattr.rate()), (1000.0, 512.0));
        assert_eq!(getattr.csv().split(',').count(), CSV_HEAD.split(',').count());
    }
}
