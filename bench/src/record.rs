//! The recorded counts, and what they were recorded with.

use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// What else than our own code decides a count.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Tools(BTreeMap<String, String>);

impl Tools {
    pub(crate) fn of_this_host() -> Result<Self> {
        let said = |program: &str, argument: &str| -> Result<String> {
            let output = Command::new(program).arg(argument).output().with_context(|| program.to_string())?;
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or_default().trim().to_string())
        };
        let libc = said("ldd", "--version")?;
        let tools = [
            ("rustc", env!("SEALANE_BENCH_RUSTC").to_string()),
            ("ring", env!("SEALANE_BENCH_RING").to_string()),
            ("valgrind", said("valgrind", "--version")?),
            ("libc", libc.rsplit(' ').next().unwrap_or_default().to_string()),
        ];
        Ok(Self(tools.map(|(name, version)| (name.to_string(), version)).into()))
    }
}

impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(name, version)| format!("{name} {version}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// The file `bench/icount.txt`.
pub(crate) struct Record {
    pub(crate) tools: Tools,
    /// Instructions for each unit of a scenario.
    pub(crate) counts: BTreeMap<String, f64>,
}

impl Record {
    pub(crate) fn new(tools: Tools) -> Self {
        Self { tools, counts: BTreeMap::new() }
    }

    /// Reads lines `NAME: VERSION` and `COUNT SCENARIO`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut record = Self::new(Tools(BTreeMap::new()));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#') && !line.is_empty()) {
            if let Some((name, version)) = line.split_once(": ") {
                record.tools.0.insert(name.into(), version.into());
            } else if let Some((count, scenario)) = line.trim().split_once(' ') {
                let count = count.parse().with_context(|| format!("line {}: {count:?} is no count", number + 1))?;
                record.counts.insert(scenario.into(), count);
            } else {
                bail!("line {}: {line:?} is neither `NAME: VERSION` nor `COUNT SCENARIO`", number + 1);
            }
        }
        Ok(record)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions per call, record or loan, without ciphers and copies: written by `sealane-icount update`."
        )?;
        for (name, version) in &self.tools.0 {
            writeln!(f, "{name}: {version}")?;
        }
        for (scenario, count) in &self.counts {
            writeln!(f, "{count:12.1} {scenario}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut record = Record::new(Tools([("rustc".to_string(), "rustc 1 (a: b)".to_string())].into()));
        record.counts.insert("seal/tls12".into(), 12.5);
        let again = Record::parse(&record.to_string()).unwrap();
        assert_eq!((again.tools, again.counts), (record.tools, record.counts));
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        assert_eq!(Record::parse("# a\n\nnonsense\n").err().unwrap().to_string().split(':').next(), Some("line 3"));
    }
}
