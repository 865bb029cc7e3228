//! Flows by number. A number is never given twice, so that an event for a flow that is gone meets no other.

/// A flow's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FlowId {
    index: u32,
    generation: u32,
}

impl FlowId {
    pub(super) fn token(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn from_token(token: u64) -> Self {
        Self { index: token as u32, generation: (token >> 32) as u32 }
    }
}

pub(super) struct Table<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(super) fn insert(&mut self, value: T) -> FlowId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        // The highest numbers are tokens of other things.
        entry.0 = if entry.0 >= u32::MAX - 1 { 1 } else { entry.0 + 1 };
        entry.1 = Some(value);
        FlowId { index, generation: entry.0 }
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(id.index as usize)?;
        if *generation == id.generation { value.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, id: FlowId) -> Option<T> {
        let (generation, value) = self.entries.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        let value = value.take()?;
        self.free.push(id.index);
        Some(value)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn ids(&self) -> Vec<FlowId> {
        let present = self.entries.iter().enumerate().filter(|(_, (_, value))| value.is_some());
        present
            .map(|(index, (generation, _))| FlowId { index: index as u32, generation: *generation })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_used_again_under_another_number() {
        let mut table = Table::default();
        let first = table.insert('a');
        assert_eq!(table.remove(first), Some('a'));
        let second = table.insert('b');
        assert_eq!(table.get_mut(first), None);
        assert_eq!(table.get_mut(second), Some(&mut 'b'));
        assert_eq!(table.remove(first), None);
        assert_eq!((table.len(), table.ids()), (1, vec![second]));
        assert_eq!(FlowId::from_token(second.token()), second);
    }
}
