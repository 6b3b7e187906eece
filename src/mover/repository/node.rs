//! The entries of a directory as a tree of the repository holds them: JSON, the fields in restic's order.
//!
//! Equal directories must give equal bytes, today and with the next version, else every unchanged tree is stored again.

use std::{borrow::Cow, ffi::OsStr, os::unix::ffi::OsStrExt as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::{Timestamp, tz::Offset};
use rustic_core::repofile::{Metadata, NodeType};
use serde::{Deserialize, Serialize, Serializer};

use super::hash::Hash;

/// What an entry is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Dev,
    /// A character device.
    Chardev,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// What a newer restic may write.
    #[serde(other)]
    Irregular,
}

/// An entry of a directory, to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Escaped as [`name`] does it.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: NodeKind,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linktarget: Option<String>,
    /// The same in Base64, if it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linktarget_raw: Option<String>,
    /// The number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Type and permissions as Go writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// When the content was changed last.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "with_offset")]
    pub mtime: Option<Timestamp>,
    /// When it was read last.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "with_offset")]
    pub atime: Option<Timestamp>,
    /// When content or metadata were changed last.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "with_offset")]
    pub ctime: Option<Timestamp>,
    /// Owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Name of the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Number of the file in its file system.
    #[serde(skip_serializing_if = "is_zero")]
    pub inode: u64,
    /// The file system, where it matters.
    #[serde(skip_serializing_if = "is_zero")]
    pub device_id: u64,
    /// Length of the content.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Number of its names.
    #[serde(skip_serializing_if = "is_zero")]
    pub links: u64,
    /// Extended attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extended_attributes: Vec<Attribute>,
    /// The blobs of a file.
    pub content: Option<Vec<Hash>>,
    /// The tree of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subtree: Option<Hash>,
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value in Base64.
    pub value: String,
}

impl Attribute {
    /// From what the file system says.
    pub fn new(name: &OsStr, value: &[u8]) -> Self {
        Self { name: name.to_string_lossy().into_owned(), value: BASE64_STANDARD.encode(value) }
    }
}

/// What is read of the entries of an earlier snapshot: enough to see whether a file was changed.
#[derive(Debug, Deserialize)]
pub struct EarlierNode<'a> {
    /// Escaped.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// What it was.
    #[serde(rename = "type")]
    pub kind: NodeKind,
    /// When its content had been changed last.
    #[serde(borrow, default)]
    pub mtime: Option<Cow<'a, str>>,
    /// When content or metadata had been changed last.
    #[serde(borrow, default)]
    pub ctime: Option<Cow<'a, str>>,
    /// Length of the content.
    #[serde(default)]
    pub size: u64,
    /// The blobs of a file.
    #[serde(default)]
    pub content: Option<Vec<Hash>>,
    /// The tree of a directory.
    #[serde(default)]
    pub subtree: Option<Hash>,
}

/// The entries of an earlier directory.
#[derive(Debug, Deserialize)]
pub struct EarlierTree<'a> {
    /// Sorted by name; restic writes `null` for none.
    #[serde(borrow, default)]
    pub nodes: Option<Vec<EarlierNode<'a>>>,
}

/// The name of a file as trees have it: Go's quoting of strings, without the quotes.
pub fn name(name: &OsStr) -> String {
    let plain = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'"' && *byte != b'\\';
    match name.to_str() {
        Some(text) if text.as_bytes().iter().all(plain) => text.to_owned(),
        // rustic_core does not export its quoting by itself.
        Some(_) | None => rustic_core::repofile::Node::new_node(name, NodeType::File, Metadata::default()).name,
    }
}

/// The two fields for where a symbolic link points.
pub fn link_target(target: &Path) -> (Option<String>, Option<String>) {
    let raw = target.to_str().is_none().then(|| BASE64_STANDARD.encode(target.as_os_str().as_bytes()));
    (Some(target.to_string_lossy().into_owned()), raw)
}

/// `+00:00` rather than `Z`: what all trees so far have.
fn with_offset<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(&time.display_with_offset(Offset::UTC)),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use rustic_core::repofile::{Node as TheirNode, Tree};

    use super::*;

    fn ours(node: &Node) -> String {
        serde_json::to_string(node).unwrap()
    }

    /// The library with which the first repositories were written.
    fn theirs(node: &TheirNode) -> String {
        let (text, _) = Tree { nodes: vec![node.clone()] }.serialize().unwrap();
        let text = String::from_utf8(text).unwrap();
        text.strip_prefix("{\"nodes\":[").unwrap().strip_suffix("]}\n").unwrap().to_owned()
    }

    #[test]
    fn trees_have_the_bytes_that_they_always_had() {
        let time = Some("2026-11-21T02:00:00.123456789Z".parse().unwrap());
        let meta = Metadata {
            mode: Some(0o644),
            mtime: time,
            atime: time,
            ctime: Some(Timestamp::UNIX_EPOCH),
            uid: Some(0),
            gid: Some(1000),
            user: Some("root".to_owned()),
            group: None,
            inode: 77,
            device_id: 0,
            size: 5,
            links: 1,
            extended_attributes: serde_json::from_str(r#"[{"name":"user.a","value":"AGI="}]"#).unwrap(),
        };
        for odd in [&b"a.txt"[..], b"quote\"d \\ \n", "ünï".as_bytes(), b"\xff\xfe", b"\x01\x7f"] {
            let odd = OsStr::from_bytes(odd);
            let mut theirs_node = TheirNode::new_node(odd, NodeType::File, meta.clone());
            theirs_node.content = Some(vec![rustic_core::Id::new([7; 32]).into()]);
            let node = Node {
                name: name(odd),
                mode: Some(0o644),
                mtime: time,
                atime: time,
                ctime: Some(Timestamp::UNIX_EPOCH),
                uid: Some(0),
                gid: Some(1000),
                user: Some("root".to_owned()),
                inode: 77,
                size: 5,
                links: 1,
                extended_attributes: vec![Attribute::new(OsStr::new("user.a"), b"\0b")],
                content: Some(vec![Hash([7; 32])]),
                ..Node::default()
            };
            assert_eq!(ours(&node), theirs(&theirs_node));
            let earlier = ours(&node);
            let earlier: EarlierNode<'_> = serde_json::from_str(&earlier).unwrap();
            assert_eq!((earlier.name.as_ref(), earlier.size), (node.name.as_str(), 5));
            assert_eq!(earlier.mtime.unwrap().parse().ok(), time);
        }
        for (kind, node_type) in [
            (NodeKind::Dir, NodeType::Dir),
            (NodeKind::Fifo, NodeType::Fifo),
            (NodeKind::Socket, NodeType::Socket),
            (NodeKind::Dev, NodeType::Dev { device: 0 }),
            (NodeKind::Chardev, NodeType::Chardev { device: 259 }),
            (NodeKind::Symlink, NodeType::from_link(Path::new("../a"))),
            (NodeKind::Symlink, NodeType::from_link(Path::new(OsStr::from_bytes(b"\xff")))),
        ] {
            let mut node = Node { name: "a".to_owned(), kind, ..Node::default() };
            match &node_type {
                NodeType::Symlink { .. } => {
                    (node.linktarget, node.linktarget_raw) = link_target(node_type.to_link());
                }
                NodeType::Dev { device } | NodeType::Chardev { device } => node.device = Some(*device),
                NodeType::File | NodeType::Dir | NodeType::Fifo | NodeType::Socket => {}
            }
            if kind == NodeKind::Dir {
                node.subtree = Some(Hash([1; 32]));
            }
            let mut theirs_node = TheirNode::new_node(OsStr::new("a"), node_type, Metadata::default());
            theirs_node.subtree = node.subtree.map(|hash| rustic_core::Id::from(hash).into());
            assert_eq!(ours(&node), theirs(&theirs_node));
        }
    }
}
