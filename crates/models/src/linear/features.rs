//! From a text to numbered features: words, pairs of words at most three apart, and runs of characters within words.
//!
//! A feature is hashed (xxh3) into one of 2^[`BUCKET_BITS`] buckets; one more bit of the hash is its sign, so that
//! features which share a bucket cancel out on average (Weinberger et al. 2009, "Feature hashing for large scale
//! multitask learning"). Changing anything here makes trained weights useless: raise [`VERSION`] and train again.

use xxhash_rust::xxh3::xxh3_64;

/// Names this way of making features; weights say which one they were trained with.
pub const VERSION: u32 = 1;
/// 2^17 buckets.
pub const BUCKET_BITS: u32 = 17;

/// Texts are cut off here: a headline is far shorter, and the time per text stays bounded.
pub(super) const TEXT_BYTES_MAX: usize = 4096;
/// Lengths of character runs, in bytes.
const RUN_LENGTHS: std::ops::RangeInclusive<usize> = 3..=5;

/// Distances, in words, of the pairs that are not side by side.
const SKIPS: std::ops::RangeInclusive<usize> = 2..=3;
/// Tells such a pair from two words side by side.
const SKIP_MARK: u64 = 0x5bd1_e995_97f4_a7c1;
/// Tells a run from a word of the same letters.
const RUN_MARK: u64 = 0x9e37_79b9_7f4a_7c15;

/// Makes features; keeps its buffers between texts.
#[derive(Debug, Default)]
pub struct Featurizer {
    /// The text, lower-cased and simplified, every token with a space on both sides.
    clean: String,
    /// Hashes of tokens.
    tokens: Vec<u64>,
    /// `bucket << 1 | sign` of each occurrence.
    words: Vec<u32>,
    runs: Vec<u32>,
    features: Vec<(u32, f32)>,
}

impl Featurizer {
    /// The features of a text: bucket and value. Words and runs have a Euclidean norm of 1 each, before buckets that
    /// occur twice are added up.
    pub fn features(&mut self, text: &str) -> &[(u32, f32)] {
        self.simplify(text);
        self.hash_words();
        self.hash_runs();
        self.features.clear();
        append_normalised(&mut self.words, &mut self.features);
        append_normalised(&mut self.runs, &mut self.features);
        &self.features
    }

    /// Lower case; URLs left out; digits alike; punctuation that carries a meaning as tokens of its own.
    fn simplify(&mut self, text: &str) {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.clean.clear();
        self.clean.push(' ');
        for word in text[..end].split_whitespace() {
            if word.starts_with("http://") || word.starts_with("https://") {
                continue;
            }
            self.push_word(word);
            self.end_token();
        }
    }

    fn push_word(&mut self, word: &str) {
        let mut previous = ' ';
        for c in word.chars() {
            match c {
                '0'..='9' => {
                    // A number is one `0`, however long, and with its separators.
                    let goes_on = previous == '0' || matches!(previous, '.' | ',') && self.clean.ends_with('0');
                    if !goes_on {
                        self.clean.push('0');
                    }
                    previous = '0';
                    continue;
                }
                ',' if previous == '0' => {}
                '\'' | '’' | '.' => {}
                '%' | '?' | '!' | ':' | ';' | '$' | '+' | '₹' | '€' | '£' => {
                    self.end_token();
                    self.clean.push(c);
                    self.end_token();
                }
                '-' if previous == ' ' => self.clean.push('-'),
                c if c.is_alphanumeric() => self.clean.extend(c.to_lowercase()),
                _ => self.end_token(),
            }
            previous = c;
        }
    }

    fn end_token(&mut self) {
        if !self.clean.ends_with(' ') {
            self.clean.push(' ');
        }
    }

    fn hash_words(&mut self) {
        self.tokens.clear();
        self.tokens.extend(self.clean.split_ascii_whitespace().map(|token| xxh3_64(token.as_bytes())));
        self.words.clear();
        self.words.extend(self.tokens.iter().map(|&hash| key(hash)));
        for pair in self.tokens.windows(2) {
            self.words.push(key(joined(pair[0], pair[1])));
        }
        // Pairs with one or two words between them share a feature: "cuts [its full-year] outlook".
        for distance in SKIPS {
            for window in self.tokens.windows(distance + 1) {
                self.words.push(key(joined(window[0] ^ SKIP_MARK, window[distance])));
            }
        }
    }

    fn hash_runs(&mut self) {
        self.runs.clear();
        let bytes = self.clean.as_bytes();
        for length in RUN_LENGTHS {
            for run in bytes.windows(length) {
                // Within a word: a space only at the ends.
                if !run[1..length - 1].contains(&b' ') {
                    self.runs.push(key(xxh3_64(run) ^ RUN_MARK));
                }
            }
        }
    }
}

fn joined(first: u64, second: u64) -> u64 {
    const ODD: u64 = 0x9fb2_1c65_1e98_df25;
    (first.rotate_left(23) ^ second).wrapping_mul(ODD).rotate_left(31).wrapping_mul(ODD)
}

/// The highest bits of a hash: bucket, then sign.
fn key(hash: u64) -> u32 {
    (hash >> (63 - BUCKET_BITS)) as u32
}

/// Appends one feature per distinct key: `1 + ln(occurrences)`, all scaled to a Euclidean norm of 1.
fn append_normalised(keys: &mut [u32], features: &mut Vec<(u32, f32)>) {
    keys.sort_unstable();
    let start = features.len();
    let mut squares = 0.0_f32;
    for group in keys.chunk_by(|a, b| a == b) {
        let weight = if group.len() == 1 { 1.0 } else { 1.0 + (group.len() as f32).ln() };
        squares += weight * weight;
        let sign = if group[0] & 1 == 0 { 1.0 } else { -1.0 };
        features.push((group[0] >> 1, sign * weight));
    }
    let scale = squares.sqrt().recip();
    for (_, value) in &mut features[start..] {
        *value *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(text: &str) -> String {
        let mut featurizer = Featurizer::default();
        featurizer.simplify(text);
        featurizer.clean
    }

    #[test]
    fn case_numbers_urls_and_spacing_do_not_matter() {
        assert_eq!(clean("Q3 Net UP 1,234.56%  at Rs. 7 cr https://t.co/x"), " q0 net up 0 % at rs 0 cr ");
        assert_eq!(clean("don't—buy: -5%?"), " dont buy : -0 % ? ");
        let mut featurizer = Featurizer::default();
        let features = featurizer.features("Profit rises 5%").to_vec();
        assert_eq!(featurizer.features("profit  RISES 42.5% http://x"), features);
        assert_ne!(featurizer.features("profit falls 5%"), features);
    }

    #[test]
    fn words_and_runs_each_have_a_norm_of_one() {
        let mut featurizer = Featurizer::default();
        let squares: f32 = featurizer.features("up up and away").iter().map(|(_, value)| value * value).sum();
        assert!((squares - 2.0).abs() < 1e-5, "{squares}");
    }

    #[test]
    fn any_text_has_features_within_bounds() {
        let mut featurizer = Featurizer::default();
        let long = "é".repeat(TEXT_BYTES_MAX);
        for text in
            ["", " ", "\u{0}", "?", "日本語 株 上昇", "a\u{301}\u{200d}", "İstanbul", &long, &"€ ".repeat(9_999)]
        {
            for &(bucket, value) in featurizer.features(text) {
                assert!(bucket < 1 << BUCKET_BITS && value.is_finite(), "{text:?}");
            }
        }
        assert!(featurizer.features("").is_empty());
    }
}
