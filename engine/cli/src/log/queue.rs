//! Log lines on their way to standard error, for which nobody waits.
//!
//! Whoever reads standard error may stop reading, and may itself wait for a mount that this tunnel serves. So lines are
//! written by a thread of their own; when it cannot keep up they are dropped, and counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait: with [`LINE_BYTES_MAX`] 4 MiB at the most, as a rule a tenth of a MiB.
const LINES_MAX: usize = 1024;
/// A longer line is cut.
const LINE_BYTES_MAX: usize = 4096;
/// How often a flush looks whether all has been written.
const FLUSH_TICK: Duration = Duration::from_millis(2);

/// What the writing thread shares with those who log.
#[derive(Debug, Default)]
struct Counts {
    queued: AtomicU64,
    written: AtomicU64,
    lost: AtomicU64,
}

/// The queue's entrance.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    lines: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
}

impl Queue {
    /// Starts the thread that writes to `to`.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let own = Arc::clone(&counts);
        thread::Builder::new().name("log".into()).spawn(move || write_all(&waiting, &own, to))?;
        Ok(Self { lines, counts })
    }

    /// Puts a line into the queue, or drops it. Where lines were dropped before it, a note stands in their place.
    fn put(&self, line: &[u8]) {
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        let mut text = note(lost).into_bytes();
        text.extend(line.iter().take(LINE_BYTES_MAX - 1));
        if line.len() >= LINE_BYTES_MAX {
            text.push(b'\n');
        }
        self.send(text, lost, 1);
    }

    /// Queues `text`; if that cannot be, `lost` lines stay lost and `more` are lost with it.
    fn send(&self, text: Vec<u8>, lost: u64, more: u64) {
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        if self.lines.try_send(text).is_err() {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(lost + more, Ordering::Relaxed);
        }
    }

    /// Waits until everything has been written, but not for long.
    pub(super) fn flush(&self, limit: Duration) {
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.send(note(lost).into_bytes(), lost, 0);
        }
        let mut waited = Duration::ZERO;
        while self.counts.written.load(Ordering::Relaxed) < self.counts.queued.load(Ordering::Relaxed) && waited < limit
        {
            thread::sleep(FLUSH_TICK);
            waited += FLUSH_TICK;
        }
    }
}

fn note(lost: u64) -> String {
    match lost {
        0 => String::new(),
        _ => format!("sealane: {lost} log lines were lost here: standard error did not take them\n"),
    }
}

fn write_all(lines: &Receiver<Vec<u8>>, counts: &Counts, mut to: impl Write) {
    for line in lines {
        // A reader that has gone is no reason to end: the tunnel goes on without a word.
        let _ = to.write_all(&line);
        counts.written.fetch_add(1, Ordering::Relaxed);
    }
}

impl<'w> MakeWriter<'w> for Queue {
    type Writer = Entrance;

    fn make_writer(&'w self) -> Entrance {
        Entrance(self.clone())
    }
}

/// Takes the formatted events, of which each is one write.
pub(super) struct Entrance(Queue);

impl Write for Entrance {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Writes nothing until it is told to.
    struct Stuck {
        told: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.told.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_but_no_time_and_is_told_where_and_how_many() {
        let ((go_on, told), (written, lines)) = (channel(), channel());
        let queue = Queue::start(Stuck { told, written }).unwrap();
        let more = LINES_MAX + 500;
        (0..more).for_each(|number| queue.put(format!("line {number}\n").as_bytes()));
        queue.flush(Duration::from_millis(20));
        drop(go_on);
        queue.flush(Duration::from_secs(10));
        queue.put(b"later\n");
        queue.flush(Duration::from_secs(10));
        drop(queue);
        let all = String::from_utf8(lines.iter().collect::<Vec<_>>().concat()).unwrap();
        let kept = all.lines().take_while(|line| line.starts_with("line ")).count();
        assert!((LINES_MAX..more).contains(&kept), "{kept}");
        let lost = more - kept;
        let rest: Vec<_> = all.lines().skip(kept).collect();
        let note = format!("sealane: {lost} log lines were lost here: standard error did not take them");
        assert_eq!(rest, [note.as_str(), "later"], "the note stands where they are missing");
    }

    #[test]
    fn a_long_line_is_cut_and_stays_a_line() {
        let ((go_on, told), (written, lines)) = (channel(), channel());
        drop(go_on);
        let queue = Queue::start(Stuck { told, written }).unwrap();
        queue.put(&[b'x'; 3 * LINE_BYTES_MAX]);
        queue.flush(Duration::from_secs(10));
        drop(queue);
        let line = lines.recv().unwrap();
        assert_eq!((line.len(), line.last()), (LINE_BYTES_MAX, Some(&b'\n')));
    }
}
