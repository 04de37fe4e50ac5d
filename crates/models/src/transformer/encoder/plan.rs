//! Who computes what: texts to groups of threads, and a group's texts to chunks.
//!
//! Threads of one group share each product by columns and meet at barriers; groups share nothing but the weights. A
//! lone text gets all threads, because the weights that it needs come from memory faster to all of them; a large batch
//! gets a group for each thread, because then nobody ever waits for anybody.
//!
//! A group takes its texts through a layer in chunks, so that the numbers between two products stay in the second
//! cache.

use std::ops::Range;

/// A group with fewer tokens spends more time on reading weights than on multiplying them.
const GROUP_TOKENS_MIN: usize = 32;
/// How much longer than the average group the busiest may be before fewer groups are better.
const IMBALANCE_MAX: f32 = 1.08;

/// A text in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Text {
    /// Its place among the texts of the batch.
    pub(super) index: usize,
    /// The row of its first token among all tokens of the batch.
    pub(super) first: usize,
    /// Its tokens.
    pub(super) length: usize,
}

/// The texts of a group, and how they are cut into chunks.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// In any order.
    pub(super) texts: Vec<Text>,
    /// Ranges of `texts`.
    pub(super) chunks: Vec<Range<usize>>,
    /// Tokens of all texts.
    pub(super) tokens: usize,
}

impl Share {
    /// The most tokens of a chunk.
    pub(super) fn chunk_tokens_max(&self) -> usize {
        let tokens = |chunk: &Range<usize>| self.texts[chunk.clone()].iter().map(|text| text.length).sum();
        self.chunks.iter().map(tokens).max().unwrap_or(0)
    }

    /// Cuts the texts into chunks of about `chunk_tokens`, as long as they are shorter than that.
    fn cut(&mut self, chunk_tokens: usize) {
        let count = self.tokens.div_ceil(chunk_tokens).max(1);
        let target = self.tokens.div_ceil(count);
        self.chunks.clear();
        let (mut start, mut tokens) = (0, 0);
        for (index, text) in self.texts.iter().enumerate() {
            tokens += text.length;
            // Half a text more or less: on average, chunks are as long as they were meant to be.
            if tokens + text.length / 2 > target || index + 1 == self.texts.len() {
                self.chunks.push(start..index + 1);
                (start, tokens) = (index + 1, 0);
            }
        }
    }
}

/// The distribution of a batch; reused, so that planning allocates nothing once it has seen batches as large.
#[derive(Debug, Default)]
pub(super) struct Plan {
    shares: Vec<Share>,
    groups: usize,
    order: Vec<Text>,
}

impl Plan {
    /// Distributes texts of the given lengths over `threads`, in chunks of about `chunk_tokens`.
    pub(super) fn make(&mut self, lengths: &[usize], threads: usize, chunk_tokens: usize) {
        self.order.clear();
        let mut first = 0;
        for (index, &length) in lengths.iter().enumerate() {
            self.order.push(Text { index, first, length });
            first += length;
        }
        // The longest first, each to the group that has the least.
        self.order.sort_unstable_by_key(|text| (std::cmp::Reverse(text.length), text.index));
        if self.shares.len() < threads {
            self.shares.resize_with(threads, Share::default);
        }
        for groups in (1..=threads).rev().filter(|groups| threads.is_multiple_of(*groups)) {
            self.distribute(groups);
            let busiest = self.shares().iter().map(|share| share.tokens).max().unwrap_or(0);
            let average = first as f32 / groups as f32;
            if groups == 1 || (average >= GROUP_TOKENS_MIN as f32 && busiest as f32 <= average * IMBALANCE_MAX) {
                break;
            }
        }
        self.shares[..self.groups].iter_mut().for_each(|share| share.cut(chunk_tokens));
    }

    fn distribute(&mut self, groups: usize) {
        self.groups = groups;
        for share in &mut self.shares {
            share.texts.clear();
            share.tokens = 0;
        }
        for text in &self.order {
            if let Some(share) = self.shares[..groups].iter_mut().min_by_key(|share| share.tokens) {
                share.texts.push(*text);
                share.tokens += text.length;
            }
        }
    }

    /// The shares of the groups.
    pub(super) fn shares(&self) -> &[Share] {
        &self.shares[..self.groups]
    }
}

/// The part of `0..count` that member `index` of `members` gets; parts differ by at most one.
pub(super) fn part(count: usize, index: usize, members: usize) -> Range<usize> {
    count * index / members..count * (index + 1) / members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_in_exactly_one_chunk_of_one_group() {
        let mut plan = Plan::default();
        for threads in 1..7 {
            for count in [0, 1, 2, 3, 8, 32, 100] {
                let lengths: Vec<usize> = (0..count).map(|i| 1 + i * 37 % 61).collect();
                plan.make(&lengths, threads, 96);
                assert_eq!(threads % plan.shares().len(), 0);
                let mut seen = vec![0; count];
                for share in plan.shares() {
                    assert_eq!(share.tokens, share.texts.iter().map(|text| text.length).sum::<usize>());
                    for text in share.chunks.iter().flat_map(|chunk| &share.texts[chunk.clone()]) {
                        seen[text.index] += 1;
                        assert_eq!(text.first, lengths[..text.index].iter().sum::<usize>());
                        assert_eq!(text.length, lengths[text.index]);
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{threads} threads, {count} texts");
            }
        }
    }

    #[test]
    fn a_lone_text_gets_all_threads_and_a_large_batch_a_group_for_each() {
        let mut plan = Plan::default();
        plan.make(&[19], 4, 96);
        assert_eq!(plan.shares().len(), 1);
        plan.make(&[19; 64], 4, 96);
        assert_eq!(plan.shares().len(), 4);
        plan.make(&[19; 3], 2, 96);
        assert_eq!(plan.shares().len(), 1, "two texts against one would leave a thread idle");
    }
}
