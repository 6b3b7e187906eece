//! The snapshot before: what has not changed since is not read again.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{
    blobs::BlobReader,
    hash::Hash,
    index::{BlobKind, Index},
    node::{Node, NodeKind, StoredTree},
};
use crate::mover::{
    job::{Failure, FailureKind},
    progress::Reporter,
};

/// How an entry stands to the snapshot before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    New,
    /// It was different.
    Changed,
    /// It was the same.
    Unchanged,
}

/// An earlier file or directory.
#[derive(Debug)]
struct Earlier {
    kind: NodeKind,
    modified: Option<Timestamp>,
    changed: Option<Timestamp>,
    size: u64,
    content: Option<Vec<Hash>>,
    subtree: Option<Hash>,
}

/// The earlier directories from the root to where a walk is.
pub struct Previous<'a> {
    index: &'a Index,
    reader: BlobReader<'a>,
    reporter: &'a Reporter,
    levels: Vec<HashMap<String, Earlier>>,
}

impl<'a> Previous<'a> {
    /// Begins at the root of a snapshot; none: there is no snapshot before.
    ///
    /// # Errors
    /// The store refuses.
    pub fn new(
        root: Option<Hash>,
        index: &'a Index,
        reader: BlobReader<'a>,
        reporter: &'a Reporter,
    ) -> Result<Self, Failure> {
        let mut previous = Self { index, reader, reporter, levels: Vec::new() };
        let root = previous.load(root)?;
        previous.levels.push(root);
        Ok(previous)
    }

    /// Goes into a directory. Gives the tree that it had.
    ///
    /// # Errors
    /// The store refuses.
    pub fn enter(&mut self, name: &str) -> Result<Option<Hash>, Failure> {
        let subtree = self.levels.last().and_then(|level| level.get(name)?.subtree);
        let level = self.load(subtree)?;
        self.levels.push(level);
        Ok(subtree)
    }

    /// Leaves the directory.
    pub fn leave(&mut self) {
        self.levels.pop();
    }

    /// Takes the content from the earlier file if it is still the same and its blobs are all there.
    pub fn compare(&mut self, node: &mut Node) -> Change {
        let Some(earlier) = self.levels.last_mut().and_then(|level| level.remove(&node.name)) else {
            return Change::New;
        };
        let Earlier { kind, modified, changed, size, content, subtree: _ } = earlier;
        let same_time = |one: Option<Timestamp>, other: Option<Timestamp>| match (one, other) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        if kind != node.kind || size != node.size || modified != node.mtime || !same_time(changed, node.ctime) {
            return Change::Changed;
        }
        if kind == NodeKind::File {
            let content = content.unwrap_or_default();
            if content.iter().any(|blob| !self.index.rely_on(BlobKind::Data, blob)) {
                return Change::Changed;
            }
            node.content = Some(content);
        }
        Change::Unchanged
    }

    /// A tree that is damaged or missing is as good as none: everything in it is read again.
    fn load(&mut self, tree: Option<Hash>) -> Result<HashMap<String, Earlier>, Failure> {
        let Some(tree) = tree else { return Ok(HashMap::new()) };
        let text = match self.reader.read(BlobKind::Tree, &tree) {
            Ok(text) => text,
            Err(failure) if failure.kind == FailureKind::RepositoryDamaged => {
                self.reporter.warn(format!("everything in a directory is read again: {}", failure.message));
                return Ok(HashMap::new());
            }
            Err(failure) => return Err(failure),
        };
        // One that cannot be understood was written by something newer.
        let Ok(StoredTree { nodes }) = serde_json::from_slice(text) else { return Ok(HashMap::new()) };
        let nodes = nodes.unwrap_or_default().into_iter().map(|node| {
            let earlier = Earlier {
                kind: node.kind,
                modified: node.mtime,
                changed: node.ctime,
                size: node.size,
                content: node.content,
                subtree: node.subtree,
            };
            (node.name.into_owned(), earlier)
        });
        Ok(nodes.collect())
    }
}
