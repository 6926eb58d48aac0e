//! External data representation (RFC 4506): everything on the wire is made of four-byte units.
//!
//! [`Decoder`] borrows what it decodes, so a payload is looked at where it lies.

/// Why bytes do not decode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum XdrError {
    /// The bytes end before the item does.
    #[error("the message ends inside an item")]
    Truncated,
    /// A length is above the limit of its item.
    #[error("{length} where {max} is the limit")]
    TooLong {
        /// What the message says.
        length: u32,
        /// What its reader takes.
        max: usize,
    },
    /// A boolean or an enumeration has a value that it cannot have.
    #[error("{0} is not a value of this item")]
    NotAValue(u32),
}

/// The bytes that fill an item of `length` bytes up to a whole number of units.
pub(crate) const fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Takes items from the front of a slice.
#[derive(Clone, Debug)]
pub(crate) struct Decoder<'b> {
    bytes: &'b [u8],
}

impl<'b> Decoder<'b> {
    pub(crate) const fn new(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    /// The bytes that are left.
    pub(crate) const fn left(&self) -> usize {
        self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], XdrError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(XdrError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(XdrError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, XdrError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, XdrError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, XdrError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, XdrError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(XdrError::NotAValue(other)),
        }
    }

    /// Opaque data of a length that the protocol fixes.
    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let taken = self.array()?;
        self.take(padding(N))?;
        Ok(taken)
    }

    /// Opaque data or a string of at most `max` bytes.
    pub(crate) fn opaque(&mut self, max: usize) -> Result<&'b [u8], XdrError> {
        let length = self.u32()?;
        if length as usize > max {
            return Err(XdrError::TooLong { length, max });
        }
        let taken = self.take(length as usize)?;
        self.take(padding(length as usize))?;
        Ok(taken)
    }

    /// The length of an array of at most `max` items.
    pub(crate) fn count(&mut self, max: usize) -> Result<usize, XdrError> {
        let length = self.u32()?;
        if length as usize > max { Err(XdrError::TooLong { length, max }) } else { Ok(length as usize) }
    }
}

/// Appends items to a buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes back everything from `length` on.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn words<const N: usize>(&mut self, values: [u32; N]) {
        values.iter().for_each(|value| self.u32(*value));
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Opaque data of a length that the protocol fixes.
    pub(crate) fn fixed(&mut self, value: &[u8]) {
        self.raw(value);
        self.zeros(padding(value.len()));
    }

    /// Opaque data or a string, its length in front.
    pub(crate) fn opaque(&mut self, value: &[u8]) {
        self.u32(value.len() as u32); // nothing here is longer than a record
        self.fixed(value);
    }

    /// Bytes that are encoded already, or the beginning of an item that goes on elsewhere.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.bytes.resize(self.bytes.len() + count, 0);
    }

    /// Writes over the unit at `at`, which is there already.
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = value.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Encoder {
        let mut out = Encoder::new();
        out.u32(7);
        out.u64(u64::MAX - 1);
        out.i64(-5);
        out.bool(true);
        out.fixed(&[1, 2, 3, 4, 5, 6]);
        out.opaque(b"sea");
        out.opaque(b"");
        out.opaque(b"lane");
        out
    }

    /// Everything that [`sample`] encodes.
    #[derive(Debug, Eq, PartialEq)]
    struct Sample<'b> {
        numbers: (u32, u64, i64),
        flag: bool,
        fixed: [u8; 6],
        strings: [&'b [u8]; 3],
    }

    fn decode(bytes: &[u8]) -> Result<Sample<'_>, XdrError> {
        let mut from = Decoder::new(bytes);
        let numbers = (from.u32()?, from.u64()?, from.i64()?);
        let (flag, fixed) = (from.bool()?, from.fixed()?);
        let strings = [from.opaque(4)?, from.opaque(0)?, from.opaque(4)?];
        assert_eq!(from.left(), 0);
        Ok(Sample { numbers, flag, fixed, strings })
    }

    #[test]
    fn what_was_encoded_decodes_to_the_same() {
        let out = sample();
        let strings: [&[u8]; 3] = [b"sea", b"", b"lane"];
        let expected = Sample { numbers: (7, u64::MAX - 1, -5), flag: true, fixed: [1, 2, 3, 4, 5, 6], strings };
        assert_eq!(decode(out.bytes()), Ok(expected));
        assert_eq!(out.len() % 4, 0);
    }

    #[test]
    fn a_message_cut_at_any_byte_is_truncated() {
        let out = sample();
        for end in 0..out.len() {
            assert_eq!(decode(&out.bytes()[..end]), Err(XdrError::Truncated), "cut at {end}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_its_bytes_are_looked_for() {
        let mut out = Encoder::new();
        out.u32(u32::MAX);
        let length = u32::MAX;
        assert_eq!(Decoder::new(out.bytes()).opaque(400), Err(XdrError::TooLong { length, max: 400 }));
        assert_eq!(Decoder::new(out.bytes()).count(8), Err(XdrError::TooLong { length, max: 8 }));
        assert_eq!(Decoder::new(out.bytes()).opaque(usize::MAX), Err(XdrError::Truncated));
        assert_eq!(Decoder::new(out.bytes()).bool(), Err(XdrError::NotAValue(length)));
    }
}
