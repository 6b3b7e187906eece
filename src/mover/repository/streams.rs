//! Streams as rustic_core captures them: one file for each, all in the root of the snapshot.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use jiff::Timestamp;
use rustic_core::{
    ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
    repofile::{Metadata, Node, NodeType},
};

use super::backend::FirstFailure;
use crate::mover::{
    job::{Failure, Stream},
    stream::StreamReader,
};

/// The lengths of the streams that ended well, by file name.
pub type Lengths = Arc<Mutex<BTreeMap<String, u64>>>;

/// The streams of a source.
#[derive(Debug)]
pub struct Streams {
    streams: Arc<Vec<Stream>>,
    time: Timestamp,
    failure: FirstFailure,
    lengths: Lengths,
    turn: Arc<Turn>,
}

impl Streams {
    /// The streams, sorted by their file names. Any failure of theirs is recorded in `failure`.
    pub fn new(mut streams: Vec<Stream>, time: Timestamp, failure: FirstFailure) -> Self {
        streams.sort_by(|one, other| one.file_name.cmp(&other.file_name));
        Self { streams: Arc::new(streams), time, failure, lengths: Lengths::default(), turn: Arc::default() }
    }

    /// The lengths, complete once all streams were read.
    pub fn lengths(&self) -> BTreeMap<String, u64> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ReadSource for Streams {
    type Open = OpenStream;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Entries {
        Entries {
            streams: self.streams.clone(),
            next: 0,
            time: self.time,
            failure: self.failure.clone(),
            lengths: self.lengths.clone(),
            turn: self.turn.clone(),
        }
    }
}

/// The streams, one after the other.
#[derive(Debug)]
pub struct Entries {
    streams: Arc<Vec<Stream>>,
    next: usize,
    time: Timestamp,
    failure: FirstFailure,
    lengths: Lengths,
    turn: Arc<Turn>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<OpenStream>>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let name = &self.streams.get(index)?.file_name;
        self.next += 1;
        let time = Some(self.time);
        let meta =
            Metadata { mode: Some(0o600), mtime: time, atime: time, ctime: time, links: 1, ..Metadata::default() };
        let open = OpenStream {
            streams: self.streams.clone(),
            index,
            failure: self.failure.clone(),
            lengths: self.lengths.clone(),
            turn: self.turn.clone(),
        };
        let path = std::path::Path::new("/").join(name);
        let node = Node::new_node(name.as_ref(), NodeType::File, meta);
        Some(Ok(ReadSourceEntry { path, node, open: Some(open) }))
    }
}

/// A stream whose program is started when its turn comes.
#[derive(Debug)]
pub struct OpenStream {
    streams: Arc<Vec<Stream>>,
    index: usize,
    failure: FirstFailure,
    lengths: Lengths,
    turn: Arc<Turn>,
}

impl ReadSourceOpen for OpenStream {
    type Reader = TakingTurns;

    fn open(self) -> RusticResult<TakingTurns> {
        let Self { streams, index, failure, lengths, turn } = self;
        let hold = Turn::take(turn);
        // One that failed before makes all others useless.
        if let Some(failure) = failure.get() {
            return Err(told(failure));
        }
        let stream = &streams[index];
        let name = stream.file_name.clone();
        let recorded = failure.clone();
        let ended = move |result: Result<u64, Failure>| match result {
            Ok(length) => {
                lengths.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), length);
            }
            Err(failure) => recorded.record(failure),
        };
        match StreamReader::start(stream, Box::new(ended) as Ended) {
            Ok(reader) => Ok(TakingTurns { reader, _hold: hold }),
            Err(error) => {
                failure.record(error.clone());
                Err(told(error))
            }
        }
    }
}

type Ended = Box<dyn FnMut(Result<u64, Failure>) + Send>;

/// A stream that is read while it holds the turn.
pub struct TakingTurns {
    reader: StreamReader<Ended>,
    _hold: Hold,
}

impl Read for TakingTurns {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// rustic_core opens as many files at once as there are processors; a database server should be asked for one dump at
/// a time.
#[derive(Debug, Default)]
struct Turn {
    taken: Mutex<bool>,
    free: Condvar,
}

impl Turn {
    fn take(turn: Arc<Self>) -> Hold {
        let mut taken = turn.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = turn.free.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        drop(taken);
        Hold(turn)
    }
}

/// Gives the turn back when it is dropped.
#[derive(Debug)]
struct Hold(Arc<Turn>);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.0.free.notify_one();
    }
}

fn told(failure: Failure) -> Box<RusticError> {
    RusticError::new(ErrorKind::InputOutput, failure.message)
}
