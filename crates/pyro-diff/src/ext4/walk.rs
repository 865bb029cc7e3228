//! Whole trees.

use std::collections::HashSet;

use super::Ext4;
use super::directory::Found;
use super::inode::Inode;
use super::path::{Depth, LastLink};
use crate::baseline::{BaselineTree, DiskError, ReadAt};
use crate::entry::{Entry, EntryKind};
use crate::limits::{MAX_DEPTH, MAX_TREE_ENTRIES, MAX_TREE_NAME_BYTES, MAX_WALK_BYTES};

impl<R: ReadAt> Ext4<R> {
    /// Tells what is below `top`; `name` goes before every path.
    pub(super) fn walk_from(
        &self,
        top: &Inode,
        name: &[u8],
        depth: Depth,
        visit: &mut dyn FnMut(Entry) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let mut entered = HashSet::from([top.number]);
        let mut open = vec![(name.to_vec(), top.clone(), 1)];
        let (mut total, mut bytes, mut names) = (0, 0, 0);
        while let Some((path, directory, level)) = open.pop() {
            bytes = directory.size.saturating_add(bytes);
            if bytes > MAX_WALK_BYTES {
                return Err(DiskError::Limit { what: "bytes of directories", most: MAX_WALK_BYTES });
            }
            for (name, number) in self.children(&directory)? {
                total += 1;
                if total > MAX_TREE_ENTRIES {
                    return Err(DiskError::Limit { what: "entries", most: MAX_TREE_ENTRIES as u64 });
                }
                let child = join(&path, &name);
                let inode = self.inode(number)?;
                let enter = inode.kind == EntryKind::Directory && depth == Depth::All;
                if enter {
                    names += child.len();
                    if level == MAX_DEPTH {
                        return Err(DiskError::Limit {
                            what: "levels of directories",
                            most: MAX_DEPTH as u64,
                        });
                    }
                    if names > MAX_TREE_NAME_BYTES {
                        return Err(DiskError::Limit {
                            what: "bytes of names",
                            most: MAX_TREE_NAME_BYTES as u64,
                        });
                    }
                    if !entered.insert(number) {
                        return Err(DiskError::damaged(format!("directory {number} is in two places")));
                    }
                    open.push((child.clone(), inode.clone(), level + 1));
                }
                visit(self.entry(child, &inode)?)?;
            }
        }
        Ok(())
    }

    /// A directory's names in the order of their inodes, which is that of the blocks to be read for them.
    fn children(&self, directory: &Inode) -> Result<Vec<(Vec<u8>, u32)>, DiskError> {
        let mut children = Vec::new();
        self.names(directory, &mut |name, number| {
            if children.len() == MAX_TREE_ENTRIES {
                return Err(DiskError::Limit { what: "entries", most: MAX_TREE_ENTRIES as u64 });
            }
            children.push((name.to_vec(), number));
            Ok(Found::More)
        })?;
        children.sort_by_key(|(_, number)| *number);
        Ok(children)
    }
}

impl<R: ReadAt> BaselineTree for Ext4<R> {
    fn walk(
        &self,
        root: &[u8],
        visit: &mut dyn FnMut(Entry) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        let top = match self.resolve(root, LastLink::Keep) {
            Ok(top) => top,
            Err(DiskError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if top.kind != EntryKind::Directory {
            return Err(DiskError::NotDirectory { path: crate::name::shown(root) });
        }
        self.walk_from(&top, b"", Depth::All, visit)
    }

    fn read_file(&self, path: &[u8], most: u64) -> Result<Vec<u8>, DiskError> {
        self.read_inode(&self.resolve(path, LastLink::Keep)?, path, most)
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
