//! A map that is copied for the price of a pointer, and finds a key among many as fast as among few.
//!
//! ```text
//! first page ── page ── table: of 100,000 keys some twenty-five
//!   6 bits     6 bits     the rest of the key's hash
//! ```
//! A tree gets deeper with every key that it holds; this is two pages deep, always. A change
//! copies one page of each kind and one table, and shares all others with the copies made before.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Of a page.
const WIDTH: usize = 64;

type Table<K, V> = HashTable<(K, V)>;
type Page<T> = [Option<Arc<T>>; WIDTH];
type First<K, V> = Arc<Page<Page<Table<K, V>>>>;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Pages<K, V> {
    first: First<K, V>,
    count: usize,
    /// `SipHash` with a key of this map alone. Tenants choose the names that are kept and clients
    /// those that are asked for: with a hash that is only quick, whoever learns to tell by the
    /// time answers take which names meet could have thousands of them meet.
    keyed: RandomState,
}

impl<K, V> Default for Pages<K, V> {
    fn default() -> Self {
        Pages {
            first: Arc::new(empty()),
            count: 0,
            keyed: RandomState::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Pages<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let pages = self.first.iter().flatten();
        let tables = pages.flat_map(|page| page.iter().flatten());
        let entries = tables.flat_map(|table| table.iter());
        entries.map(|(key, value)| (key, value))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.find(self.keyed.hash_one(key), key)
    }

    pub(crate) fn get_mut<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.keyed.hash_one(key);
        // Nothing is copied for what is not there.
        self.find(hash, key)?;
        let table = own(&mut self.first, hash);
        let found = table.find_mut(hash, |(held, _)| held.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// Keep a value in the place of any other of its key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match entry(&mut self.first, &self.keyed, &key) {
            Entry::Occupied(held) => held.into_mut().1 = value,
            Entry::Vacant(room) => {
                room.insert((key, value));
                self.count += 1;
            }
        }
    }

    /// The value of a key: a `new` one if there was none.
    pub(crate) fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let held = match entry(&mut self.first, &self.keyed, &key) {
            Entry::Occupied(held) => held,
            Entry::Vacant(room) => {
                self.count += 1;
                room.insert((key, new()))
            }
        };
        &mut held.into_mut().1
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let hash = self.keyed.hash_one(key);
        self.find(hash, key)?;
        let table = own(&mut self.first, hash);
        let found = table.find_entry(hash, |(held, _)| held.borrow() == key);
        let ((_, value), _) = found.ok()?.remove();
        self.count -= 1;
        if table.len() <= table.capacity() / 4 {
            table.shrink_to_fit(|(held, _)| self.keyed.hash_one(held));
        }
        Some(value)
    }

    fn find<Q>(&self, hash: u64, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let (page, table) = place(hash);
        let table = self.first[page].as_ref()?[table].as_ref()?;
        let found = table.find(hash, |(held, _)| held.borrow() == key);
        found.map(|(_, value)| value)
    }
}

fn empty<T>() -> Page<T> {
    std::array::from_fn(|_| None)
}

/// Where a key is: bits of its hash that its table makes no use of.
fn place(hash: u64) -> (usize, usize) {
    let [_, _, page, table, ..] = hash.to_be_bytes();
    (usize::from(page) % WIDTH, usize::from(table) % WIDTH)
}

/// The table that a hash belongs to, for this map alone to change.
fn own<K: Clone, V: Clone>(first: &mut First<K, V>, hash: u64) -> &mut Table<K, V> {
    let (page, table) = place(hash);
    let page = &mut Arc::make_mut(first)[page];
    let page = Arc::make_mut(page.get_or_insert_with(|| Arc::new(empty())));
    Arc::make_mut(page[table].get_or_insert_default())
}

fn entry<'a, K: Clone + Eq + Hash, V: Clone>(
    first: &'a mut First<K, V>,
    keyed: &RandomState,
    key: &K,
) -> Entry<'a, (K, V)> {
    let hash = keyed.hash_one(key);
    let table = own(first, hash);
    table.entry(
        hash,
        |(held, _)| held == key,
        |(held, _)| keyed.hash_one(held),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn of(map: &Pages<String, u32>) -> HashMap<String, u32> {
        map.iter()
            .map(|(key, value)| (key.clone(), *value))
            .collect()
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_of_the_standard_library_holds(
            steps in proptest::collection::vec((0..3u8, "[a-c]{1,3}", any::<u32>()), 0..300),
        ) {
            let (mut map, mut model) = (Pages::default(), HashMap::new());
            for (kind, key, value) in steps {
                match kind {
                    0 => {
                        map.insert(key.clone(), value);
                        model.insert(key, value);
                    }
                    1 => {
                        let held = map.get_or_insert_with(key.clone(), || value);
                        prop_assert_eq!(held, model.entry(key).or_insert(value));
                    }
                    _ => prop_assert_eq!(map.remove(key.as_str()), model.remove(&key)),
                }
                prop_assert_eq!(map.len(), model.len());
            }
            prop_assert_eq!(of(&map), model);
        }
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut map = Pages::default();
        for number in 0..10_000u32 {
            map.insert(number.to_string(), number);
        }
        let (copy, held) = (map.clone(), of(&map));
        map.insert("new".into(), 0);
        map.remove("5");
        *map.get_mut("7").unwrap() = 70;
        assert_eq!(of(&copy), held);
        assert_eq!(map.get("7"), Some(&70));
        assert_eq!((map.get("5"), copy.get("5")), (None, Some(&5)));
    }

    #[test]
    fn what_is_not_there_copies_nothing() {
        let mut map = Pages::default();
        map.insert("a".to_owned(), 1);
        let copy = map.clone();
        assert_eq!(map.get_mut("b"), None);
        assert_eq!(map.remove("b"), None);
        assert!(Arc::ptr_eq(&map.first, &copy.first));
    }

    #[test]
    fn room_that_nobody_needs_is_given_back() {
        let mut map = Pages::default();
        let room = |map: &Pages<u32, u32>| {
            let tables = map.first.iter().flatten();
            let tables = tables.flat_map(|page| page.iter().flatten());
            tables.map(|table| table.capacity()).sum::<usize>()
        };
        for number in 0..100_000 {
            map.insert(number, number);
        }
        let before = room(&map);
        for number in 0..99_000 {
            map.remove(&number);
        }
        assert!(room(&map) < before / 4, "{} of {before}", room(&map));
    }
}
