//! The objects of one watch, by name.
//!
//! Pure. While a watch tells everything anew, what was known before stays; what it did not tell then is gone.

use std::collections::{BTreeMap, BTreeSet};

/// The objects of one watch.
#[derive(Debug)]
pub struct Collection<T> {
    objects: BTreeMap<String, Known<T>>,
    /// Told since the watch began anew.
    told: Option<BTreeSet<String>>,
    is_ready: bool,
    /// Names that changed, with the objects that went.
    changed: BTreeMap<String, Option<T>>,
}

#[derive(Debug)]
struct Known<T> {
    version: u64,
    object: T,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), told: None, is_ready: false, changed: BTreeMap::new() }
    }
}

impl<T: Clone> Collection<T> {
    /// The watch begins anew.
    pub fn begin(&mut self) {
        self.told = Some(BTreeSet::new());
    }

    /// The watch has told everything.
    pub fn end(&mut self) {
        if let Some(told) = self.told.take() {
            let gone: Vec<String> = self.objects.keys().filter(|name| !told.contains(*name)).cloned().collect();
            for name in gone {
                self.remove(&name);
            }
        }
        self.is_ready = true;
    }

    /// An object was made or changed. One that is known in a later version stays as it is: an answer to our own writing
    /// may come before the watch tells of an older one. `version` is the resource version.
    pub fn apply(&mut self, name: &str, version: Option<&str>, object: T) {
        let version = version.and_then(|version| version.parse().ok()).unwrap_or(0);
        if let Some(told) = &mut self.told {
            told.insert(name.to_owned());
        }
        match self.objects.get(name) {
            Some(known) if known.version >= version && version != 0 => {}
            Some(_) | None => {
                self.changed.insert(name.to_owned(), None);
                self.objects.insert(name.to_owned(), Known { version, object });
            }
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, name: &str) {
        if let Some(known) = self.objects.remove(name) {
            self.changed.insert(name.to_owned(), Some(known.object));
        }
    }

    /// Whether the watch has told everything once.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// One object.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.objects.get(name).map(|known| &known.object)
    }

    /// All objects.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.objects.values().map(|known| &known.object)
    }

    /// All objects with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.objects.iter().map(|(name, known)| (name, &known.object))
    }

    /// Whose objects changed since the last call.
    pub fn take_changed<K: Ord>(&mut self, key: impl Fn(&T) -> Option<K>) -> BTreeSet<K> {
        let changed = std::mem::take(&mut self.changed);
        let mut keys = BTreeSet::new();
        for (name, gone) in changed {
            keys.extend(gone.as_ref().and_then(&key));
            keys.extend(self.get(&name).and_then(&key));
        }
        keys
    }

    /// Whether anything changed since the last call.
    pub fn take_any_changed(&mut self) -> bool {
        !std::mem::take(&mut self.changed).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_anew_is_gone_and_only_then() {
        let mut collection = Collection::default();
        collection.begin();
        collection.apply("a", Some("1"), 1);
        assert!(!collection.is_ready());
        collection.end();
        assert!(collection.is_ready());
        collection.apply("b", Some("2"), 2);
        assert_eq!(collection.take_changed(|object| Some(*object)), BTreeSet::from([1, 2]));
        // The API server forgot where the watch was.
        collection.begin();
        collection.apply("b", Some("2"), 2);
        assert_eq!(collection.values().count(), 2, "what is known stays meanwhile");
        collection.end();
        assert_eq!(collection.get("a"), None);
        assert_eq!(collection.take_changed(|object| Some(*object)), BTreeSet::from([1]));
    }

    #[test]
    fn an_older_version_does_not_undo_a_later_one() {
        let mut collection = Collection::default();
        collection.apply("a", Some("5"), "ours");
        collection.apply("a", Some("4"), "before");
        assert_eq!(collection.get("a"), Some(&"ours"));
        collection.apply("a", Some("6"), "theirs");
        assert_eq!(collection.get("a"), Some(&"theirs"));
        collection.remove("a");
        assert!(collection.take_any_changed());
        assert!(!collection.take_any_changed());
    }
}
