//! Reproducible bytes, and RPC records made of them.

/// A small generator with a seed that a failure can print (xorshift64*).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `end` - 1.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Small and large lengths alike: up to `most`, with the powers of two below it equally likely.
    pub fn length(&mut self, most: usize) -> usize {
        let bits = self.below(most.ilog2() as usize + 1);
        (1 << bits) + self.below((1 << bits).min(most - (1 << bits) + 1))
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A call of NFS version 4's COMPOUND with `body` behind its head.
pub fn call(xid: u32, body: &[u8]) -> Vec<u8> {
    record(&[xid, 0, 2, 100_003, 4, 1, 0, 0, 0, 0], body)
}

/// An accepted reply with `body` behind its head.
pub fn reply(xid: u32, body: &[u8]) -> Vec<u8> {
    record(&[xid, 1, 0, 0, 0, 0], body)
}

fn record(head: &[u32], body: &[u8]) -> Vec<u8> {
    let length = head.len() * 4 + body.len();
    let mut bytes = Vec::with_capacity(length + 4);
    bytes.extend((length as u32 | 1 << 31).to_be_bytes());
    bytes.extend(head.iter().flat_map(|word| word.to_be_bytes()));
    bytes.extend(body);
    bytes
}
