//! What the reading threads of a capture have to do: files that wait to be read, and pieces of large files that wait to
//! be stored. Bounded; whoever has too much does it himself.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
};

use super::{blobs::let_go_if_large, hash::Hash, pipeline::Opening};

/// Batches of files that wait for each reader.
const BATCHES_EACH: usize = 4;
/// Pieces that wait for each reader.
const PIECES_EACH: usize = 2;

/// Files to read, in order.
#[derive(Debug)]
pub struct Batch {
    /// The files.
    pub files: Vec<Opening>,
    /// Where to send what was read: for each file, none if it could not be read.
    pub read: SyncSender<Vec<Option<Content>>>,
}

/// What was read of a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// Its blobs.
    pub blobs: Vec<Hash>,
    /// Its length.
    pub bytes: u64,
}

/// A piece of a large file that has to be stored.
#[derive(Debug)]
pub struct Piece {
    /// Its hash.
    pub blob: Hash,
    /// The piece.
    pub bytes: Vec<u8>,
}

/// Something to do.
#[derive(Debug)]
pub enum Task {
    /// Read files; [`Work::has_read`] must be called afterwards.
    Read(Batch),
    /// Store a piece; its buffer must be given back.
    Store(Piece),
}

/// The work of the readers. Shared by the threads.
#[derive(Debug)]
pub struct Work {
    queue: Mutex<Queue>,
    more: Condvar,
    room: Condvar,
    readers: usize,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    pieces: VecDeque<Piece>,
    buffers: Vec<Vec<u8>>,
    /// Readers that are reading just now: they may have pieces to give away.
    reading: usize,
    /// Readers that are there.
    present: usize,
    closed: bool,
}

impl Work {
    /// For so many readers.
    pub fn new(readers: usize) -> Self {
        let queue = Queue { present: readers, ..Queue::default() };
        Self { queue: Mutex::new(queue), more: Condvar::new(), room: Condvar::new(), readers }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds files to read; waits until there is room. If all readers have gone, the batch is dropped.
    pub fn add(&self, batch: Batch) {
        let mut queue = self.queue();
        while queue.batches.len() >= BATCHES_EACH * self.readers && queue.present > 0 {
            queue = self.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if queue.present > 0 {
            queue.batches.push_back(batch);
            drop(queue);
            self.more.notify_one();
        }
    }

    /// There will be no more files.
    pub fn close(&self) {
        self.queue().closed = true;
        self.more.notify_all();
    }

    /// Something to do; none: all is done.
    pub fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            // Pieces hold much memory, so they come first.
            if let Some(piece) = queue.pieces.pop_front() {
                return Some(Task::Store(piece));
            }
            if let Some(batch) = queue.batches.pop_front() {
                queue.reading += 1;
                drop(queue);
                self.room.notify_one();
                return Some(Task::Read(batch));
            }
            if queue.closed && queue.reading == 0 {
                return None;
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A batch was read.
    pub fn has_read(&self) {
        let mut queue = self.queue();
        queue.reading -= 1;
        let all = queue.closed && queue.reading == 0;
        drop(queue);
        if all {
            self.more.notify_all();
        }
    }

    /// Offers a piece to the others; it comes back if too many wait already.
    pub fn offer(&self, piece: Piece) -> Result<(), Piece> {
        let mut queue = self.queue();
        if queue.pieces.len() >= PIECES_EACH * (self.readers - 1) {
            return Err(piece);
        }
        queue.pieces.push_back(piece);
        drop(queue);
        self.more.notify_one();
        Ok(())
    }

    /// A buffer that was used before, or a new one.
    pub fn buffer(&self) -> Vec<u8> {
        self.queue().buffers.pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        let_go_if_large(&mut buffer);
        self.queue().buffers.push(buffer);
    }

    /// A reader has gone, for whatever reason.
    fn leave(&self) {
        self.queue().present -= 1;
        self.room.notify_all();
    }
}

/// The presence of a reader.
#[derive(Debug)]
pub struct Presence<'a>(pub &'a Work);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn readers_stay_while_one_of_them_may_have_something_to_give() {
        let work = Work::new(2);
        let (read, _kept) = mpsc::sync_channel(1);
        work.add(Batch { files: Vec::new(), read });
        work.close();
        assert!(matches!(work.next(), Some(Task::Read(_))));
        let piece = || Piece { blob: Hash([0; 32]), bytes: vec![1] };
        assert!(work.offer(piece()).is_ok() && work.offer(piece()).is_ok());
        assert!(work.offer(piece()).is_err(), "too many wait");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut stored = 0;
                while let Some(Task::Store(piece)) = work.next() {
                    stored += piece.bytes.len();
                }
                stored
            });
            work.has_read();
            assert_eq!(other.join().unwrap(), 2);
        });
        assert!(work.next().is_none());
    }

    #[test]
    fn nobody_waits_for_readers_that_have_gone() {
        let work = Work::new(1);
        drop(Presence(&work));
        let (read, answer) = mpsc::sync_channel(1);
        work.add(Batch { files: Vec::new(), read });
        assert!(answer.recv().is_err());
    }
}
