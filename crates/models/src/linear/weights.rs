//! Weights of a linear classifier, as a file.
//!
//! Little-endian, no padding:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MSLINEAR` |
//! | 4 | version of the features ([`super::features::VERSION`]) |
//! | 4 | b: there are 2^b buckets; at most 24 |
//! | 4 | k: number of labels; 2 to 255 |
//! | k × (1 + n) | labels: length n, then UTF-8 |
//! | k × 4 | per label: what a weight of 1 stands for (f32) |
//! | k × 4 | per label: bias (f32) |
//! | 2^b × k | weights (i8), the labels of a bucket side by side |

use std::borrow::Cow;
use std::sync::Arc;

use millstream_core::{Error, Result};

use super::features;

const MAGIC: &[u8; 8] = b"MSLINEAR";
const BUCKET_BITS_MAX: u32 = 24;
const LABELS_MAX: usize = 255;

/// Weights, ready to use. The large table borrows from the file's bytes.
#[derive(Debug, Clone)]
pub struct Weights {
    /// The labels.
    pub labels: Vec<Arc<str>>,
    /// Per label: what a quantised weight of 1 stands for.
    pub scales: Vec<f32>,
    /// Per label: what is added for every text.
    pub biases: Vec<f32>,
    /// The quantised weights (the bits of an `i8`), the labels of a bucket side by side.
    pub table: Cow<'static, [u8]>,
}

impl Weights {
    /// Quantises a table of weights, the labels of a bucket side by side.
    pub fn quantise(labels: Vec<Arc<str>>, biases: Vec<f32>, table: &[f32]) -> Self {
        let k = labels.len();
        let scale = |label: usize| {
            let largest = table.iter().skip(label).step_by(k).fold(0.0_f32, |max, w| max.max(w.abs()));
            if largest == 0.0 { 1.0 } else { largest / 127.0 }
        };
        let scales: Vec<f32> = (0..k).map(scale).collect();
        let table = table.iter().enumerate().map(|(i, w)| (w / scales[i % k]).round() as i8 as u8).collect();
        Self { labels, scales, biases, table }
    }

    /// The file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(features::VERSION.to_le_bytes());
        bytes.extend(features::BUCKET_BITS.to_le_bytes());
        bytes.extend((self.labels.len() as u32).to_le_bytes());
        for label in &self.labels {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        for number in self.scales.iter().chain(&self.biases) {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(&*self.table);
        bytes
    }

    /// Reads a file that lives as long as the process.
    ///
    /// # Errors
    /// `Corruption`: it is no such file, was made for other features, or is too short or too long.
    pub fn from_bytes(bytes: &'static [u8]) -> Result<Self> {
        Self::parse(bytes).ok_or_else(|| {
            Error::corruption("the weights are not of the format that this version reads: train the model again")
        })
    }

    fn parse(bytes: &'static [u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let number = |bytes: &[u8]| Some(u32::from_le_bytes(bytes.try_into().ok()?));
        let (version, bucket_bits, k) = (number(take(4)?)?, number(take(4)?)?, number(take(4)?)? as usize);
        let is_known = version == features::VERSION && bucket_bits == features::BUCKET_BITS;
        if !is_known || bucket_bits > BUCKET_BITS_MAX || !(2..=LABELS_MAX).contains(&k) {
            return None;
        }
        let mut labels = Vec::with_capacity(k);
        for _ in 0..k {
            let len = usize::from(*take(1)?.first()?);
            labels.push(Arc::from(std::str::from_utf8(take(len)?).ok()?));
        }
        let mut floats = || (0..k).map(|_| Some(f32::from_bits(number(take(4)?)?))).collect::<Option<Vec<f32>>>();
        let (scales, biases) = (floats()?, floats()?);
        let is_finite = scales.iter().chain(&biases).all(|n| n.is_finite());
        if !is_finite || rest.len() != k << bucket_bits {
            return None;
        }
        Some(Self { labels, scales, biases, table: rest.into() })
    }

    /// The probability of each label (softmax), for features as [`features::Featurizer`] makes them.
    pub fn scores(&self, features: &[(u32, f32)]) -> Vec<f32> {
        let k = self.labels.len();
        let mut sums = vec![0.0_f32; k];
        for &(bucket, value) in features {
            let row = &self.table[bucket as usize * k..][..k];
            for (sum, &weight) in sums.iter_mut().zip(row) {
                *sum += value * f32::from(weight as i8);
            }
        }
        for ((sum, scale), bias) in sums.iter_mut().zip(&self.scales).zip(&self.biases) {
            *sum = *sum * scale + bias;
        }
        softmax(&mut sums);
        sums
    }
}

/// Turns logits into probabilities, in place.
pub(super) fn softmax(logits: &mut [f32]) {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x));
    let mut sum = 0.0;
    for x in logits.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    for x in logits.iter_mut() {
        *x /= sum;
    }
}
