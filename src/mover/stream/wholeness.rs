//! Whether a stream is whole: seen from its first and last bytes, in constant memory.
//!
//! Pure.

use std::collections::VecDeque;

use crate::mover::job::StreamCheck;

/// So much of the end of a stream is kept to look for its trailer.
const TAIL_BYTES: usize = 4096;

/// What was seen of a stream so far.
#[derive(Debug)]
pub struct Wholeness {
    check: StreamCheck,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    tail_bytes: usize,
    length: u64,
}

impl Wholeness {
    /// Nothing seen yet.
    pub fn new(check: StreamCheck) -> Self {
        let tail_bytes = match &check {
            StreamCheck::NotEmpty | StreamCheck::StartsWith(_) => 0,
            StreamCheck::LastLineStartsWith(text) | StreamCheck::EndsWith(text) => TAIL_BYTES + text.len(),
        };
        Self { check, head: Vec::new(), tail: VecDeque::new(), tail_bytes, length: 0 }
    }

    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if let StreamCheck::StartsWith(magic) = &self.check {
            let missing = magic.len().saturating_sub(self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..missing]);
        }
        if self.tail_bytes > 0 {
            let new = &bytes[bytes.len().saturating_sub(self.tail_bytes)..];
            let surplus = (self.tail.len() + new.len()).saturating_sub(self.tail_bytes);
            self.tail.drain(..surplus);
            self.tail.extend(new);
        }
    }

    /// Bytes seen.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// At the end: whether the stream is whole.
    ///
    /// # Errors
    /// What is wrong, to follow the words "its stream".
    pub fn verdict(&mut self) -> Result<(), String> {
        if self.length == 0 {
            return Err("is empty".to_owned());
        }
        let tail = self.tail.make_contiguous().trim_ascii_end();
        match &self.check {
            StreamCheck::NotEmpty => Ok(()),
            StreamCheck::StartsWith(magic) if self.head.starts_with(magic) => Ok(()),
            StreamCheck::StartsWith(magic) => {
                Err(format!("does not begin with `{}`", String::from_utf8_lossy(magic).escape_debug()))
            }
            StreamCheck::LastLineStartsWith(text) => {
                let line = tail.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
                if line.starts_with(text.as_bytes()) {
                    Ok(())
                } else {
                    Err(format!("is cut off: its last line does not begin with `{text}`"))
                }
            }
            StreamCheck::EndsWith(text) if tail.ends_with(text.trim_ascii_end().as_bytes()) => Ok(()),
            StreamCheck::EndsWith(text) => Err(format!("is cut off: it does not end with `{text}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_whole_or_not() {
        let trailer = || StreamCheck::LastLineStartsWith("-- Dump completed".to_owned());
        let long = format!("{}\n-- Dump completed on 2026-11-21 11:40:00\n\n", "x".repeat(20_000));
        for (check, stream, whole) in [
            (StreamCheck::NotEmpty, "x", true),
            (StreamCheck::NotEmpty, "", false),
            (StreamCheck::StartsWith(b"PGDMP".to_vec()), "PGDMP\u{1}", true),
            (StreamCheck::StartsWith(b"PGDMP".to_vec()), "PGDM", false),
            (StreamCheck::StartsWith(b"PGDMP".to_vec()), "pg_dump: help", false),
            (trailer(), long.as_str(), true),
            (trailer(), &long[..long.len() - 43], false),
            (trailer(), "-- Dump completed", true),
            (trailer(), "-- Dump completed\nINSERT", false),
            (trailer(), "", false),
            (StreamCheck::EndsWith("END\n".to_owned()), "a END \n", true),
            (StreamCheck::EndsWith("END".to_owned()), "a EN", false),
        ] {
            for step in [1, 7, 4096, 100_000] {
                let mut wholeness = Wholeness::new(check.clone());
                stream.as_bytes().chunks(step).for_each(|bytes| wholeness.feed(bytes));
                assert_eq!(wholeness.verdict().is_ok(), whole, "{check:?} {} in steps of {step}", stream.len());
                assert_eq!(wholeness.length(), stream.len() as u64);
            }
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_stream() {
        let mut wholeness = Wholeness::new(StreamCheck::EndsWith("END".to_owned()));
        for _ in 0..1000 {
            wholeness.feed(&[b'x'; 10_000]);
        }
        assert!(wholeness.tail.len() <= TAIL_BYTES + 3);
    }
}
