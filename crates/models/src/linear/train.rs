//! Trains a linear classifier: multinomial logistic regression over features scaled by how much they tell about a
//! label.
//!
//! 1. Every feature is scaled, per label, by the absolute logarithm of how much more often it occurs with the label
//!    than without it (Wang and Manning 2012, "Baselines and bigrams", where the scale is signed).
//! 2. Adagrad (Duchi et al. 2011) on the cross entropy, one text at a time, in an order that depends on the seed only;
//!    labels weigh the same, however often they occur. Stopping early is the regularisation.
//! 3. The weights are the mean of those after each epoch of the second half, times the scale, quantised to 8 bits.
//!
//! The same texts in the same order with the same settings give the same weights, on the same kind of machine.

use std::sync::Arc;

use millstream_core::{Error, Result};

use super::features::{BUCKET_BITS, Featurizer};
use super::weights::{Weights, softmax};

/// Occurrences that every feature is given with every label, so that rare ones do not weigh too much.
const SMOOTHING: f32 = 1.0;
/// Of so many buckets, one is expected to be in use, when the smoothing is made up for.
const BUCKETS_PER_USED: f32 = 64.0;
/// Where Adagrad's sums of squares start: bounds the first steps.
const SQUARES_START: f32 = 1e-3;

/// A text to learn from.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainRow {
    /// The text.
    pub text: Arc<str>,
    /// Index of its label.
    pub label: usize,
    /// How much it counts beside others; more than 0.
    pub weight: f32,
}

/// How to train. The defaults are those of the built-in model, found by cross-validation on its training set.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainConfig {
    /// How often every text is seen.
    pub epochs: usize,
    /// The size of a step.
    pub learning_rate: f32,
    /// Decides the order of texts.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self { epochs: 12, learning_rate: 0.1, seed: 42 }
    }
}

/// A text as numbers.
struct Example {
    features: Vec<(u32, f32)>,
    label: usize,
    weight: f32,
}

/// Trains on `rows`.
///
/// # Errors
/// `Input`: fewer than two labels, more than 255, one of more than 255 bytes; a label without a row; a row whose label
/// there is not, or whose weight is not more than 0.
pub fn train(labels: &[Arc<str>], rows: &[TrainRow], config: &TrainConfig) -> Result<Weights> {
    check(labels, rows)?;
    let k = labels.len();
    let mut examples = examples(rows);
    balance(&mut examples, k);
    let scales = log_count_ratios(&examples, k);
    let (mut table, biases) = descend(&examples, &scales, k, config);
    for (weight, scale) in table.iter_mut().zip(&scales) {
        *weight *= scale;
    }
    Ok(Weights::quantise(labels.to_vec(), biases, &table))
}

fn check(labels: &[Arc<str>], rows: &[TrainRow]) -> Result<()> {
    if !(2..=255).contains(&labels.len()) || labels.iter().any(|label| label.len() > 255) {
        return Err(Error::input("a classifier has 2 to 255 labels of at most 255 bytes"));
    }
    if let Some(row) =
        rows.iter().position(|row| row.label >= labels.len() || row.weight <= 0.0 || !row.weight.is_finite())
    {
        return Err(Error::input(format!("row {} has no known label, or no weight", row + 1)));
    }
    match (0..labels.len()).find(|&label| rows.iter().all(|row| row.label != label)) {
        Some(label) => Err(Error::input(format!("no row has the label `{}`", labels[label]))),
        None => Ok(()),
    }
}

fn examples(rows: &[TrainRow]) -> Vec<Example> {
    let mut featurizer = Featurizer::default();
    let example = |row: &TrainRow| Example {
        features: featurizer.features(&row.text).to_vec(),
        label: row.label,
        weight: row.weight,
    };
    rows.iter().map(example).collect()
}

/// Scales the weights so that every label has the same sum.
fn balance(examples: &mut [Example], k: usize) {
    let mut sums = vec![0.0_f32; k];
    for example in examples.iter() {
        sums[example.label] += example.weight;
    }
    let mean = sums.iter().sum::<f32>() / k as f32;
    for example in examples {
        example.weight *= mean / sums[example.label];
    }
}

/// Per bucket and label: |ln(P(bucket | label) / P(bucket | other labels))|; 1 for buckets that do not occur.
fn log_count_ratios(examples: &[Example], k: usize) -> Vec<f32> {
    let buckets = 1_usize << BUCKET_BITS;
    let mut counts = vec![0.0_f32; buckets * k];
    let mut totals = vec![0.0_f32; k];
    for example in examples {
        for &(bucket, _) in &example.features {
            counts[bucket as usize * k + example.label] += example.weight;
            totals[example.label] += example.weight;
        }
    }
    let all: f32 = totals.iter().sum();
    let smoothing_total = SMOOTHING * buckets as f32 / BUCKETS_PER_USED;
    let mut scales = vec![1.0; buckets * k];
    for (scales, counts) in scales.chunks_exact_mut(k).zip(counts.chunks_exact(k)) {
        let sum: f32 = counts.iter().sum();
        if sum == 0.0 {
            continue;
        }
        for label in 0..k {
            let with = (counts[label] + SMOOTHING) / (totals[label] + smoothing_total);
            let without = (sum - counts[label] + SMOOTHING) / (all - totals[label] + smoothing_total);
            scales[label] = (with / without).ln().abs();
        }
    }
    scales
}

/// Weights for scaled features, and biases.
fn descend(examples: &[Example], scales: &[f32], k: usize, config: &TrainConfig) -> (Vec<f32>, Vec<f32>) {
    let mut table = Adagrad::new(scales.len(), config.learning_rate);
    let mut biases = Adagrad::new(k, config.learning_rate);
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let mut random = SplitMix64(config.seed);
    let mut gradient = vec![0.0_f32; k];
    for epoch in 0..config.epochs {
        random.shuffle(&mut order);
        for &i in &order {
            let example = &examples[i];
            gradient.copy_from_slice(&biases.values);
            for &(bucket, value) in &example.features {
                let row = bucket as usize * k;
                for (label, gradient) in gradient.iter_mut().enumerate() {
                    *gradient += table.values[row + label] * scales[row + label] * value;
                }
            }
            softmax(&mut gradient);
            gradient[example.label] -= 1.0;
            for (label, gradient) in gradient.iter_mut().enumerate() {
                *gradient *= example.weight;
                biases.step(label, *gradient);
            }
            for &(bucket, value) in &example.features {
                let row = bucket as usize * k;
                for (label, gradient) in gradient.iter().enumerate() {
                    table.step(row + label, gradient * scales[row + label] * value);
                }
            }
        }
        if epoch >= config.epochs / 2 {
            table.remember();
            biases.remember();
        }
    }
    (table.mean(), biases.mean())
}

/// Numbers that go down their gradients, the faster the smaller these have been, and their mean over time.
struct Adagrad {
    values: Vec<f32>,
    squares: Vec<f32>,
    sums: Vec<f32>,
    remembered: usize,
    learning_rate: f32,
}

impl Adagrad {
    fn new(n: usize, learning_rate: f32) -> Self {
        Self { values: vec![0.0; n], squares: vec![SQUARES_START; n], sums: vec![0.0; n], remembered: 0, learning_rate }
    }

    fn step(&mut self, i: usize, gradient: f32) {
        self.squares[i] += gradient * gradient;
        self.values[i] -= self.learning_rate * gradient / self.squares[i].sqrt();
    }

    fn remember(&mut self) {
        for (sum, value) in self.sums.iter_mut().zip(&self.values) {
            *sum += value;
        }
        self.remembered += 1;
    }

    fn mean(mut self) -> Vec<f32> {
        let n = self.remembered.max(1) as f32;
        self.sums.iter_mut().for_each(|sum| *sum /= n);
        self.sums
    }
}

/// A small generator whose sequence is fixed for ever (Steele et al. 2014), so that weights can be made again.
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shuffle(&mut self, items: &mut [usize]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}
