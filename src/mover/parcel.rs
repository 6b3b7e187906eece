//! A file on its way between two hosts, as lines of text: pieces in base64, and at the end how many bytes they were and
//! what they hash to. Whatever carries the lines may cut them off; then the end is missing, or does not fit.

use std::{
    fs::File,
    io::{self, BufRead, Write as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::job::{Event, Failure, FailureKind, Outcome};

/// Bytes of one piece: some tens of thousand, so that a line stays handy.
const PIECE_BYTES: usize = 48 << 10;
/// The longest line that is read.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// Cuts what is written into pieces.
pub struct Sender<F: FnMut(String) -> bool> {
    pass_on: F,
    piece: Vec<u8>,
    bytes: u64,
    hash: Sha256,
}

impl<F: FnMut(String) -> bool> Sender<F> {
    /// `pass_on` takes a piece; false: nobody wants more.
    pub fn new(pass_on: F) -> Self {
        Self { pass_on, piece: Vec::with_capacity(PIECE_BYTES), bytes: 0, hash: Sha256::new() }
    }

    /// The number of bytes, and what they hash to.
    ///
    /// # Errors
    /// Nobody listens any more.
    pub fn finish(mut self) -> io::Result<(u64, String)> {
        self.pass()?;
        Ok((self.bytes, hex::encode(self.hash.finalize())))
    }

    fn pass(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.hash.update(&self.piece);
        self.bytes += self.piece.len() as u64;
        let text = STANDARD.encode(&self.piece);
        self.piece.clear();
        match (self.pass_on)(text) {
            true => Ok(()),
            false => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<F: FnMut(String) -> bool> io::Write for Sender<F> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let taken = buffer.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&buffer[..taken]);
        if self.piece.len() == PIECE_BYTES {
            self.pass()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Puts pieces together again.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: u64,
    hash: Sha256,
}

impl Receiver {
    /// The bytes of a piece.
    ///
    /// # Errors
    /// It is no base64.
    pub fn piece(&mut self, text: &str) -> io::Result<Vec<u8>> {
        let bytes = STANDARD.decode(text).map_err(io::Error::other)?;
        self.hash.update(&bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes)
    }

    /// Looks whether everything arrived.
    ///
    /// # Errors
    /// Something is missing, or is not what was sent.
    pub fn finish(self, bytes: u64, sha256: &str) -> io::Result<u64> {
        let arrived = hex::encode(self.hash.finalize());
        if self.bytes == bytes && arrived == sha256 {
            return Ok(bytes);
        }
        Err(io::Error::other(format!("{bytes} bytes were sent and {} arrived, or not the same ones", self.bytes)))
    }
}

/// Reads a parcel into a new file, which appears under its name only when it is whole.
///
/// # Errors
/// It is cut off, is not what was sent, or the file cannot be written.
pub fn receive(mut input: impl BufRead, file: &Path) -> Result<Outcome, Failure> {
    let partial = file.with_extension("partial");
    let refused = |error: io::Error| {
        // What is there of it is of no use.
        let _ = std::fs::remove_file(&partial);
        Failure::new(FailureKind::DestinationRefused, format!("the file did not arrive: {error}")).hint("send it again")
    };
    let mut output = File::create(&partial).map_err(refused)?;
    let mut receiver = Receiver::default();
    loop {
        let mut line = String::new();
        let read = io::Read::take(&mut input, LONGEST_LINE_BYTES).read_line(&mut line).map_err(refused)?;
        if read == 0 {
            return Err(refused(io::ErrorKind::UnexpectedEof.into()));
        }
        match serde_json::from_str::<Event>(&line).map_err(|error| refused(error.into()))? {
            Event::Data(piece) => {
                let piece = receiver.piece(&piece).map_err(refused)?;
                output.write_all(&piece).map_err(refused)?;
            }
            Event::Done(Outcome::Sent { bytes, sha256 }) => {
                let bytes = receiver.finish(bytes, &sha256).map_err(refused)?;
                output.sync_all().and_then(|()| std::fs::rename(&partial, file)).map_err(refused)?;
                return Ok(Outcome::Sent { bytes, sha256 });
            }
            Event::Done(_) | Event::Failed(_) => return Err(refused(io::ErrorKind::InvalidData.into())),
            Event::Progress { .. } | Event::Warning(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(content: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        let mut sender = Sender::new(|piece| {
            events.push(Event::Data(piece));
            true
        });
        sender.write_all(content).unwrap();
        let (bytes, sha256) = sender.finish().unwrap();
        events.push(Event::Done(Outcome::Sent { bytes, sha256 }));
        events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect()
    }

    #[test]
    fn a_parcel_arrives_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("upload.tar.gz");
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let lines = lines(&content);
        assert!(lines.len() > 10);
        receive(lines.concat().as_bytes(), &file).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), content);
        std::fs::remove_file(&file).unwrap();
        let cut = lines[..lines.len() - 1].concat();
        let lost = [&lines[..3], &lines[4..]].concat().concat();
        let half = lines.concat();
        for bad in [cut.as_str(), lost.as_str(), &half[..half.len() / 2], ""] {
            assert!(receive(bad.as_bytes(), &file).is_err());
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left of it");
        }
    }
}
