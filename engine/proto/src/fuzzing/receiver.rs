//! The receiving end as the relay drives it: a window onto a buffer, read into in pieces.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::line::{End, Event, Setup, key};
use crate::limits::SHIFT_BELOW_BYTES;
use crate::tls::{Inbound, Pieces, Progress, Window};

/// Receives records, and remembers what came out of them.
pub struct Receiver {
    setup: Setup,
    inbound: Inbound,
    generation: u32,
    window: Window,
    buffer: Vec<u8>,
    /// The application data.
    pub data: Vec<u8>,
    /// What else came, and behind how many bytes of data.
    pub events: Vec<(usize, Event)>,
    /// Whether and how it ended.
    pub end: End,
}

struct Ranges {
    all: Vec<Range<usize>>,
    most: usize,
}

impl Pieces for Ranges {
    fn push(&mut self, range: Range<usize>) -> bool {
        self.all.push(range);
        self.all.len() <= self.most
    }

    fn grow_last(&mut self, end: usize) {
        let last = self.all.last_mut().expect("nothing to grow");
        assert!(last.end < end, "the piece {last:?} grows to {end}");
        last.end = end;
    }
}

impl Ranges {
    fn bytes(&self) -> usize {
        self.all.iter().map(ExactSizeIterator::len).sum()
    }
}

impl Receiver {
    /// A receiver with a buffer of so many bytes.
    pub fn new(setup: Setup, capacity: usize) -> Self {
        Self {
            setup,
            inbound: Inbound::new(setup.role, &key(setup, 0)),
            generation: 0,
            window: Window::default(),
            buffer: vec![0; capacity],
            data: Vec::new(),
            events: Vec::new(),
            end: End::Open,
        }
    }

    /// Goes on with a buffer of another size; false when the bytes that are held do not fit.
    pub fn move_to(&mut self, capacity: usize) -> bool {
        let held = self.buffer[self.window.held()].to_vec();
        if held.len() > capacity {
            return false;
        }
        self.buffer = vec![0; capacity];
        self.buffer[..held.len()].copy_from_slice(&held);
        self.window = Window::holding(held.len());
        true
    }

    /// One read, of at most `bytes`, and what follows from it. Returns how many were read.
    ///
    /// # Panics
    /// When the window or the pieces leave the buffer, or overlap.
    pub fn read(&mut self, bytes: &[u8]) -> usize {
        let plan = self.window.plan(&mut self.buffer);
        let (near, front) = (plan.near, plan.front);
        let held = self.window.held();
        assert!(near.end <= self.buffer.len() && held.end == near.start, "{held:?} {near:?}");
        assert!(front.is_empty() || front.end <= held.start, "{held:?} {front:?}");
        assert!(!near.is_empty(), "no room to go on: {held:?} of {}", self.buffer.len());
        let count = bytes.len().min(near.len() + front.len());
        let (to_near, to_front) = bytes[..count].split_at(count.min(near.len()));
        self.buffer[near.start..near.start + to_near.len()].copy_from_slice(to_near);
        self.buffer[front.start..front.start + to_front.len()].copy_from_slice(to_front);
        self.window.filled(count);
        self.open();
        count
    }

    fn open(&mut self) {
        let mut pieces = Ranges { all: Vec::new(), most: self.buffer.len() / SHIFT_BELOW_BYTES + 4 };
        loop {
            let progress = self.inbound.advance(&mut self.buffer, self.window.cursor(), &mut pieces);
            let event = match progress {
                Ok(Progress::NeedBytes) if self.window.next_stretch() => continue,
                Ok(Progress::NeedBytes) => break,
                Ok(Progress::Closed) => {
                    self.end = End::Closed;
                    break;
                }
                Err(error) => {
                    self.end = End::Failed(error);
                    break;
                }
                Ok(Progress::KeyUpdate { answer }) => {
                    self.generation += 1;
                    self.inbound.rekey(&key(self.setup, self.generation));
                    Event::KeyUpdate { answer }
                }
                Ok(Progress::Ticket(body)) => Event::Ticket(body.to_vec()),
                Ok(Progress::Renegotiation) => Event::Renegotiation,
            };
            self.events.push((self.data.len() + pieces.bytes(), event));
        }
        for range in &pieces.all {
            self.data.extend_from_slice(&self.buffer[range.clone()]);
        }
        for (index, range) in pieces.all.iter().enumerate() {
            let apart = |other: &Range<usize>| other.end <= range.start || range.end <= other.start;
            assert!(pieces.all[index + 1..].iter().all(apart), "pieces overlap: {:?}", pieces.all);
        }
    }

    /// What ended it is said again, and nothing else happens.
    ///
    /// # Panics
    /// When it is not.
    pub fn stays_ended(&mut self) {
        let mut pieces = Ranges { all: Vec::new(), most: 0 };
        let again = self.inbound.advance(&mut self.buffer, self.window.cursor(), &mut pieces);
        match self.end {
            End::Failed(error) => assert_eq!(again, Err(error)),
            End::Closed => assert_eq!(again, Ok(Progress::Closed)),
            End::Open | End::Unknown => assert_eq!(again, Ok(Progress::NeedBytes)),
        }
        assert_eq!(pieces.all, [], "bytes behind the end");
    }
}
