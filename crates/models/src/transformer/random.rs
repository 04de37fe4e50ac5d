//! Encoders with random weights and texts of random tokens, for tests and benchmarks that need the shape of a model only.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::spec::{EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Projection, Tokens};

/// Weights of the shape of `spec`; the same seed gives the same weights.
///
/// They are spread as a trained encoder's are: every projection keeps the variance of its input, a tenth of the norms'
/// scales are large, so that the states have outliers as those of BERT do.
pub fn random_weights(spec: &EncoderSpec, seed: u64) -> EncoderWeights {
    let mut random = StdRng::seed_from_u64(seed);
    let (hidden, wide) = (spec.hidden, spec.intermediate);
    EncoderWeights {
        token_table: uniform(&mut random, spec.vocabulary * hidden, 0.1).into(),
        position_table: uniform(&mut random, spec.positions * hidden, 0.05),
        type_table: uniform(&mut random, spec.token_types * hidden, 0.05),
        embedding_norm: norm(&mut random, hidden),
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
    let mut random = StdRng::seed_from_u64(seed);
    let count = lengths.iter().sum();
    Tokens {
        ids: (0..count).map(|_| random.random_range(0..spec.vocabulary as u32)).collect(),
        types: (0..count).map(|_| random.random_range(0..spec.token_types.max(1) as u32)).collect(),
        lengths: lengths.to_vec(),
    }
}

fn projection(random: &mut StdRng, inputs: usize, outputs: usize) -> Projection {
    // The variance of a uniform distribution over ±r is r²/3.
    let range = (3.0 / inputs as f32).sqrt();
    Projection { weight: uniform(random, inputs * outputs, range), bias: uniform(random, outputs, 0.1) }
}

fn norm(random: &mut StdRng, width: usize) -> NormWeights {
    let scale = (0..width).map(|_| if random.random_bool(0.1) { 2.0 } else { random.random_range(0.5..1.0) }).collect();
    NormWeights { scale, shift: uniform(random, width, 0.2) }
}

fn uniform(random: &mut StdRng, count: usize, range: f32) -> Vec<f32> {
    (0..count).map(|_| random.random_range(-range..range)).collect()
}
