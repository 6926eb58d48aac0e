//! What was measured, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use sealane_selftest::load::Outcome;
use serde_json::{Value, json};

use super::Step;
use crate::local::Told;

const GIB: f64 = (1_u64 << 30) as f64;

/// A window: what was done, and what it cost.
pub(super) struct Window {
    pub(super) outcome: Outcome,
    /// Of the subject's process; none where it is not known which that is, or where the kernel keeps no account.
    pub(super) cpu: Option<Duration>,
}

/// All windows of one subject with one step.
pub(super) struct Row {
    pub(super) subject: String,
    pub(super) step: Step,
    pub(super) windows: Vec<Window>,
}

/// The middle of some numbers, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None of no numbers.
    fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
        let median = f64::midpoint(at((numbers.len() - 1) / 2), at(numbers.len() / 2));
        Some(Self { median, min, max })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl Row {
    fn each(&self, figure: impl Fn(&Window) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.windows.iter().filter_map(figure).collect())
    }

    /// MiB/s, or calls/s.
    pub(super) fn rate(&self) -> Option<Spread> {
        self.each(|Window { outcome, .. }| {
            Some(if self.step.is_bulk() { outcome.mib_per_second() } else { outcome.calls_per_second() })
        })
    }

    /// CPU seconds for a GiB, or CPU microseconds for a call.
    pub(super) fn cost(&self) -> Option<Spread> {
        self.each(|Window { outcome, cpu }| {
            let seconds = cpu.as_ref()?.as_secs_f64();
            let (times, done) = if self.step.is_bulk() { (GIB, outcome.bytes) } else { (1e6, outcome.calls) };
            (done > 0).then(|| seconds * times / done as f64)
        })
    }

    /// Microseconds that a part of the calls did not exceed.
    pub(super) fn latency_us(&self, quantile: f64) -> Option<Spread> {
        self.each(|Window { outcome, .. }| Some(outcome.latency(quantile).as_secs_f64() * 1e6))
    }
}

/// Everything that was measured.
pub(super) struct Report {
    /// What was between whom, line by line.
    pub(super) head: Vec<String>,
    pub(super) rounds: u32,
    pub(super) seconds: Duration,
    pub(super) rows: Vec<Row>,
    /// What others are compared with.
    pub(super) rival: Option<String>,
}

impl Report {
    pub(super) fn steps(&self) -> impl Iterator<Item = Step> {
        Step::ALL.into_iter().filter(|step| self.rows.iter().any(|row| row.step == *step))
    }

    pub(super) fn rows_of(&self, step: Step) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.step == step)
    }

    /// What `row` costs for each part that the rival costs.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let rival = self.rival.as_ref().filter(|rival| **rival != row.subject)?;
        let theirs = self.rows_of(row.step).find(|other| other.subject == *rival)?.cost()?.median;
        let ours = row.cost()?.median;
        (theirs > 0.0).then(|| ours / theirs)
    }
}

impl Told for Report {
    fn text(&self) -> String {
        let mut text = self.head.join("\n");
        let windows =
            if self.rounds == 1 { "One window".into() } else { format!("Medians of {} windows", self.rounds) };
        let _ = write!(text, "\n{windows} of {} s.\n", self.seconds.as_secs_f64());
        for step in self.steps() {
            let (rate, cost) = if step.is_bulk() { ("MiB/s", "CPU s/GiB") } else { ("calls/s", "CPU us/call") };
            let _ = write!(text, "\n{:<28}{rate:>9}{cost:>13}{:>9}{:>9}", step.title(), "p50 us", "p99 us");
            if let Some(rival) = &self.rival {
                let _ = write!(text, "  CPU, {rival} = 1");
            }
            text.push('\n');
            for row in self.rows_of(step) {
                let number = |spread: Option<Spread>, digits: usize| {
                    spread.map_or("-".to_string(), |Spread { median, .. }| format!("{median:.digits$}"))
                };
                let _ = write!(
                    text,
                    "  {:<26}{:>9}{:>13}{:>9}{:>9}",
                    row.subject,
                    number(row.rate(), 0),
                    number(row.cost(), 2),
                    number(row.latency_us(0.5), 0),
                    number(row.latency_us(0.99), 0),
                );
                if let Some(ratio) = self.ratio(row) {
                    let _ = write!(text, "  {ratio:.2}");
                }
                text.push('\n');
            }
        }
        text.trim_end().to_string()
    }

    fn json(&self) -> Value {
        let row = |row: &Row| {
            let spread = |spread: Option<Spread>| spread.map(Spread::json);
            let latencies: serde_json::Map<String, Value> = [("p50", 0.5), ("p99", 0.99), ("p99_9", 0.999)]
                .into_iter()
                .map(|(name, quantile)| (name.to_string(), json!(spread(row.latency_us(quantile)))))
                .collect();
            let (rate, cost) = match row.step.is_bulk() {
                true => ("mib_per_second", "cpu_seconds_per_gib"),
                false => ("calls_per_second", "cpu_microseconds_per_call"),
            };
            json!({
                "subject": row.subject,
                "work": row.step.name(),
                rate: spread(row.rate()),
                cost: spread(row.cost()),
                "latency_us": latencies,
                "cpu_ratio": self.ratio(row),
            })
        };
        json!({
            "ok": true,
            "about": self.head,
            "rounds": self.rounds,
            "window_seconds": self.seconds.as_secs_f64(),
            "compared_with": self.rival,
            "figures": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_middle_and_the_ends() {
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn costs_are_by_the_gib_and_by_the_call() {
        let row = |step, bytes, calls| {
            let outcome = Outcome { bytes, calls, ..Outcome::nothing().unwrap() };
            Row { subject: "x".into(), step, windows: vec![Window { outcome, cpu: Some(Duration::from_secs(1)) }] }
        };
        assert_eq!(row(Step::Read, 1 << 31, 1).cost().unwrap().median, 0.5);
        assert_eq!(row(Step::GetattrAlone, 0, 1000).cost().unwrap().median, 1000.0);
        assert_eq!(row(Step::Read, 0, 0).cost(), None);
    }
}
