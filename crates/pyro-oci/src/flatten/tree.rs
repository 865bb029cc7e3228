//! The merged tree: what a mount of the layers, one over the other, would show.

use std::collections::BTreeMap;

use super::FlattenError;
use super::layer::{Entry, EntryKind};
use crate::limits::LINKS;
use crate::tarball::{Attributes, Content};

/// Index of a node in the tree.
pub(super) type NodeId = u32;

/// An inode.
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) attributes: Attributes,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    links: u32,
}

/// What an inode is.
pub(super) enum NodeKind {
    Directory(BTreeMap<Box<str>, Child>),
    File { layer: usize, content: Content },
    Symlink(Box<str>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// A name in a directory, and the layer that gave it.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub(super) node: NodeId,
    layer: usize,
}

/// All nodes; node 0 is the root. Nodes that lost their last name stay in the list, unreachable.
pub(crate) struct Tree {
    nodes: Vec<Node>,
    layers: usize,
    limit: u64,
}

pub(super) const ROOT: NodeId = 0;

/// Directories that no archive declared, only paths through them.
const IMPLICIT: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Bookkeeping of an old union file system, never content.
const UNION_INTERNAL: &str = ".wh..wh.";

impl Tree {
    /// An empty root. `limit` bounds the nodes, directories that are only implied included: a few
    /// long paths could otherwise imply thousands each.
    pub(crate) fn new(limit: u64) -> Self {
        let root = Node {
            kind: NodeKind::Directory(BTreeMap::new()),
            attributes: IMPLICIT,
            xattrs: Vec::new(),
            links: 1,
        };
        Self { nodes: vec![root], layers: 0, limit: limit.min(u64::from(u32::MAX) - 1) }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Puts a layer on top. Its whiteouts hide what lower layers hold, wherever in the archive they
    /// stand; its own members are added after that, a later one replacing an earlier one.
    pub(crate) fn apply(&mut self, entries: Vec<Entry>) -> Result<(), FlattenError> {
        let layer = self.layers;
        for entry in &entries {
            self.hide(entry)?;
        }
        for entry in entries {
            let name = file_name(&entry.path);
            if !name.starts_with(WHITEOUT) {
                self.add(entry, layer)?;
            }
        }
        self.layers += 1;
        Ok(())
    }

    fn hide(&mut self, entry: &Entry) -> Result<(), FlattenError> {
        let (parent, name) = split(&entry.path);
        let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(()) };
        let Some(parent) = self.find(parent) else { return Ok(()) };
        let NodeKind::Directory(children) = &mut self.nodes[parent as usize].kind else { return Ok(()) };
        if name == OPAQUE {
            children.clear();
        } else if name.starts_with(UNION_INTERNAL) {
        } else if hidden.is_empty() || hidden == "." || hidden == ".." {
            let why = "it is a whiteout of no name";
            return Err(FlattenError::Path { path: entry.path.to_string(), why });
        } else {
            children.remove(hidden);
        }
        Ok(())
    }

    fn add(&mut self, entry: Entry, layer: usize) -> Result<(), FlattenError> {
        if entry.path.is_empty() {
            return self.set_root(entry);
        }
        let parent = self.parent_of(&entry.path, layer)?;
        let name = file_name(&entry.path);
        let existing = self.child(parent, name);
        let node = match entry.kind {
            EntryKind::Directory => {
                if let Some(child) = existing
                    && matches!(self.node(child.node).kind, NodeKind::Directory(_))
                {
                    let node = &mut self.nodes[child.node as usize];
                    node.attributes = entry.attributes;
                    node.xattrs = entry.xattrs;
                    self.link(parent, name, Child { node: child.node, layer });
                    return Ok(());
                }
                self.push(NodeKind::Directory(BTreeMap::new()), entry.attributes, entry.xattrs)?
            }
            EntryKind::HardLink(target) => self.hard_link(&entry.path, &target)?,
            EntryKind::File(content) => {
                self.push(NodeKind::File { layer, content }, entry.attributes, entry.xattrs)?
            }
            EntryKind::Symlink(target) => {
                self.push(NodeKind::Symlink(target), entry.attributes, entry.xattrs)?
            }
            EntryKind::CharDevice { major, minor } => {
                self.push(NodeKind::CharDevice { major, minor }, entry.attributes, entry.xattrs)?
            }
            EntryKind::BlockDevice { major, minor } => {
                self.push(NodeKind::BlockDevice { major, minor }, entry.attributes, entry.xattrs)?
            }
            EntryKind::Fifo => self.push(NodeKind::Fifo, entry.attributes, entry.xattrs)?,
        };
        self.link(parent, name, Child { node, layer });
        Ok(())
    }

    fn set_root(&mut self, entry: Entry) -> Result<(), FlattenError> {
        if !matches!(entry.kind, EntryKind::Directory) {
            return Err(FlattenError::Path { path: ".".into(), why: "the root is not a directory" });
        }
        let root = &mut self.nodes[ROOT as usize];
        root.attributes = entry.attributes;
        root.xattrs = entry.xattrs;
        Ok(())
    }

    fn hard_link(&mut self, path: &str, target: &str) -> Result<NodeId, FlattenError> {
        let refused = |why| FlattenError::HardLink { path: path.into(), target: target.into(), why };
        let id = self.find(target).ok_or_else(|| refused("does not exist in this image"))?;
        let node = &mut self.nodes[id as usize];
        if matches!(node.kind, NodeKind::Directory(_)) {
            return Err(refused("is a directory"));
        }
        node.links += 1;
        if node.links >= LINKS {
            return Err(refused("has too many links"));
        }
        Ok(id)
    }

    /// The directory that holds `path`, made where it is missing.
    ///
    /// No symbolic link is followed. One that a lower layer left in the way is hidden by a directory,
    /// as an overlay mount would show it; one of the same layer is an error, because there the
    /// archive itself says that the name is two things.
    fn parent_of(&mut self, path: &str, layer: usize) -> Result<NodeId, FlattenError> {
        let (parent, _) = split(path);
        let mut at = ROOT;
        let mut walked = 0;
        for component in parent.split('/').filter(|c| !c.is_empty()) {
            walked += component.len() + 1;
            let existing = self.child(at, component);
            if let Some(child) = existing {
                let in_the_way = match &self.node(child.node).kind {
                    NodeKind::Directory(_) => {
                        at = child.node;
                        continue;
                    }
                    NodeKind::Symlink(_) => true,
                    _ => false,
                };
                if child.layer == layer {
                    let way = parent[..walked - 1].to_owned();
                    return Err(match in_the_way {
                        true => FlattenError::ThroughSymlink { path: path.into(), link: way },
                        false => FlattenError::ThroughFile { path: path.into(), parent: way },
                    });
                }
            }
            let node = self.push(NodeKind::Directory(BTreeMap::new()), IMPLICIT, Vec::new())?;
            self.link(at, component, Child { node, layer });
            at = node;
        }
        Ok(at)
    }

    fn push(
        &mut self,
        kind: NodeKind,
        attributes: Attributes,
        xattrs: Vec<(String, Vec<u8>)>,
    ) -> Result<NodeId, FlattenError> {
        if self.nodes.len() as u64 > self.limit {
            return Err(FlattenError::TooMuch { what: "files and directories", limit: self.limit });
        }
        let id = self.nodes.len() as NodeId;
        self.nodes.push(Node { kind, attributes, xattrs, links: 1 });
        Ok(id)
    }

    fn link(&mut self, parent: NodeId, name: &str, child: Child) {
        if let NodeKind::Directory(children) = &mut self.nodes[parent as usize].kind {
            children.insert(name.into(), child);
        }
    }

    fn child(&self, parent: NodeId, name: &str) -> Option<Child> {
        match &self.node(parent).kind {
            NodeKind::Directory(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The node at a path, symbolic links not followed.
    pub(super) fn find(&self, path: &str) -> Option<NodeId> {
        let mut at = ROOT;
        for component in path.split('/').filter(|c| !c.is_empty()) {
            at = self.child(at, component)?.node;
        }
        Some(at)
    }

    /// Panics when a child names a node that is not there. For tests and fuzzing.
    pub(super) fn check(&self) {
        for node in &self.nodes {
            if let NodeKind::Directory(children) = &node.kind {
                for child in children.values() {
                    assert!((child.node as usize) < self.nodes.len() && child.node != ROOT);
                }
            }
        }
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn file_name(path: &str) -> &str {
    split(path).1
}
