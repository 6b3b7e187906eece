//! What a snapshot says of a file, freed from the types of rustic_core.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use rustic_core::{
    DataId,
    repofile::{Node, NodeType},
};

use crate::mover::job::{Failure, FailureKind};

/// A file, directory or other thing in a snapshot.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path below the root of the snapshot, without a leading slash; only plain names.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-user-id, set-group-id and sticky, as `st_mode` has them.
    pub mode: Option<u32>,
    /// Owner.
    pub user_id: Option<u32>,
    /// Group.
    pub group_id: Option<u32>,
    /// When the content was changed last.
    pub modified: Option<Timestamp>,
    /// Device and inode, if there are other hard links to it.
    pub link_key: Option<(u64, u64)>,
    /// Extended attributes.
    pub attributes: Vec<(String, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Length of its content.
        size_bytes: u64,
        /// Where its content is.
        content: Content,
    },
    /// A symbolic link.
    Link(PathBuf),
    /// A named pipe.
    Pipe,
    /// A character device with its number.
    CharacterDevice(u64),
    /// A block device with its number.
    BlockDevice(u64),
    /// A socket; it is not restored, its program makes it.
    Socket,
}

/// The blobs of a file, in order.
#[derive(Debug, Clone)]
pub struct Content(pub(super) Vec<DataId>);

impl Entry {
    /// From a node. A repository may have been written by anyone who has the password, so its names are not trusted.
    pub(super) fn from_node(path: PathBuf, node: Node) -> Result<Self, Failure> {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || path.as_os_str().is_empty() {
            return Err(Failure::new(
                FailureKind::RepositoryDamaged,
                format!("the snapshot has an entry with the unsafe path {}", path.display()),
            ));
        }
        let link_key = (node.is_file() && node.meta.links > 1 && node.meta.device_id != 0 && node.meta.inode != 0)
            .then_some((node.meta.device_id, node.meta.inode));
        let kind = match node.node_type {
            NodeType::Dir => EntryKind::Directory,
            NodeType::File => {
                EntryKind::File { size_bytes: node.meta.size, content: Content(node.content.unwrap_or_default()) }
            }
            NodeType::Symlink { linktarget, linktarget_raw } => EntryKind::Link(match linktarget_raw {
                Some(raw) => Path::new(OsStr::from_bytes(&raw)).to_owned(),
                None => PathBuf::from(linktarget),
            }),
            NodeType::Fifo => EntryKind::Pipe,
            NodeType::Chardev { device } => EntryKind::CharacterDevice(device),
            NodeType::Dev { device } => EntryKind::BlockDevice(device),
            NodeType::Socket => EntryKind::Socket,
        };
        let attributes = node
            .meta
            .extended_attributes
            .into_iter()
            .map(|attribute| (attribute.name, attribute.value.unwrap_or_default()))
            .collect();
        Ok(Self {
            path,
            kind,
            mode: node.meta.mode.map(unix_mode),
            user_id: node.meta.uid,
            group_id: node.meta.gid,
            modified: node.meta.mtime,
            link_key,
            attributes,
        })
    }

    /// Bytes of its content.
    pub fn size_bytes(&self) -> u64 {
        match &self.kind {
            EntryKind::File { size_bytes, .. } => *size_bytes,
            EntryKind::Directory
            | EntryKind::Link(_)
            | EntryKind::Pipe
            | EntryKind::CharacterDevice(_)
            | EntryKind::BlockDevice(_)
            | EntryKind::Socket => 0,
        }
    }
}

/// Bits of `st_mode` and of Go's `fs.FileMode`, in which restic stores them.
const MODE_BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
/// Types of `st_mode` and of Go's `fs.FileMode`.
const TYPE_BITS: [(u32, u32); 6] = [
    (0o040_000, 1 << 31),
    (0o120_000, 1 << 27),
    (0o060_000, 1 << 26),
    (0o020_000, 1 << 26 | 1 << 21),
    (0o010_000, 1 << 25),
    (0o140_000, 1 << 24),
];

/// `st_mode` as Go and so restic write it.
pub(super) fn go_mode(unix: u32) -> u32 {
    let special = MODE_BITS.iter().filter(|(bit, _)| unix & bit != 0).map(|(_, go)| go);
    let kind = TYPE_BITS.iter().filter(|(bits, _)| unix & 0o170_000 == *bits).map(|(_, go)| go);
    special.chain(kind).fold(unix & 0o777, |mode, bits| mode | bits)
}

/// The permission bits of `st_mode` from what Go writes.
fn unix_mode(go: u32) -> u32 {
    MODE_BITS.iter().filter(|(_, bit)| go & bit != 0).fold(go & 0o777, |mode, (bits, _)| mode | bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_come_back() {
        for mode in [0o100_644, 0o104_755, 0o102_750, 0o041_777, 0o120_777, 0o060_660, 0o010_600] {
            assert_eq!(unix_mode(go_mode(mode)), mode & 0o7777, "{mode:o}");
        }
        assert_eq!(go_mode(0o040_755), 1 << 31 | 0o755);
    }

    #[test]
    fn unsafe_names_are_refused() {
        for path in ["../x", "/etc/passwd", "", "a/../../b"] {
            assert!(Entry::from_node(path.into(), Node::default()).is_err(), "{path}");
        }
        assert!(Entry::from_node("a/b".into(), Node::default()).is_ok());
    }
}
