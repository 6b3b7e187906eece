//! Builds the trees of a snapshot from what was found and read, each directory after all that is in it.

use std::sync::mpsc::Receiver;

use super::{
    blobs::BlobWriter,
    hash::Hash,
    index::BlobKind,
    node::Node,
    pipeline::{Found, Step},
    previous::Change,
};
use crate::mover::job::{Failure, FailureKind};

/// What a snapshot says of itself.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Files, links and the like that were not there before.
    pub files_new: u64,
    /// Those that were different.
    pub files_changed: u64,
    /// Those that were the same.
    pub files_unchanged: u64,
    /// Bytes that a restore writes.
    pub bytes: u64,
    /// Directories that were not there before.
    pub directories_new: u64,
    /// Those that were different.
    pub directories_changed: u64,
    /// Those that were the same.
    pub directories_unchanged: u64,
    /// Bytes of all trees.
    pub tree_bytes: u64,
}

/// Builds trees until there are no more steps. Gives the root.
///
/// # Errors
/// The store refuses, or a reader ended early.
pub fn build(
    steps: &Receiver<Step>,
    before: Option<Hash>,
    mut blobs: BlobWriter<'_>,
) -> Result<(Hash, Counts), Failure> {
    let mut counts = Counts::default();
    let mut open: Vec<(Node, Option<Hash>, Directory)> = Vec::new();
    let mut here = Directory::new();
    for Step { found, read } in steps {
        let early = || Failure::new(FailureKind::Other, "a reader of files ended early");
        let mut contents = match read {
            Some(read) => read.recv().map_err(|_| early())?.into_iter(),
            None => Vec::new().into_iter(),
        };
        for found in found {
            match found {
                Found::Enter { node, before } => {
                    open.push((node, before, std::mem::replace(&mut here, Directory::new())));
                }
                Found::Leave => {
                    let Some((mut node, before, above)) = open.pop() else { return Err(early()) };
                    node.subtree = Some(here.finish(before, &mut counts, &mut blobs)?);
                    here = above;
                    here.add(&node)?;
                }
                Found::Entry { node, change } => {
                    counts.file(change, node.size);
                    here.add(&node)?;
                }
                Found::ToRead { mut node, change } => {
                    // One that could not be read is not in the snapshot.
                    let Some(content) = contents.next().ok_or_else(early)? else { continue };
                    node.size = content.bytes;
                    node.content = Some(content.blobs);
                    counts.file(change, content.bytes);
                    here.add(&node)?;
                }
            }
        }
    }
    if !open.is_empty() {
        return Err(Failure::new(FailureKind::Other, "the walk ended inside a directory"));
    }
    let root = here.finish(before, &mut counts, &mut blobs)?;
    Ok((root, counts))
}

impl Counts {
    /// Files, links and the like in the snapshot.
    pub fn files(&self) -> u64 {
        self.files_new + self.files_changed + self.files_unchanged
    }

    /// Directories in the snapshot, the root among them.
    pub fn directories(&self) -> u64 {
        self.directories_new + self.directories_changed + self.directories_unchanged
    }

    fn file(&mut self, change: Change, bytes: u64) {
        *match change {
            Change::New => &mut self.files_new,
            Change::Changed => &mut self.files_changed,
            Change::Unchanged => &mut self.files_unchanged,
        } += 1;
        self.bytes += bytes;
    }
}

/// The text of a tree under way.
#[derive(Debug)]
struct Directory {
    text: Vec<u8>,
    is_empty: bool,
}

impl Directory {
    fn new() -> Self {
        Self { text: b"{\"nodes\":[".to_vec(), is_empty: true }
    }

    fn add(&mut self, node: &Node) -> Result<(), Failure> {
        if !self.is_empty {
            self.text.push(b',');
        }
        self.is_empty = false;
        serde_json::to_writer(&mut self.text, node).map_err(|error| {
            Failure::new(FailureKind::Other, format!("cannot write the entry `{}`: {error}", node.name))
        })
    }

    fn finish(
        mut self,
        before: Option<Hash>,
        counts: &mut Counts,
        blobs: &mut BlobWriter<'_>,
    ) -> Result<Hash, Failure> {
        // restic ends a tree with a new line.
        self.text.extend(b"]}\n");
        let tree = Hash::of(&self.text);
        counts.tree_bytes += self.text.len() as u64;
        *match before {
            None => &mut counts.directories_new,
            Some(before) if before == tree => &mut counts.directories_unchanged,
            Some(_) => &mut counts.directories_changed,
        } += 1;
        if blobs.claim(BlobKind::Tree, tree) {
            blobs.write(BlobKind::Tree, tree, &self.text)?;
        }
        Ok(tree)
    }
}
