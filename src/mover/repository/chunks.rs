//! Cuts content into chunks at places that the content itself decides, exactly where restic cuts.
//!
//! A chunk ends where the Rabin fingerprint (Michael O. Rabin, "Fingerprinting by Random Polynomials", 1981) of its last
//! 64 bytes ends in enough zero bits, or at the maximum length. The fingerprint of a place depends on nothing but those
//! 64 bytes, so several stretches are searched side by side: the processor else waits for one table look-up after the
//! other. Pure but for its reader.

use std::{
    io::{self, ErrorKind, Read},
    sync::Arc,
};

/// Bytes that a fingerprint covers.
const WINDOW: usize = 64;
/// Stretches that are searched side by side.
const LANES: usize = 4;
/// Length of a stretch, where so much is left.
const STRETCH: usize = 4096;
/// What is read at once. Beyond the minimum length of a chunk, so much may have to be moved to the next one.
const READ_BYTES: usize = 256 << 10;

/// How a repository wants content cut. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<Tables>);

#[derive(Debug)]
struct Tables {
    minimum: usize,
    maximum: usize,
    mask: u64,
    shift: u32,
    /// What a byte that leaves the window takes from the fingerprint.
    leaves: [u64; 256],
    /// What the bits above the degree of the polynomial are worth below it.
    reduces: [u64; 256],
}

/// Why content cannot be cut as a repository wants.
#[derive(Debug, thiserror::Error)]
pub enum CutterError {
    /// The polynomial has not degree 53, or the lengths contradict each other.
    #[error(
        "the repository asks for chunks that cannot be made (polynomial {polynomial:x}, {minimum} to {maximum} bytes, {average} on average)"
    )]
    Impossible {
        /// The polynomial.
        polynomial: u64,
        /// Shortest chunk but the last.
        minimum: usize,
        /// Average length.
        average: usize,
        /// Longest chunk.
        maximum: usize,
    },
}

impl Cutter {
    /// Cuts by this polynomial.
    ///
    /// # Errors
    /// The numbers make no sense.
    pub fn rabin(polynomial: u64, minimum: usize, average: usize, maximum: usize) -> Result<Self, CutterError> {
        let degree = 63_u32.saturating_sub(polynomial.leading_zeros());
        if !(9..=55).contains(&degree)
            || !average.is_power_of_two()
            || minimum < WINDOW
            || !(minimum..=maximum).contains(&average)
        {
            return Err(CutterError::Impossible { polynomial, minimum, average, maximum });
        }
        let mut leaves = [0; 256];
        let mut reduces = [0; 256];
        for (byte, (leaves, reduces)) in (0_u64..).zip(leaves.iter_mut().zip(&mut reduces)) {
            let mut fingerprint = modulo(byte, polynomial);
            for _ in 1..WINDOW {
                fingerprint = modulo(fingerprint << 8, polynomial);
            }
            *leaves = fingerprint;
            let high = byte << degree;
            *reduces = modulo(high, polynomial) | high;
        }
        let mask = average as u64 - 1;
        Ok(Self(Arc::new(Tables { minimum, maximum, mask, shift: degree - 8, leaves, reduces })))
    }

    /// Cuts every so many bytes.
    pub fn fixed(length: usize) -> Self {
        let (leaves, reduces) = ([0; 256], [0; 256]);
        let length = length.max(WINDOW);
        Self(Arc::new(Tables { minimum: length, maximum: length, mask: 0, shift: 0, leaves, reduces }))
    }

    /// Content of at most this length is one chunk.
    pub fn minimum(&self) -> usize {
        self.0.minimum
    }

    /// Cuts what a reader gives.
    pub fn chunks<R: Read>(&self, reader: R) -> Chunks<R> {
        Chunks { cutter: self.clone(), reader, rest: Vec::new(), ended: false }
    }

    /// The first place at which content may be cut, not before `from` and not after its end. `from` is not less than
    /// the minimum.
    fn place(&self, content: &[u8], from: usize) -> Option<usize> {
        let tables = &*self.0;
        let mut from = from;
        loop {
            let stretch = (content.len().saturating_sub(from) / LANES).min(STRETCH);
            if stretch < WINDOW || tables.any_place(content, from, stretch) {
                break;
            }
            from += LANES * stretch;
        }
        // A short rest, or the stretches in which there is a place: one byte after the other.
        let window = content.get(from.checked_sub(WINDOW)?..from)?;
        let mut fingerprint = window.iter().fold(0, |fingerprint, byte| tables.add(fingerprint, *byte));
        let leaving = content.get(from - WINDOW..)?;
        for (place, (leaves, enters)) in (from..).zip(leaving.iter().zip(content.get(from..)?)) {
            if fingerprint & tables.mask == 0 {
                return Some(place);
            }
            fingerprint = tables.slide(fingerprint, *leaves, *enters);
        }
        (fingerprint & tables.mask == 0).then_some(content.len())
    }
}

impl Tables {
    #[inline(always)]
    fn add(&self, fingerprint: u64, byte: u8) -> u64 {
        let high = usize::from((fingerprint >> self.shift) as u8);
        (fingerprint << 8 | u64::from(byte)) ^ self.reduces[high]
    }

    #[inline(always)]
    fn slide(&self, fingerprint: u64, leaves: u8, enters: u8) -> u64 {
        self.add(fingerprint ^ self.leaves[usize::from(leaves)], enters)
    }

    /// Whether there is a place in stretches of this length from here on, the end left out. They must be there, and a
    /// window before them.
    fn any_place(&self, content: &[u8], from: usize, stretch: usize) -> bool {
        let start = |lane: usize| from + lane * stretch;
        let window = |lane: usize| {
            let bytes = &content[start(lane) - WINDOW..start(lane)];
            bytes.iter().fold(0, |fingerprint, byte| self.add(fingerprint, *byte))
        };
        let leaving = |lane: usize| &content[start(lane) - WINDOW..][..stretch];
        let entering = |lane: usize| &content[start(lane)..][..stretch];
        let mut prints: [u64; LANES] = std::array::from_fn(window);
        let leaves: [&[u8]; LANES] = std::array::from_fn(leaving);
        let enters: [&[u8]; LANES] = std::array::from_fn(entering);
        for index in 0..stretch {
            let mut found = false;
            for lane in 0..LANES {
                found |= prints[lane] & self.mask == 0;
                prints[lane] = self.slide(prints[lane], leaves[lane][index], enters[lane][index]);
            }
            if found {
                return true;
            }
        }
        false
    }
}

/// The remainder of a division of polynomials over the field of two elements.
fn modulo(dividend: u64, divisor: u64) -> u64 {
    let mut rest = dividend;
    while rest.leading_zeros() <= divisor.leading_zeros() {
        rest ^= divisor << (divisor.leading_zeros() - rest.leading_zeros());
    }
    rest
}

/// The chunks of what a reader gives.
#[derive(Debug)]
pub struct Chunks<R> {
    cutter: Cutter,
    reader: R,
    /// Was read already and belongs to the next chunk.
    rest: Vec<u8>,
    ended: bool,
}

impl<R: Read> Chunks<R> {
    /// Puts the next chunk into `chunk`, whatever that held before; false at the end.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        chunk.append(&mut self.rest);
        let Tables { minimum, maximum, .. } = *self.cutter.0;
        // The places before this one have been looked at.
        let mut from = minimum;
        loop {
            if chunk.len() >= from {
                let end = chunk.len().min(maximum);
                let cut = self.cutter.place(&chunk[..end], from).or((end == maximum).then_some(maximum));
                if let Some(cut) = cut {
                    self.rest.extend_from_slice(&chunk[cut..]);
                    chunk.truncate(cut);
                    return Ok(true);
                }
                from = end + 1;
            }
            if self.ended {
                return Ok(!chunk.is_empty());
            }
            let wanted = minimum.saturating_sub(chunk.len()).max(READ_BYTES);
            self.ended = !self.fill(chunk, wanted)?;
        }
    }

    /// Reads so many bytes more; false if the reader ended before.
    fn fill(&mut self, chunk: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
        let mut filled = chunk.len();
        let end = filled + wanted;
        chunk.resize(end, 0);
        while filled < end {
            match self.reader.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        chunk.truncate(filled);
        Ok(filled == end)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const POLYNOMIAL: u64 = 0x003D_A335_8B4D_C173;

    fn random(length: usize) -> Vec<u8> {
        let mut content = vec![0; length];
        StdRng::seed_from_u64(23).fill_bytes(&mut content);
        content
    }

    fn lengths(cutter: &Cutter, content: impl Read) -> Vec<usize> {
        let mut chunks = cutter.chunks(content);
        let mut chunk = Vec::new();
        let mut lengths = Vec::new();
        while chunks.next(&mut chunk).unwrap() {
            lengths.push(chunk.len());
        }
        lengths
    }

    /// As the format's description says it, one place after the other and each from nothing.
    fn slowly(content: &[u8], minimum: usize, average: usize, maximum: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut start = 0;
        while start < content.len() {
            let left = content.len() - start;
            let is_place = |length: &usize| {
                let window = &content[start + length - WINDOW..start + length];
                let print = window.iter().fold(0, |print, byte| modulo(print << 8 | u64::from(*byte), POLYNOMIAL));
                print & (average as u64 - 1) == 0
            };
            let length = (minimum..=left.min(maximum)).find(is_place).unwrap_or(left.min(maximum));
            lengths.push(length);
            start += length;
        }
        lengths
    }

    #[test]
    fn content_is_cut_where_its_last_bytes_say() {
        let content = random(400_000);
        for (minimum, average, maximum) in [(64, 128, 300), (2048, 4096, 20_000), (20_000, 65_536, 100_000)] {
            let cutter = Cutter::rabin(POLYNOMIAL, minimum, average, maximum).unwrap();
            assert_eq!(lengths(&cutter, &content[..]), slowly(&content, minimum, average, maximum));
        }
    }

    #[test]
    fn short_reads_and_odd_contents_make_no_difference() {
        struct Drops<'a>(&'a [u8]);
        impl Read for Drops<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(1 + self.0.len() % 977);
                self.0.read(&mut buffer[..length])
            }
        }
        let cutter = Cutter::rabin(POLYNOMIAL, 512 << 10, 1 << 20, 8 << 20).unwrap();
        let content = random(5_000_000);
        assert_eq!(lengths(&cutter, Drops(&content)), lengths(&cutter, &content[..]));
        assert_eq!(lengths(&cutter, &content[..]).iter().sum::<usize>(), content.len());
        assert!(lengths(&cutter, &[][..]).is_empty());
        assert_eq!(lengths(&cutter, &[1][..]), [1]);
        // The fingerprint of zeros is zero.
        assert_eq!(lengths(&cutter, &[0; (1 << 20) + 1][..]), [512 << 10, 512 << 10, 1]);
        assert_eq!(lengths(&Cutter::fixed(1000), &content[..2500]), [1000, 1000, 500]);
    }

    #[test]
    fn impossible_wishes_are_refused() {
        for (polynomial, minimum, average, maximum) in
            [(0, 64, 128, 256), (POLYNOMIAL, 63, 128, 256), (POLYNOMIAL, 64, 100, 256), (POLYNOMIAL, 64, 512, 256)]
        {
            assert!(Cutter::rabin(polynomial, minimum, average, maximum).is_err());
        }
    }
}
