//! The tables behind the handles of matrices and caches.

/// Things named by numbers, which are used again.
pub(crate) struct Table<T>(Vec<Option<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    pub(crate) fn add(&mut self, item: T) -> u32 {
        let index = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        if index == self.0.len() {
            self.0.push(None);
        }
        self.0[index] = Some(item);
        u32::try_from(index).expect("no machine holds four billion matrices")
    }

    pub(crate) fn get(&self, index: usize) -> &T {
        self.0[index].as_ref().expect("the handle was given back")
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> &mut T {
        self.0[index].as_mut().expect("the handle was given back")
    }

    pub(crate) fn remove(&mut self, index: usize) {
        self.0[index].take().expect("the handle was given back");
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_again() {
        let mut table = Table::default();
        assert_eq!([table.add('a'), table.add('b'), table.add('c')], [0, 1, 2]);
        table.remove(1);
        assert_eq!(table.add('d'), 1);
        assert_eq!(table.iter().collect::<String>(), "adc");
    }

    #[test]
    #[should_panic(expected = "the handle was given back")]
    fn a_handle_that_was_given_back_is_refused() {
        let mut table = Table::default();
        table.add('a');
        table.remove(0);
        table.get(0);
    }
}
