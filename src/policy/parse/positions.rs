//! From the parser's positions, which count characters, to bytes.

use std::ops::Range;

use saphyr_parser::Span;

/// Turns the parser's positions, which count characters, into bytes.
pub(super) struct Positions {
    /// For each character its byte; empty where all characters are ASCII.
    bytes: Vec<u32>,
    length: usize,
    /// The byte of the file at which the text begins.
    pub base: usize,
}

impl Positions {
    pub fn new(text: &str, base: usize) -> Self {
        let bytes = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices().map(|(byte, _)| u32::try_from(byte).unwrap_or(u32::MAX)).collect()
        };
        Self { bytes, length: text.len(), base }
    }

    pub fn byte(&self, character: usize) -> usize {
        let byte = if self.bytes.is_empty() {
            character.min(self.length)
        } else {
            self.bytes.get(character).map_or(self.length, |byte| *byte as usize)
        };
        self.base + byte
    }

    pub fn range(&self, span: Span) -> Range<usize> {
        let (start, end) = (self.byte(span.start.index()), self.byte(span.end.index()));
        start..end.max(start)
    }
}
