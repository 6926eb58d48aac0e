//! Keeps what anybody can provoke from filling the log.

use std::time::{Duration, Instant};

/// The length of an interval in which so many alike lines are logged at the most.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets the first few of many alike events of an interval through.
#[derive(Debug)]
pub(crate) struct Throttle {
    lines_max: u64,
    began: Option<Instant>,
    events: u64,
}

/// What is to be done about one event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loudness {
    /// It is logged. So many before it were not.
    Aloud {
        /// Events that were kept quiet in the interval before.
        missed: u64,
    },
    /// It is not.
    Quiet,
}

impl Throttle {
    pub(crate) fn new(lines_max: u64) -> Self {
        Self { lines_max, began: None, events: 0 }
    }

    /// Counts one event at `now`.
    pub(crate) fn event(&mut self, now: Instant) -> Loudness {
        let mut missed = 0;
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= INTERVAL) {
            missed = self.events.saturating_sub(self.lines_max);
            (self.began, self.events) = (Some(now), 0);
        }
        self.events += 1;
        if self.events <= self.lines_max { Loudness::Aloud { missed } } else { Loudness::Quiet }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_has_its_lines_and_the_next_says_what_it_missed() {
        let start = sealane_io::rt::now();
        let mut throttle = Throttle::new(2);
        assert_eq!(throttle.event(start), Loudness::Aloud { missed: 0 });
        assert_eq!(throttle.event(start), Loudness::Aloud { missed: 0 });
        for _ in 0..5 {
            assert_eq!(throttle.event(start + INTERVAL / 2), Loudness::Quiet);
        }
        assert_eq!(throttle.event(start + INTERVAL), Loudness::Aloud { missed: 5 });
        assert_eq!(throttle.event(start + INTERVAL), Loudness::Aloud { missed: 0 });
        assert_eq!(throttle.event(start + 3 * INTERVAL), Loudness::Aloud { missed: 0 });
    }
}
