//! Streams as a capture reads them: one file for each, all in the root of the snapshot, one program after the other.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    backend::FirstFailure,
    node::{self, Node},
    pipeline::{Opening, Sighted},
};
use crate::mover::{
    job::{Failure, Stream},
    stream::StreamReader,
};

/// The streams, sorted by their file names. Any failure of theirs is recorded in `failure`.
pub fn sight(mut streams: Vec<Stream>, time: Timestamp, failure: &FirstFailure) -> Vec<Sighted> {
    streams.sort_by(|one, other| one.file_name.cmp(&other.file_name));
    let streams = Arc::new(streams);
    (0..streams.len())
        .map(|index| {
            let name = &streams[index].file_name;
            let time = Some(time);
            let node = Node {
                name: node::name(name.as_ref()),
                mode: Some(0o600),
                mtime: time,
                atime: time,
                ctime: time,
                links: 1,
                ..Node::default()
            };
            let open = OpenStream { streams: streams.clone(), index, failure: failure.clone() };
            Sighted { path: Path::new("/").join(name), node, opening: Some(Opening::Stream(open)) }
        })
        .collect()
}

/// A stream whose program is started when its turn comes.
#[derive(Debug)]
pub struct OpenStream {
    streams: Arc<Vec<Stream>>,
    index: usize,
    failure: FirstFailure,
}

impl OpenStream {
    /// Starts the program.
    ///
    /// # Errors
    /// It is not there, or may not be executed; that was recorded.
    pub fn open(self) -> io::Result<impl Read> {
        let recorded = self.failure.clone();
        let ended = move |result: Result<u64, Failure>| {
            if let Err(failure) = result {
                recorded.record(failure);
            }
        };
        StreamReader::start(&self.streams[self.index], ended).map_err(|error| {
            self.failure.record(error.clone());
            io::Error::other(error.message)
        })
    }
}
