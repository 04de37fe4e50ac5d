//! Encoders with random weights and texts of random tokens, for tests and benchmarks that need the shape of a model
//! only.

use super::spec::{EmbeddingWeights, EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Projection, Tokens};

/// Weights of the shape of `spec`; the same seed gives the same weights.
///
/// They are spread as a trained encoder's are: every projection keeps the variance of its input, a tenth of the norms'
/// scales are large, so that the states have outliers as those of BERT do.
pub fn random_weights(spec: &EncoderSpec, seed: u64) -> EncoderWeights {
    let mut random = Random(seed);
    let (hidden, wide) = (spec.hidden, spec.intermediate);
    EncoderWeights {
        embeddings: EmbeddingWeights {
            token_table: uniform(&mut random, spec.vocabulary * hidden, 0.1),
            position_table: uniform(&mut random, spec.positions * hidden, 0.05),
            type_table: uniform(&mut random, spec.token_types * hidden, 0.05),
            norm: norm(&mut random, hidden),
        },
        layers: (0..spec.layers)
            .map(|_| LayerWeights {
                query: projection(&mut random, hidden, hidden),
                key: projection(&mut random, hidden, hidden),
                value: projection(&mut random, hidden, hidden),
                attention_output: projection(&mut random, hidden, hidden),
                attention_norm: norm(&mut random, hidden),
                expand: projection(&mut random, hidden, wide),
                contract: projection(&mut random, wide, hidden),
                output_norm: norm(&mut random, hidden),
            })
            .collect(),
    }
}

/// Texts of the given lengths, of tokens and token types that an encoder of shape `spec` knows.
pub fn random_tokens(spec: &EncoderSpec, lengths: &[usize], seed: u64) -> Tokens {
    let mut random = Random(seed);
    let count = lengths.iter().sum();
    Tokens {
        ids: (0..count).map(|_| random.below(spec.vocabulary)).collect(),
        types: (0..count).map(|_| random.below(spec.token_types.max(1))).collect(),
        lengths: lengths.to_vec(),
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014): good enough for this, and fast where dependencies are not optimised.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// In 0..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    fn below(&mut self, limit: usize) -> u32 {
        (self.next() % limit as u64) as u32
    }
}

fn projection(random: &mut Random, inputs: usize, outputs: usize) -> Projection {
    // The variance of a uniform distribution over ±r is r²/3.
    let range = (3.0 / inputs as f32).sqrt();
    Projection { weight: uniform(random, inputs * outputs, range), bias: uniform(random, outputs, 0.1) }
}

fn norm(random: &mut Random, width: usize) -> NormWeights {
    let scale = (0..width).map(|_| if random.below(10) == 0 { 2.0 } else { 0.5 + 0.5 * random.unit() }).collect();
    NormWeights { scale, shift: uniform(random, width, 0.2) }
}

fn uniform(random: &mut Random, count: usize, range: f32) -> Vec<f32> {
    (0..count).map(|_| range * (2.0 * random.unit() - 1.0)).collect()
}
