//! Log lines as stunnel writes them, for whoever reads its logs.

use std::fmt;

use sealane_io::syslog::{LocalTime, local_time};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `2026.11.23 06:45:22 LOG5[main]: text`
pub(super) struct Stunnel;

/// The number that syslog(3) has for a level, which stunnel's lines name.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 5,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Stunnel
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let LocalTime { year, month, day, hour, minute, second } = local_time();
        let thread = std::thread::current();
        let (severity, who) = (severity(*event.metadata().level()), thread.name().unwrap_or("main"));
        write!(line, "{year:04}.{month:02}.{day:02} {hour:02}:{minute:02}:{second:02} LOG{severity}[{who}]: ")?;
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

/// A line without its time, and its severity. What is no such line (a note about lost ones) is an error's.
pub(super) fn without_time(line: &[u8]) -> (u8, &[u8]) {
    const TIME: usize = "2026.11.23 06:45:22 ".len();
    match line.split_at_checked(TIME) {
        Some((_, [b'L', b'O', b'G', digit @ b'0'..=b'7', rest @ ..])) if rest.starts_with(b"[") => {
            (digit - b'0', line.get(TIME..).unwrap_or_default())
        }
        _ => (3, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_log_gets_lines_without_a_time_but_with_their_severity() {
        let line = b"2026.11.23 06:45:22 LOG5[main]: text\n";
        assert_eq!(without_time(line), (5, &b"LOG5[main]: text\n"[..]));
        for line in [&b"sealane: 3 log lines were lost here"[..], b"", b"2026.11.23 06:45:22 LOG9[main]: x"] {
            assert_eq!(without_time(line), (3, line));
        }
    }
}
