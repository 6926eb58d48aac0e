//! Log lines on their way to standard error, for which nobody waits.
//!
//! Whoever reads standard error may stop reading, and may itself wait for a mount that this tunnel serves. So lines are
//! written by a thread of their own; when it cannot keep up, or cannot write (a full disk), they are dropped, and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// A line, behind the note about those that are missing before it.
#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    /// Lines that are lost if this one is: itself, and those that its note is about.
    stands_for: u64,
}

/// What the writing thread does, until it has been started.
type Writing = Box<dyn FnOnce() + Send>;

/// The queue's entrance.
#[derive(Clone)]
pub(super) struct Queue {
    lines: SyncSender<Line>,
    counts: Arc<Counts>,
    writing: Arc<Mutex<Option<Writing>>>,
}

impl Queue {
    /// A queue of lines for `to`, which nothing writes yet.
    pub(super) fn new(to: impl Write + Send + 'static) -> Self {
        let (lines, waiting) = sync_channel(LINES_MAX);
        let counts = Arc::new(Counts::default());
        let own = Arc::clone(&counts);
        let writing: Writing = Box::new(move || write_all(&waiting, &own, to));
        Self { lines, counts, writing: Arc::new(Mutex::new(Some(writing))) }
    }

    /// Starts the thread that writes, unless it runs already.
    ///
    /// # Errors
    /// No thread could be started: nothing will be written.
    pub(super) fn begin(&self) -> io::Result<()> {
        match self.writing.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(writing) => thread::Builder::new().name("log".into()).spawn(writing).map(drop),
            None => Ok(()),
        }
    }

    /// Puts a line into the queue, or drops it. Where lines were dropped before it, a note stands in their place.
    fn put(&self, line: &[u8]) {
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        let mut text = note(lost).into_bytes();
        text.extend(line.iter().take(LINE_BYTES_MAX - 1));
        if line.len() >= LINE_BYTES_MAX {
            text.push(b'\n');
        }
        self.send(Line { text, stands_for: lost + 1 });
    }

    fn send(&self, line: Line) {
        self.counts.queued.fetch_add(1, Ordering::Relaxed);
        let stands_for = line.stands_for;
        if self.lines.try_send(line).is_err() {
            self.counts.queued.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(stands_for, Ordering::Relaxed);
        }
    }

    /// Waits until everything has been written, but not for long.
    pub(super) fn flush(&self, limit: Duration) {
        let lost = self.counts.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.send(Line { text: note(lost).into_bytes(), stands_for: lost });
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

fn write_all(lines: &Receiver<Line>, counts: &Counts, mut to: impl Write) {
    // What is written begins in the middle of a line that was cut off.
    let mut is_torn = false;
    for Line { text, stands_for } in lines {
        let done = if is_torn { write_line(&mut to, b"\n") } else { Ok(()) };
        match done.map_err(|_| true).and_then(|()| write_line(&mut to, &text)) {
            Ok(()) => is_torn = false,
            // A reader that has gone, or a full disk, is no reason to end: the tunnel goes on without a word.
            Err(torn) => {
                is_torn = torn;
                counts.lost.fetch_add(stands_for, Ordering::Relaxed);
            }
        }
        counts.written.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes all of `text`, or says whether a part of it was written.
fn write_line(to: &mut impl Write, text: &[u8]) -> Result<(), bool> {
    let mut left = text;
    while !left.is_empty() {
        match to.write(left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return Err(left.len() < text.len()),
            Ok(count) => left = left.get(count..).unwrap_or_default(),
        }
    }
    Ok(())
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

    /// Writes nothing until it is told to, and says when it is asked.
    struct Stuck {
        asked: Sender<()>,
        told: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.asked.send(());
            let _ = self.told.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn begun(to: impl Write + Send + 'static) -> Queue {
        let queue = Queue::new(to);
        queue.begin().unwrap();
        queue
    }

    #[test]
    fn lines_from_before_the_thread_are_written_by_it() {
        let ((go_on, told), (written, lines)) = (channel(), channel());
        drop(go_on);
        let queue = Queue::new(Stuck { asked: channel().0, told, written });
        queue.put(b"early\n");
        assert!(lines.recv_timeout(Duration::from_millis(20)).is_err(), "there is no thread yet");
        queue.begin().unwrap();
        queue.begin().unwrap();
        queue.flush(Duration::from_secs(10));
        drop(queue);
        assert_eq!(lines.iter().collect::<Vec<_>>(), [b"early\n"]);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_but_no_time_and_is_told_where_and_how_many() {
        let ((go_on, told), (written, lines)) = (channel(), channel());
        let (asked, is_asked) = channel();
        let queue = begun(Stuck { asked, told, written });
        let more = LINES_MAX + 500;
        queue.put(b"line 0\n");
        is_asked.recv_timeout(Duration::from_secs(10)).unwrap();
        (1..more).for_each(|number| queue.put(format!("line {number}\n").as_bytes()));
        queue.flush(Duration::from_millis(20));
        drop(go_on);
        queue.flush(Duration::from_secs(10));
        queue.put(b"later\n");
        queue.flush(Duration::from_secs(10));
        drop(queue);
        let all = String::from_utf8(lines.iter().collect::<Vec<_>>().concat()).unwrap();
        let kept = all.lines().take_while(|line| line.starts_with("line ")).count();
        assert_eq!(kept, LINES_MAX + 1, "the one that is being written, and those that wait");
        let lost = more - kept;
        let rest: Vec<_> = all.lines().skip(kept).collect();
        let note = format!("sealane: {lost} log lines were lost here: standard error did not take them");
        assert_eq!(rest, [note.as_str(), "later"], "the note stands where they are missing");
    }

    /// A disk that has room for so many bytes until it is emptied.
    struct Disk {
        room: Arc<AtomicU64>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room.load(Ordering::Relaxed) as usize);
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            self.room.fetch_sub(count as u64, Ordering::Relaxed);
            let _ = self.written.send(bytes[..count].to_vec());
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_counted_and_the_next_ones_are_whole() {
        let ((written, lines), room) = (channel(), Arc::new(AtomicU64::new(20)));
        let queue = begun(Disk { room: Arc::clone(&room), written });
        let put = |line: &[u8]| {
            queue.put(line);
            queue.flush(Duration::from_secs(10));
        };
        // The third is cut off, the fourth takes the note about it along, the fifth both.
        for number in 1..=5 {
            put(format!("line {number}.\n").as_bytes());
        }
        room.store(1 << 20, Ordering::Relaxed);
        put(b"line 6.\n");
        put(b"line 7.\n");
        drop(queue);
        let all = String::from_utf8(lines.iter().collect::<Vec<_>>().concat()).unwrap();
        let note = "sealane: 3 log lines were lost here: standard error did not take them";
        assert_eq!(all.lines().collect::<Vec<_>>(), ["line 1.", "line 2.", "line", note, "line 6.", "line 7."]);
    }

    #[test]
    fn a_long_line_is_cut_and_stays_a_line() {
        let ((go_on, told), (written, lines)) = (channel(), channel());
        drop(go_on);
        let queue = begun(Stuck { asked: channel().0, told, written });
        queue.put(&[b'x'; 3 * LINE_BYTES_MAX]);
        queue.flush(Duration::from_secs(10));
        drop(queue);
        let line = lines.recv().unwrap();
        assert_eq!((line.len(), line.last()), (LINE_BYTES_MAX, Some(&b'\n')));
    }
}
