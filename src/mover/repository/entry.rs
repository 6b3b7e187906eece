//! What a snapshot says of a file.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::{
    hash::Hash,
    node::{NodeKind, StoredAttribute, StoredNode},
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
pub struct Content(pub(super) Vec<Hash>);

impl Content {
    /// Of how many pieces it consists.
    pub fn pieces(&self) -> usize {
        self.0.len()
    }
}

impl Entry {
    /// From an entry in this directory. A repository may have been written by anyone who has the password, so its names
    /// are not trusted.
    pub(super) fn from_node(directory: &Path, node: StoredNode<'_>) -> Result<Self, Failure> {
        let name = node.file_name();
        let mut parts = Path::new(&name).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
        let path = directory.join(&name);
        if !plain {
            return Err(Failure::new(
                FailureKind::RepositoryDamaged,
                format!("the snapshot has an entry with the unsafe path {}", path.display()),
            ));
        }
        let link_key = (node.kind == NodeKind::File && node.links > 1 && node.device_id != 0 && node.inode != 0)
            .then_some((node.device_id, node.inode));
        let target = node.target();
        let kind = match node.kind {
            NodeKind::Dir => EntryKind::Directory,
            NodeKind::File => {
                EntryKind::File { size_bytes: node.size, content: Content(node.content.unwrap_or_default()) }
            }
            NodeKind::Symlink => EntryKind::Link(target),
            NodeKind::Fifo => EntryKind::Pipe,
            NodeKind::Chardev => EntryKind::CharacterDevice(node.device),
            NodeKind::Dev => EntryKind::BlockDevice(node.device),
            // Neither has anything that could be restored.
            NodeKind::Socket | NodeKind::Irregular => EntryKind::Socket,
        };
        let attribute = |attribute: StoredAttribute| {
            let value = attribute.bytes();
            (attribute.name, value)
        };
        Ok(Self {
            path,
            kind,
            mode: node.mode.map(unix_mode),
            user_id: node.uid,
            group_id: node.gid,
            modified: node.mtime,
            link_key,
            attributes: node.extended_attributes.unwrap_or_default().into_iter().map(attribute).collect(),
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
        for name in ["..", "../x", "/etc/passwd", "", ".", "a/../../b", "a/b", "a/"] {
            let node = StoredNode { name: name.into(), ..StoredNode::default() };
            assert!(Entry::from_node(Path::new("a"), node).is_err(), "{name}");
        }
        let node = StoredNode { name: "b".into(), ..StoredNode::default() };
        assert_eq!(Entry::from_node(Path::new("a"), node).unwrap().path, Path::new("a/b"));
    }
}
