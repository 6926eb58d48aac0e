//! RPC records as the peers make and read them (RFC 5531 sections 9 and 11).

use crate::random::Random;

/// Words of a message before its payload: xid, type, version or status, and the length of the wanted reply.
const HEAD_BYTES: usize = 20;

/// A message that was read whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) is_call: bool,
    /// What a call wants as its reply.
    pub(crate) reply_bytes: usize,
}

/// A call, or a reply, of about so many bytes, in fragments of at most `fragment` bytes.
pub(crate) fn message(
    random: &mut Random,
    is_call: bool,
    bytes: usize,
    reply_bytes: usize,
    fragment: usize,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes.max(HEAD_BYTES));
    let third = if is_call { 2 } else { 0 };
    for word in [random.next() as u32, u32::from(!is_call), third, reply_bytes as u32, 0] {
        body.extend(word.to_be_bytes());
    }
    let head = body.len();
    body.resize(bytes.max(HEAD_BYTES), 0);
    random.fill(&mut body[head..]);
    let mut record = Vec::with_capacity(body.len() + 4);
    let count = body.len().div_ceil(fragment);
    for (index, part) in body.chunks(fragment).enumerate() {
        let last = if index + 1 == count { 1 << 31 } else { 0 };
        record.extend((last | part.len() as u32).to_be_bytes());
        record.extend(part);
    }
    record
}

/// Reads records: at once what is whole, the rest later.
#[derive(Default)]
pub(crate) struct Reader {
    mark: Vec<u8>,
    left: usize,
    last: bool,
    head: Vec<u8>,
}

impl Reader {
    /// Whether the stream stands between two records.
    pub(crate) fn at_boundary(&self) -> bool {
        self.mark.is_empty() && self.left == 0 && self.head.is_empty()
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Vec<Message> {
        let mut messages = Vec::new();
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = bytes.len().min(4 - self.mark.len());
                self.mark.extend(&bytes[..take]);
                bytes = &bytes[take..];
                let Ok(mark) = <[u8; 4]>::try_from(&self.mark[..]) else { continue };
                let mark = u32::from_be_bytes(mark);
                self.last = mark >> 31 == 1;
                self.left = (mark & 0x7fff_ffff) as usize;
                self.mark.clear();
            }
            let take = bytes.len().min(self.left);
            let wanted = HEAD_BYTES.saturating_sub(self.head.len()).min(take);
            self.head.extend(&bytes[..wanted]);
            bytes = &bytes[take..];
            self.left -= take;
            if self.left == 0 && self.last {
                let word = |at: usize| {
                    self.head.get(at..at + 4).map_or(0, |word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
                };
                messages.push(Message { is_call: word(4) == 0, reply_bytes: word(12) as usize });
                self.head.clear();
                self.last = false;
            }
        }
        messages
    }
}
