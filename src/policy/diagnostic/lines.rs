//! Bytes of a text to lines and columns.

/// Where the lines of a text begin.
#[derive(Debug, Clone, Default)]
pub struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    /// Finds the lines of a text.
    pub fn new(text: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
        Self { starts }
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn position(&self, text: &str, byte: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= byte).max(1);
        let start = self.starts[line - 1];
        let column = text.get(start..byte.min(text.len())).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }
}

/// The bytes of the line, without its end, that holds a byte.
pub fn line_around(text: &str, byte: usize) -> std::ops::Range<usize> {
    let byte = byte.min(text.len());
    let start = text.as_bytes()[..byte].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = text.as_bytes()[byte..].iter().position(|byte| *byte == b'\n').map_or(text.len(), |at| byte + at);
    let end = if end > start && text.as_bytes()[end - 1] == b'\r' { end - 1 } else { end };
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let text = "a\nß: x\n";
        let lines = Lines::new(text);
        assert_eq!(lines.position(text, 0), (1, 1));
        assert_eq!(lines.position(text, 2), (2, 1));
        assert_eq!(lines.position(text, 6), (2, 4));
        assert_eq!(lines.position(text, text.len()), (3, 1));
        assert_eq!(&text[line_around(text, 5)], "ß: x");
        assert_eq!(line_around("", 0), 0..0);
    }
}
