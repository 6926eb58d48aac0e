//! Finds RPC record boundaries in a byte stream (RFC 5531, section 11).
//!
//! This module never reads a socket or a clock. Bytes go in through [`RecordScanner::advance`]; facts about them come
//! out. The relay forwards the bytes untouched.

/// The bit of a record mark that says "last fragment" (RFC 5531 section 11).
const LAST_FRAGMENT: u32 = 1 << 31;

/// The first words of every RPC message: xid, message type, and for a call the RPC version (RFC 5531 section 9).
const HEAD_BYTES: usize = 12;

/// The shortest whole RPC message: a rejected reply of five words (xid, REPLY, MSG_DENIED, AUTH_ERROR, status).
const MESSAGE_BYTES_MIN: u32 = 20;

/// The longest fragment that is taken for RPC. The largest payloads in use are a few MiB; ASCII letters and TLS record
/// headers, read as a mark, are above this.
const FRAGMENT_BYTES_MAX: u32 = 64 << 20;

/// Why a stream is not a stream of RPC records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A mark or a message head that cannot belong to RPC.
    #[error("the stream is not ONC RPC")]
    NotRpc,
}

/// Where the scanner stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Inside the four bytes of a mark; `seen` of them are in `word`.
    Mark { word: u32, seen: u8 },
    /// Inside a fragment with `left` bytes to come.
    Fragment { left: u32, last: bool },
    /// The stream is not RPC; nothing more is looked at.
    Refused,
}

/// Is told of the messages of a direction as they pass.
pub trait Messages {
    /// The head of a call.
    fn call(&mut self, xid: u32);
    /// The last byte of a reply.
    fn reply_ended(&mut self, xid: u32);
}

/// Nobody.
impl Messages for () {
    fn call(&mut self, _xid: u32) {}
    fn reply_ended(&mut self, _xid: u32) {}
}

/// Follows the records of one direction of a connection.
///
/// Both directions carry calls and replies: a server sends callbacks on the same stream (RFC 8881 section 2.10.3.1), so
/// calls and replies are counted by the message type word, never by direction.
#[derive(Clone, Debug)]
pub struct RecordScanner {
    state: State,
    /// The first words of the current message, over as many fragments as it takes.
    head: [u8; HEAD_BYTES],
    head_bytes: u8,
    calls: u64,
    replies: u64,
    replies_ended: u64,
    bytes: u64,
}

impl Default for RecordScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordScanner {
    /// A scanner that stands before the first mark.
    pub const fn new() -> Self {
        Self {
            state: State::Mark { word: 0, seen: 0 },
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            calls: 0,
            replies: 0,
            replies_ended: 0,
            bytes: 0,
        }
    }

    /// Looks at the next `bytes` of the stream and returns how many records ended in them.
    ///
    /// Calling this once with a buffer, or once per byte of it, leaves the same state and returns the same total.
    ///
    /// # Errors
    /// [`RecordError::NotRpc`] at the first mark or message head that cannot begin an RPC message, and on every later
    /// call; the bytes flow on.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, RecordError> {
        self.advance_and_tell(bytes, &mut ())
    }

    /// As [`RecordScanner::advance`], and tells `messages` of what passes.
    ///
    /// # Errors
    /// As [`RecordScanner::advance`].
    pub fn advance_and_tell(&mut self, mut bytes: &[u8], messages: &mut impl Messages) -> Result<usize, RecordError> {
        self.bytes = self.bytes.wrapping_add(bytes.len() as u64);
        let mut ended = 0;
        while !bytes.is_empty() {
            bytes = self.step(bytes, &mut ended, messages)?;
        }
        if matches!(self.state, State::Refused) { Err(RecordError::NotRpc) } else { Ok(ended) }
    }

    /// Looks at the next `bytes` as far as the current record goes, or at a boundary the next one, and returns how many
    /// belong to it. The others have not been looked at.
    ///
    /// # Errors
    /// As [`RecordScanner::advance`].
    pub fn advance_in_record(&mut self, bytes: &[u8], messages: &mut impl Messages) -> Result<usize, RecordError> {
        let (mut rest, mut ended) = (bytes, 0);
        while !rest.is_empty() && ended == 0 {
            rest = self.step(rest, &mut ended, messages).inspect_err(|_| self.count_bytes(bytes.len()))?;
        }
        let taken = bytes.len() - rest.len();
        self.count_bytes(taken);
        Ok(taken)
    }

    fn count_bytes(&mut self, count: usize) {
        self.bytes = self.bytes.wrapping_add(count as u64);
    }

    fn step<'b>(
        &mut self,
        bytes: &'b [u8],
        ended: &mut usize,
        messages: &mut impl Messages,
    ) -> Result<&'b [u8], RecordError> {
        match self.state {
            State::Mark { word, seen } => self.mark(word, seen, bytes),
            State::Fragment { left, last } => self.fragment(left, last, bytes, ended, messages),
            State::Refused => Err(RecordError::NotRpc),
        }
    }

    /// Calls whose head has been seen: forward calls from a client, callbacks from a server.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Replies whose head has been seen.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Replies whose last byte has been seen.
    pub fn replies_ended(&self) -> u64 {
        self.replies_ended
    }

    /// Bytes looked at, those of a stream that is not RPC included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the stream stands between two records. A stream that is not RPC has no boundaries.
    pub fn at_boundary(&self) -> bool {
        matches!(self.state, State::Mark { seen: 0, .. }) && self.head_bytes == 0
    }

    /// Whether the stream has been found not to be RPC.
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused)
    }

    /// How many bytes surely belong to the current record: the rest of its fragment, or of the mark that has begun.
    ///
    /// 0 at a boundary and in a stream that is not RPC.
    pub fn record_bytes_left(&self) -> usize {
        match self.state {
            State::Fragment { left, .. } => left as usize,
            State::Mark { seen, .. } if !self.at_boundary() => 4 - usize::from(seen),
            State::Mark { .. } | State::Refused => 0,
        }
    }

    fn refuse(&mut self) -> RecordError {
        self.state = State::Refused;
        RecordError::NotRpc
    }

    fn mark<'b>(&mut self, mut word: u32, mut seen: u8, mut bytes: &'b [u8]) -> Result<&'b [u8], RecordError> {
        while seen < 4
            && let Some((first, rest)) = bytes.split_first()
        {
            word = word << 8 | u32::from(*first);
            seen += 1;
            bytes = rest;
        }
        if seen < 4 {
            self.state = State::Mark { word, seen };
            return Ok(bytes);
        }
        let (left, last) = (word & !LAST_FRAGMENT, word & LAST_FRAGMENT != 0);
        let first = self.head_bytes == 0;
        if left == 0 || left > FRAGMENT_BYTES_MAX || (first && last && left < MESSAGE_BYTES_MIN) {
            return Err(self.refuse());
        }
        self.state = State::Fragment { left, last };
        Ok(bytes)
    }

    fn fragment<'b>(
        &mut self,
        left: u32,
        last: bool,
        bytes: &'b [u8],
        ended: &mut usize,
        messages: &mut impl Messages,
    ) -> Result<&'b [u8], RecordError> {
        let taken = bytes.len().min(left as usize);
        let (inside, rest) = bytes.split_at(taken);
        self.message_head(inside, messages)?;
        let left = left - taken as u32; // `taken` is at most `left`
        self.state = match (left, last) {
            (0, true) => {
                self.message_end(messages)?;
                *ended += 1;
                State::Mark { word: 0, seen: 0 }
            }
            (0, false) => State::Mark { word: 0, seen: 0 },
            _ => State::Fragment { left, last },
        };
        Ok(rest)
    }

    /// Collects the first words of a message and judges each as soon as it is whole.
    fn message_head(&mut self, inside: &[u8], messages: &mut impl Messages) -> Result<(), RecordError> {
        let before = usize::from(self.head_bytes);
        let wanted = HEAD_BYTES.saturating_sub(before).min(inside.len());
        if wanted == 0 {
            return Ok(());
        }
        for (to, from) in self.head.iter_mut().skip(before).zip(inside.iter().take(wanted)) {
            *to = *from;
        }
        let now = before + wanted;
        self.head_bytes = now as u8; // at most HEAD_BYTES
        let [x0, x1, x2, x3, t0, t1, t2, t3, v0, v1, v2, v3] = self.head;
        let kind = u32::from_be_bytes([t0, t1, t2, t3]);
        if before < 8 && now >= 8 {
            match kind {
                0 => {}
                1 => self.replies = self.replies.wrapping_add(1),
                _ => return Err(self.refuse()),
            }
        }
        if now == HEAD_BYTES && kind == 0 {
            if [v0, v1, v2, v3] != [0, 0, 0, 2] {
                return Err(self.refuse());
            }
            self.calls = self.calls.wrapping_add(1);
            messages.call(u32::from_be_bytes([x0, x1, x2, x3]));
        }
        Ok(())
    }

    fn message_end(&mut self, messages: &mut impl Messages) -> Result<(), RecordError> {
        if usize::from(self.head_bytes) < HEAD_BYTES {
            return Err(self.refuse());
        }
        let [x0, x1, x2, x3, _, _, _, kind, ..] = self.head;
        if kind == 1 {
            self.replies_ended = self.replies_ended.wrapping_add(1);
            messages.reply_ended(u32::from_be_bytes([x0, x1, x2, x3]));
        }
        self.head_bytes = 0;
        Ok(())
    }
}

/// The message type word of a record that begins with these bytes: `Some(true)` for a reply, `Some(false)` for a call.
///
/// `None` when fewer than twelve bytes are there, or when the record's first fragment ends before the word.
pub fn is_reply(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [m0, m1, m2, m3, _, _, _, _, 0, 0, 0, kind @ (0 | 1), ..]
            if u32::from_be_bytes([*m0, *m1, *m2, *m3]) & !LAST_FRAGMENT >= 8 =>
        {
            Some(*kind == 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn message(kind: u32, body_words: u32) -> Vec<u8> {
        let mut words = std::vec![7, kind];
        words.push(if kind == 0 { 2 } else { 0 });
        words.extend(std::iter::repeat_n(0xffff_ffff, body_words as usize));
        words.iter().flat_map(|word: &u32| word.to_be_bytes()).collect()
    }

    fn record(message: &[u8], fragments: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = message;
        for length in fragments {
            let (fragment, behind) = rest.split_at(*length);
            out.extend((fragment.len() as u32).to_be_bytes());
            out.extend(fragment);
            rest = behind;
        }
        out.extend((rest.len() as u32 | LAST_FRAGMENT).to_be_bytes());
        out.extend(rest);
        out
    }

    fn sample() -> Vec<u8> {
        let mut stream = record(&message(0, 9), &[]);
        stream.extend(record(&message(1, 3), &[5, 2, 1]));
        stream.extend(record(&message(0, 400), &[1000]));
        stream.extend(record(&message(1, 2), &[]));
        stream
    }

    fn scan(stream: &[u8], step: usize) -> (Result<usize, RecordError>, RecordScanner) {
        let mut scanner = RecordScanner::new();
        let mut total = 0;
        for piece in stream.chunks(step) {
            match scanner.advance(piece) {
                Ok(ended) => total += ended,
                Err(error) => return (Err(error), scanner),
            }
        }
        (Ok(total), scanner)
    }

    #[test]
    fn a_record_at_a_time_ends_at_every_boundary_however_the_stream_is_cut() {
        let stream = sample();
        for step in 1..=stream.len() {
            let (mut scanner, mut ends, mut at) = (RecordScanner::new(), Vec::new(), 0);
            for piece in stream.chunks(step) {
                let mut rest = piece;
                while !rest.is_empty() {
                    let taken = scanner.advance_in_record(rest, &mut ()).unwrap();
                    assert!(taken > 0);
                    at += taken;
                    rest = rest.split_at(taken).1;
                    if scanner.at_boundary() {
                        ends.push(at);
                    }
                }
            }
            let records = [message(0, 9).len() + 4, message(1, 3).len() + 16, message(0, 400).len() + 8];
            let wanted = [records[0], records[0] + records[1], records.iter().sum::<usize>(), stream.len()];
            assert_eq!(ends, wanted, "step {step}");
            assert_eq!((scanner.calls(), scanner.replies_ended(), scanner.bytes()), (2, 2, stream.len() as u64));
        }
        let mut scanner = RecordScanner::new();
        assert_eq!(scanner.advance_in_record(b"GET / HTTP/1.1", &mut ()), Err(RecordError::NotRpc));
        assert_eq!(scanner.advance_in_record(b"more", &mut ()), Err(RecordError::NotRpc));
    }

    #[test]
    fn every_way_of_cutting_a_stream_gives_the_same_answer() {
        let stream = sample();
        for step in 1..=stream.len() {
            let (ended, scanner) = scan(&stream, step);
            assert_eq!(ended, Ok(4), "step {step}");
            assert!(scanner.at_boundary(), "step {step}");
            assert_eq!((scanner.calls(), scanner.replies(), scanner.replies_ended()), (2, 2, 2), "step {step}");
            assert_eq!(scanner.bytes(), stream.len() as u64, "step {step}");
        }
    }

    #[test]
    fn every_prefix_knows_whether_it_ends_at_a_boundary() {
        let stream = sample();
        let mut boundaries = std::vec![0];
        let mut whole = RecordScanner::new();
        for (at, byte) in stream.iter().enumerate() {
            if whole.advance(&[*byte]).unwrap() == 1 {
                boundaries.push(at + 1);
            }
        }
        for end in 0..=stream.len() {
            let mut scanner = RecordScanner::new();
            scanner.advance(&stream[..end]).unwrap();
            assert_eq!(scanner.at_boundary(), boundaries.contains(&end), "prefix of {end}");
        }
        assert_eq!(boundaries.len(), 5);
    }

    #[test]
    fn reading_what_surely_belongs_to_the_record_ends_exactly_at_its_end() {
        let stream = record(&message(0, 400), &[1000, 4]);
        let mut both = stream.clone();
        both.extend(sample());
        let mut scanner = RecordScanner::new();
        scanner.advance(&both[..1]).unwrap();
        let mut at = 1;
        while !scanner.at_boundary() {
            let left = scanner.record_bytes_left();
            assert!(left > 0);
            scanner.advance(&both[at..at + left]).unwrap();
            at += left;
        }
        assert_eq!(at, stream.len());
    }

    #[test]
    fn a_reply_counts_as_seen_at_its_head_and_as_ended_at_its_last_byte() {
        let stream = record(&message(1, 100), &[]);
        let mut scanner = RecordScanner::new();
        scanner.advance(&stream[..12]).unwrap();
        assert_eq!((scanner.replies(), scanner.replies_ended()), (1, 0));
        scanner.advance(&stream[12..]).unwrap();
        assert_eq!((scanner.replies(), scanner.replies_ended()), (1, 1));
    }

    #[test]
    fn what_is_not_rpc_is_refused_at_every_cut_and_stays_refused() {
        let mut bad_version = record(&message(0, 9), &[]);
        bad_version[15] = 3;
        let mut bad_kind = record(&message(0, 9), &[]);
        bad_kind[11] = 2;
        let mut second = sample();
        second.extend(b"GET / HTTP/1.1\r\n\r\n");
        let short = record(&message(0, 0), &[]);
        let empty = [0x80, 0, 0, 0, 0, 0, 0, 0];
        let tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        let cases: [&[u8]; 7] = [b"SSH-2.0-OpenSSH_9.2\r\n", &bad_version, &bad_kind, &second, &short, &empty, &tls];
        for (case, stream) in cases.iter().enumerate() {
            for step in 1..=stream.len() {
                let (ended, mut scanner) = scan(stream, step);
                assert_eq!(ended, Err(RecordError::NotRpc), "case {case} step {step}");
                assert_eq!(scanner.advance(&sample()), Err(RecordError::NotRpc), "case {case} step {step}");
                assert!(!scanner.at_boundary());
                assert_eq!(scanner.record_bytes_left(), 0);
            }
        }
    }

    #[test]
    fn the_kind_of_a_record_is_known_from_its_first_twelve_bytes() {
        assert_eq!(is_reply(&record(&message(1, 3), &[])), Some(true));
        assert_eq!(is_reply(&record(&message(0, 9), &[])), Some(false));
        assert_eq!(is_reply(&record(&message(0, 9), &[])[..11]), None);
        assert_eq!(is_reply(&record(&message(1, 3), &[4, 4])), None);
    }
}
