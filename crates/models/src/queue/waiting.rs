//! The texts that wait, by age and by length: a batch is found without looking at all of them.

use std::collections::{BTreeMap, VecDeque};

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
    by_age: BTreeMap<u64, Item>,
    /// Ages by length in tokens, the oldest first.
    by_length: BTreeMap<usize, VecDeque<u64>>,
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
        self.by_length.entry(item.tokens).or_default().push_back(age);
        self.by_age.insert(age, item);
    }

    pub(super) fn oldest(&self) -> Option<&Item> {
        self.by_age.first_key_value().map(|(_, item)| item)
    }

    /// All of them, oldest first.
    pub(super) fn drain(&mut self) -> Vec<Item> {
        self.by_length.clear();
        self.tokens = 0;
        std::mem::take(&mut self.by_age).into_values().collect()
    }

    /// Takes out all that `unwanted` says yes to.
    pub(super) fn remove_where(&mut self, unwanted: impl Fn(&Item) -> bool) -> Vec<Item> {
        let ages: Vec<u64> = self.by_age.iter().filter(|(_, item)| unwanted(item)).map(|(age, _)| *age).collect();
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
        let found = self.by_age.iter().find_map(|(&age, item)| {
            match standing(item) {
                Standing::Over => over.push(age),
                Standing::Held => {}
                may_go => return Some((age, item.tokens, may_go)),
            }
            None
        });
        over.into_iter().for_each(|age| drop(self.remove(age)));
        found
    }

    /// Walks from the length of the oldest text outwards, the nearer side first.
    fn nearest<'w>(
        &'w self,
        oldest: u64,
        length: usize,
        limits: Limits,
        standing: &impl Fn(&Item) -> Standing,
        taken: &mut Vec<u64>,
        over: &mut Vec<u64>,
    ) {
        let (mut tokens, mut bytes) = (length, self.by_age.get(&oldest).map_or(0, |item| item.text.len()));
        let with_length = |(length, ages): (&usize, &'w VecDeque<u64>)| {
            let length = *length;
            ages.iter().map(move |age| (*age, length))
        };
        let mut longer = self.by_length.range(length..).flat_map(with_length).peekable();
        let mut shorter = self.by_length.range(..length).rev().flat_map(with_length).peekable();
        while taken.len() < limits.texts {
            let next = match (longer.peek(), shorter.peek()) {
                (Some((_, up)), Some((_, down))) if length - down < up - length => shorter.next(),
                (Some(_), _) => longer.next(),
                (None, _) => shorter.next(),
            };
            let Some((age, _)) = next else { return };
            let Some(item) = self.by_age.get(&age).filter(|_| age != oldest) else { continue };
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
        let item = self.by_age.remove(&age)?;
        self.tokens -= item.tokens;
        if let Some(ages) = self.by_length.get_mut(&item.tokens) {
            // Mostly the first: texts of one length go in the order in which they came.
            if let Ok(place) = ages.binary_search(&age) {
                ages.remove(place);
            }
            if ages.is_empty() {
                self.by_length.remove(&item.tokens);
            }
        }
        Some(item)
    }
}
