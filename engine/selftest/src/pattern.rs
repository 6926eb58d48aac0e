//! What the load writes, and notices when it reads anything else.
//!
//! Each page of 4 KiB begins with a line that a person, or a search through a packet capture, finds: [`MARK`], then the
//! numbers of the file, of the pass and of the page. Behind the line are words mixed from the same three numbers and
//! the word's place. So a page from another place, another file or an earlier pass differs, and so does a flipped bit.

/// What each page begins with. Found on a wire that should be encrypted, it is proof that it is not.
pub const MARK: &[u8; 23] = b"sealane plaintext page ";

/// The unit of the pattern.
pub const PAGE_BYTES: usize = 4096;

/// The line at the beginning of a page.
const LINE_BYTES: usize = 64;
const LINE_WORDS: usize = LINE_BYTES / 8;
const PAGE_WORDS: usize = PAGE_BYTES / 8;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// 2^64 over the golden ratio: successive multiples of it lie far apart.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The first byte that is not what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("byte {at} of file {file} is {found:#04x} instead of {expected:#04x} of pass {pass}")]
pub struct Mismatch {
    /// The file's number.
    pub file: u32,
    /// The pass that was checked for.
    pub pass: u32,
    /// Where in the file.
    pub at: u64,
    /// What should be there.
    pub expected: u8,
    /// What is.
    pub found: u8,
}

/// One page of the pattern.
struct Page {
    line: [u8; LINE_BYTES],
    seed: u64,
}

impl Page {
    fn new(file: u32, pass: u32, number: u64) -> Self {
        let mut line = [b' '; LINE_BYTES];
        let numbers = [(u64::from(file), 8), (u64::from(pass), 8), (number, 16)];
        let digits = numbers.iter().flat_map(|(value, digits)| {
            let nibbles = (0..*digits).rev().map(move |digit| (value >> (4 * digit)) & 15);
            nibbles.map(|nibble| HEX.get(nibble as usize).copied().unwrap_or(b'?')).chain([b' '])
        });
        for (to, from) in line.iter_mut().zip(MARK.iter().copied().chain(digits)) {
            *to = from;
        }
        if let Some(last) = line.last_mut() {
            *last = b'\n';
        }
        let seed = mix(mix(u64::from(file) << 32 | u64::from(pass)).wrapping_add(number));
        Self { line, seed }
    }

    /// The words behind the line, in the order in which they lie there.
    ///
    /// Additions, shifts and exclusive ors only: what every vector unit has for 64 bits.
    fn words(&self) -> impl Iterator<Item = u64> {
        let seed = self.seed;
        (LINE_WORDS as u64..PAGE_WORDS as u64).map(move |index| {
            let word = seed.wrapping_add(index.wrapping_mul(STEP));
            word ^ (word >> 31)
        })
    }

    fn fill(&self, page: &mut [u8; PAGE_BYTES]) {
        let (line, rest) = page.split_at_mut(LINE_BYTES);
        line.copy_from_slice(&self.line);
        for (to, word) in rest.as_chunks_mut::<8>().0.iter_mut().zip(self.words()) {
            *to = word.to_le_bytes();
        }
    }

    fn is(&self, page: &[u8; PAGE_BYTES]) -> bool {
        let (line, rest) = page.split_at(LINE_BYTES);
        let words = rest.as_chunks::<8>().0.iter().zip(self.words());
        // No early exit: a loop without one is made of vector instructions.
        let different = words.fold(0, |sum, (found, word)| sum | (u64::from_le_bytes(*found) ^ word));
        line == self.line && different == 0
    }
}

/// Spreads every bit of `value` over the word (the finalizer of splitmix64).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(STEP);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Where `offset` is: the number of the page, and how far inside.
const fn place(offset: u64) -> (u64, usize) {
    (offset / PAGE_BYTES as u64, (offset % PAGE_BYTES as u64) as usize)
}

/// Lays out what pass `pass` has at `offset` of file number `file`.
///
/// Any offset and length will do; whole pages are fast.
pub fn fill(mut buffer: &mut [u8], file: u32, mut offset: u64, pass: u32) {
    while !buffer.is_empty() {
        let (number, inside) = place(offset);
        let page = Page::new(file, pass, number);
        let taken = buffer.len().min(PAGE_BYTES - inside);
        let (piece, rest) = buffer.split_at_mut(taken);
        if let Ok(whole) = <&mut [u8; PAGE_BYTES]>::try_from(&mut *piece) {
            page.fill(whole);
        } else {
            let mut scratch = [0; PAGE_BYTES];
            page.fill(&mut scratch);
            piece.iter_mut().zip(scratch.iter().skip(inside)).for_each(|(to, from)| *to = *from);
        }
        buffer = rest;
        offset = offset.wrapping_add(taken as u64);
    }
}

/// Compares `buffer` with what [`fill`] lays out for the same numbers.
///
/// # Errors
/// [`Mismatch`] with the first byte that differs.
pub fn check(mut buffer: &[u8], file: u32, mut offset: u64, pass: u32) -> Result<(), Mismatch> {
    while !buffer.is_empty() {
        let (number, inside) = place(offset);
        let page = Page::new(file, pass, number);
        let (piece, rest) = buffer.split_at(buffer.len().min(PAGE_BYTES - inside));
        if !<&[u8; PAGE_BYTES]>::try_from(piece).is_ok_and(|whole| page.is(whole)) {
            let mut scratch = [0; PAGE_BYTES];
            page.fill(&mut scratch);
            let mut pairs = piece.iter().zip(scratch.iter().skip(inside));
            if let Some(index) = pairs.position(|(found, expected)| found != expected) {
                let byte = |bytes: &[u8], index| bytes.get(index).copied().unwrap_or_default();
                let (found, expected) = (byte(piece, index), byte(&scratch, inside + index));
                return Err(Mismatch { file, pass, at: offset.wrapping_add(index as u64), expected, found });
            }
        }
        buffer = rest;
        offset = offset.wrapping_add(piece.len() as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    fn filled(length: usize, file: u32, offset: u64, pass: u32) -> Vec<u8> {
        let mut buffer = vec![0; length];
        fill(&mut buffer, file, offset, pass);
        buffer
    }

    #[test]
    fn a_page_begins_with_the_mark_and_its_numbers() {
        let page = filled(PAGE_BYTES, 0xf11e, 5 * PAGE, 0xa5);
        let line = "sealane plaintext page 0000f11e 000000a5 0000000000000005      \n";
        assert_eq!(std::str::from_utf8(&page[..64]), Ok(line));
        assert!(line.as_bytes().starts_with(MARK));
    }

    #[test]
    fn every_flipped_bit_of_a_page_is_noticed_where_it_is() {
        let mut page = filled(PAGE_BYTES, 3, 7 * PAGE, 2);
        assert_eq!(check(&page, 3, 7 * PAGE, 2), Ok(()));
        for bit in 0..8 * PAGE_BYTES {
            page[bit / 8] ^= 1 << (bit % 8);
            let at = 7 * PAGE + bit as u64 / 8;
            assert_eq!(check(&page, 3, 7 * PAGE, 2).map_err(|found| found.at), Err(at), "bit {bit}");
            page[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn swapped_pages_an_old_pass_another_file_and_a_shift_are_noticed() {
        let two = filled(2 * PAGE_BYTES, 1, 0, 4);
        let swapped = [&two[PAGE_BYTES..], &two[..PAGE_BYTES]].concat();
        assert!(check(&swapped, 1, 0, 4).is_err());
        for pass in [0, 3, 5] {
            assert_eq!(check(&two, 1, 0, pass).map_err(|found| (found.pass, found.file)), Err((pass, 1)));
        }
        assert!(check(&two, 0, 0, 4).is_err());
        assert!(check(&two[8..], 1, 0, 4).is_err());
        assert!(check(&two[..2 * PAGE_BYTES - 8], 1, 8, 4).is_err());
        // Words swapped inside of a page, too.
        let mut words = two.clone();
        words[128..144].rotate_left(8);
        assert_eq!(check(&words, 1, 0, 4).map_err(|found| found.at / 16), Err(8));
    }

    #[test]
    fn nearly_every_word_depends_on_file_pass_and_page() {
        let page = filled(PAGE_BYTES, 1, 0, 4);
        for (file, offset, pass) in [(2, 0, 4), (1, PAGE, 4), (1, 0, 5), (1, 0, 3), (0, 0, 4)] {
            let other = filled(PAGE_BYTES, file, offset, pass);
            let pairs = page[LINE_BYTES..].chunks(8).zip(other[LINE_BYTES..].chunks(8));
            assert_eq!(pairs.filter(|(word, other)| word == other).count(), 0, "{file} {offset} {pass}");
        }
    }

    #[test]
    fn every_way_of_cutting_the_pattern_gives_the_same_bytes() {
        let whole = filled(3 * PAGE_BYTES, 9, 2 * PAGE, 1);
        for length in [1, 7, 64, 1000, 4095, 4096, 4097, 9000] {
            for start in [0, 1, 63, 64, 65, 3000, 3288] {
                let piece = filled(length, 9, 2 * PAGE + start as u64, 1);
                assert_eq!(piece, whole[start..start + length], "{length} at {start}");
                assert_eq!(check(&piece, 9, 2 * PAGE + start as u64, 1), Ok(()));
            }
        }
    }
}
