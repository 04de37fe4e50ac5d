//! The texts that wait, by age and by length: a batch is found without looking at all of them.

use std::collections::BTreeMap;

use super::call::Item;

/// How much goes into one batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Texts.
    pub(super) texts: usize,
    /// Tokens, all texts together; one text alone may have more.
    pub(super) tokens: usize,
    /// Bytes, likewise.
    pub(super) bytes: usize,
}

/// Whether a text may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Together with others.
    Free,
    /// In a batch of its own.
    Alone,
    /// Not now.
    Held,
    /// Nobody wants it any more.
    Over,
}

/// Texts in the order in which they came, each found by its length too.
#[derive(Default)]
pub(super) struct Waiting {
    /// By length in tokens, then by age.
    by_length: BTreeMap<usize, BTreeMap<u64, Item>>,
    /// Length by age.
    by_age: BTreeMap<u64, usize>,
    next_age: u64,
    tokens: usize,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }

    /// Tokens of all texts.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn push(&mut self, item: Item) {
        let age = self.next_age;
        self.next_age += 1;
        self.tokens += item.tokens;
        self.by_age.insert(age, item.tokens);
        self.by_length.entry(item.tokens).or_default().insert(age, item);
    }

    pub(super) fn oldest(&self) -> Option<&Item> {
        let (age, length) = self.by_age.first_key_value()?;
        self.by_length.get(length)?.get(age)
    }

    /// All of them, oldest first.
    pub(super) fn drain(&mut self) -> Vec<Item> {
        let ages: Vec<u64> = self.by_age.keys().copied().collect();
        ages.into_iter().filter_map(|age| self.remove(age)).collect()
    }

    /// Takes out all that `unwanted` says yes to.
    pub(super) fn remove_where(&mut self, unwanted: impl Fn(&Item) -> bool) -> Vec<Item> {
        let ages: Vec<u64> = self
            .by_length
            .values()
            .flat_map(|items| items.iter().filter(|(_, item)| unwanted(item)).map(|(age, _)| *age))
            .collect();
        ages.into_iter().filter_map(|age| self.remove(age)).collect()
    }

    /// Takes the oldest text that may go, and those nearest to it in length, within `limits`; in the order of age.
    pub(super) fn take(&mut self, limits: Limits, standing: impl Fn(&Item) -> Standing) -> Vec<Item> {
        let Some((oldest, length, first)) = self.first(&standing) else { return Vec::new() };
        let mut taken = vec![oldest];
        let mut over = Vec::new();
        if first == Standing::Free {
            self.nearest(oldest, length, limits, &standing, &mut taken, &mut over);
        }
        over.into_iter().for_each(|age| drop(self.remove(age)));
        taken.sort_unstable();
        taken.into_iter().filter_map(|age| self.remove(age)).collect()
    }

    /// Age, length and standing of the oldest text that may go. Those that nobody wants leave.
    fn first(&mut self, standing: &impl Fn(&Item) -> Standing) -> Option<(u64, usize, Standing)> {
        let mut over = Vec::new();
        let found = self.by_age.iter().find_map(|(&age, &length)| {
            let item = self.by_length.get(&length)?.get(&age)?;
            match standing(item) {
                Standing::Over => over.push(age),
                Standing::Held => {}
                may_go => return Some((age, length, may_go)),
            }
            None
        });
        over.into_iter().for_each(|age| drop(self.remove(age)));
        found
    }

    /// Walks from the length of the oldest text outwards, the nearer side first.
    fn nearest(
        &self,
        oldest: u64,
        length: usize,
        limits: Limits,
        standing: &impl Fn(&Item) -> Standing,
        taken: &mut Vec<u64>,
        over: &mut Vec<u64>,
    ) {
        let bytes_of = |age| self.by_length.get(&length).and_then(|items| items.get(&age)).map_or(0, |i| i.text.len());
        let (mut tokens, mut bytes) = (length, bytes_of(oldest));
        let mut longer = self.by_length.range(length..).flat_map(|(_, items)| items).peekable();
        let mut shorter = self.by_length.range(..length).rev().flat_map(|(_, items)| items).peekable();
        while taken.len() < limits.texts {
            let next = match (longer.peek(), shorter.peek()) {
                (Some((_, up)), Some((_, down))) if length - down.tokens < up.tokens - length => shorter.next(),
                (Some(_), _) => longer.next(),
                (None, _) => shorter.next(),
            };
            let Some((&age, item)) = next else { return };
            if age == oldest {
                continue;
            }
            match standing(item) {
                Standing::Over => over.push(age),
                Standing::Held | Standing::Alone => {}
                Standing::Free => {
                    tokens += item.tokens;
                    bytes += item.text.len();
                    if tokens > limits.tokens || bytes > limits.bytes {
                        return;
                    }
                    taken.push(age);
                }
            }
        }
    }

    fn remove(&mut self, age: u64) -> Option<Item> {
        let length = self.by_age.remove(&age)?;
        let items = self.by_length.get_mut(&length)?;
        let item = items.remove(&age);
        if items.is_empty() {
            self.by_length.remove(&length);
        }
        self.tokens -= length;
        item
    }
}
