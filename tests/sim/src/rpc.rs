//! RPC records as the peers make and read them (RFC 5531 sections 9 and 11).

use crate::random::Random;
use crate::stats::Fault;

/// Words of a message before its payload: xid, type, version or status, the length of the wanted reply, and whether it is
/// one too many.
const HEAD_BYTES: usize = 20;

/// Marks of longer fragments are no marks: behind them comes the length of what is not RPC. The relay does not know that,
/// and the peers go on.
const FRAGMENT_BYTES_MAX: u32 = 64 << 20;

/// A message that was read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) xid: u32,
    pub(crate) is_call: bool,
    /// What a call wants as its reply.
    pub(crate) reply_bytes: usize,
    /// Nobody asked for it, or it is none.
    pub(crate) is_extra: bool,
}

/// A message to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft {
    pub(crate) xid: u32,
    /// 0 for a call, 1 for a reply.
    pub(crate) kind: u32,
    pub(crate) bytes: usize,
    pub(crate) reply_bytes: usize,
    pub(crate) is_extra: bool,
    /// The longest fragment.
    pub(crate) fragment: usize,
}

impl Draft {
    /// A call, or a reply.
    pub(crate) fn new(random: &mut Random, is_call: bool, bytes: usize, reply_bytes: usize, fragment: usize) -> Self {
        let xid = random.next() as u32;
        Self { xid, kind: u32::from(!is_call), bytes, reply_bytes, is_extra: false, fragment }
    }

    /// Its record.
    pub(crate) fn record(self, random: &mut Random) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.bytes.max(HEAD_BYTES));
        let third = if self.kind == 0 { 2 } else { 0 };
        for word in [self.xid, self.kind, third, self.reply_bytes as u32, u32::from(self.is_extra)] {
            body.extend(word.to_be_bytes());
        }
        let head = body.len();
        body.resize(self.bytes.max(HEAD_BYTES), 0);
        random.fill(&mut body[head..]);
        let mut record = Vec::with_capacity(body.len() + 4);
        let count = body.len().div_ceil(self.fragment);
        for (index, part) in body.chunks(self.fragment).enumerate() {
            let last = if index + 1 == count { LAST } else { 0 };
            record.extend((last | part.len() as u32).to_be_bytes());
            record.extend(part);
        }
        record
    }
}

const LAST: u32 = 1 << 31;

/// What a peer says between two messages that is hostile at the RPC layer.
pub(crate) fn hostile(random: &mut Random, kind: Fault) -> Vec<u8> {
    let message = |random: &mut Random, xid, kind| {
        let bytes = random.within(20, 3000);
        Draft { xid, kind, bytes, reply_bytes: 0, is_extra: true, fragment: 1 << 24 }.record(random)
    };
    match kind {
        Fault::ZeroFragment => (random.pick(&[0, LAST])).to_be_bytes().to_vec(),
        Fault::AbsurdMark => not_rpc(random, 200),
        Fault::NotRpcMidway => not_rpc(random, 60_000),
        Fault::RepeatedXids => message(random, REPEATED_XID, 1),
        Fault::UnsolicitedReplies => {
            let xid = random.next() as u32;
            message(random, xid, 1)
        }
        // Of no type, or too short to have one.
        _ if random.chance(500) => {
            let xid = random.next() as u32;
            message(random, xid, 2)
        }
        _ => {
            let mut short = (LAST | 8).to_be_bytes().to_vec();
            short.extend([7; 8]);
            short
        }
    }
}

/// The xid of a peer that has one only.
pub(crate) const REPEATED_XID: u32 = 7;

fn not_rpc(random: &mut Random, most: usize) -> Vec<u8> {
    let mark = random.within(FRAGMENT_BYTES_MAX as usize + 1, LAST as usize - 1) as u32 | random.pick(&[0, LAST]);
    let count = random.within(0, most);
    let mut bytes = mark.to_be_bytes().to_vec();
    bytes.extend((count as u32).to_be_bytes());
    let head = bytes.len();
    bytes.resize(head + count, 0);
    random.fill(&mut bytes[head..]);
    bytes
}

/// Reads records: at once what is whole, the rest later.
#[derive(Default)]
pub(crate) struct Reader {
    word: Vec<u8>,
    left: usize,
    last: bool,
    head: Vec<u8>,
    /// The next word is the length of what is not RPC.
    is_at_length: bool,
    /// So much of that is still to come.
    foreign: usize,
}

impl Reader {
    /// Whether the stream stands between two records.
    pub(crate) fn at_boundary(&self) -> bool {
        self.word.is_empty() && self.left == 0 && self.head.is_empty() && !self.is_at_length && self.foreign == 0
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            if self.foreign > 0 {
                let take = bytes.len().min(self.foreign);
                self.foreign -= take;
                bytes = &bytes[take..];
                continue;
            }
            if self.left == 0 {
                let take = bytes.len().min(4 - self.word.len());
                self.word.extend(&bytes[..take]);
                bytes = &bytes[take..];
                let Ok(word) = <[u8; 4]>::try_from(&self.word[..]) else { continue };
                let word = u32::from_be_bytes(word);
                self.word.clear();
                if std::mem::take(&mut self.is_at_length) {
                    self.foreign = word as usize;
                    continue;
                }
                self.is_at_length = word & !LAST > FRAGMENT_BYTES_MAX;
                if self.is_at_length {
                    continue;
                }
                self.last = word & LAST != 0;
                self.left = (word & !LAST) as usize;
            }
            let take = bytes.len().min(self.left);
            let wanted = HEAD_BYTES.saturating_sub(self.head.len()).min(take);
            self.head.extend(&bytes[..wanted]);
            bytes = &bytes[take..];
            self.left -= take;
            if self.left == 0 && self.last {
                messages.push(self.message());
                self.head.clear();
                self.last = false;
            }
        }
        messages
    }

    fn message(&self) -> Message {
        let word = |at: usize| {
            self.head.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        };
        let is_extra = self.head.len() < HEAD_BYTES || word(4) > 1 || word(16) != 0;
        Message { xid: word(0), is_call: word(4) == 0, reply_bytes: word(12) as usize, is_extra }
    }
}
