//! The encoder written as it is described, in single precision on one thread: what everything faster is measured
//! against.
//!
//! Nothing here is tuned. Sums run in double precision where it costs nothing in clarity, so that the answer is the
//! better one where the two differ.

use super::spec::{
    Activation, EmbeddingWeights, EncoderSpec, EncoderWeights, LayerWeights, NormWeights, Projection, Tokens,
};

/// The readable encoder.
#[derive(Debug)]
pub struct Reference;

impl Reference {
    /// The hidden states of the last layer, row-major `tokens × hidden`.
    ///
    /// # Panics
    /// Where ids, types, positions or shapes are outside of what `spec` says; callers check before.
    pub fn encode(spec: &EncoderSpec, weights: &EncoderWeights, tokens: &Tokens) -> Vec<f32> {
        let mut states = embed(spec, &weights.embeddings, tokens);
        for layer in &weights.layers {
            states = block(spec, layer, &states, &tokens.lengths);
        }
        states
    }
}

fn embed(spec: &EncoderSpec, weights: &EmbeddingWeights, tokens: &Tokens) -> Vec<f32> {
    let width = spec.hidden;
    let positions = tokens.lengths.iter().flat_map(|&length| (0..length).map(|i| spec.first_position + i));
    let mut states = Vec::with_capacity(tokens.ids.len() * width);
    for (index, (&id, position)) in tokens.ids.iter().zip(positions).enumerate() {
        let token = &weights.token_table[id as usize * width..][..width];
        let place = &weights.position_table[position * width..][..width];
        let mut row: Vec<f32> = token.iter().zip(place).map(|(a, b)| a + b).collect();
        if spec.token_types > 0 {
            let kind = &weights.type_table[tokens.types[index] as usize * width..][..width];
            row.iter_mut().zip(kind).for_each(|(a, b)| *a += b);
        }
        normalise(&mut row, &weights.norm, spec.norm_epsilon);
        states.extend_from_slice(&row);
    }
    states
}

fn block(spec: &EncoderSpec, layer: &LayerWeights, states: &[f32], lengths: &[usize]) -> Vec<f32> {
    let query = project(states, &layer.query);
    let key = project(states, &layer.key);
    let value = project(states, &layer.value);
    let context = attend(spec, &query, &key, &value, lengths);
    let mut attended = project(&context, &layer.attention_output);
    add_and_normalise(&mut attended, states, &layer.attention_norm, spec);

    let mut wide = project(&attended, &layer.expand);
    wide.iter_mut().for_each(|x| *x = activate(*x, spec.activation));
    let mut output = project(&wide, &layer.contract);
    add_and_normalise(&mut output, &attended, &layer.output_norm, spec);
    output
}

/// `x · weightᵀ + bias` for each row of `rows`.
fn project(rows: &[f32], projection: &Projection) -> Vec<f32> {
    let outputs = projection.bias.len();
    let inputs = projection.weight.len() / outputs;
    let mut result = Vec::with_capacity(rows.len() / inputs * outputs);
    for row in rows.chunks_exact(inputs) {
        for (weight, bias) in projection.weight.chunks_exact(inputs).zip(&projection.bias) {
            result.push(dot(row, weight) + bias);
        }
    }
    result
}

/// Softmax(query · keyᵀ / √d) · value, for each text and head by itself.
fn attend(spec: &EncoderSpec, query: &[f32], key: &[f32], value: &[f32], lengths: &[usize]) -> Vec<f32> {
    let (width, depth) = (spec.hidden, spec.hidden / spec.heads);
    let scale = 1.0 / (depth as f32).sqrt();
    let mut context = vec![0.0; query.len()];
    let mut first = 0;
    for &length in lengths {
        for head in 0..spec.heads {
            let at = |row: usize| (first + row) * width + head * depth;
            for row in 0..length {
                let own = &query[at(row)..][..depth];
                let mut scores: Vec<f32> =
                    (0..length).map(|other| dot(own, &key[at(other)..][..depth]) * scale).collect();
                softmax(&mut scores);
                for (other, score) in scores.iter().enumerate() {
                    for d in 0..depth {
                        context[at(row) + d] += score * value[at(other) + d];
                    }
                }
            }
        }
        first += length;
    }
    context
}

fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - largest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

fn add_and_normalise(rows: &mut [f32], residual: &[f32], norm: &NormWeights, spec: &EncoderSpec) {
    for (row, residual) in rows.chunks_exact_mut(spec.hidden).zip(residual.chunks_exact(spec.hidden)) {
        row.iter_mut().zip(residual).for_each(|(a, b)| *a += b);
        normalise(row, norm, spec.norm_epsilon);
    }
}

fn normalise(row: &mut [f32], norm: &NormWeights, epsilon: f32) {
    let count = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
    let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
    for ((x, scale), shift) in row.iter_mut().zip(&norm.scale).zip(&norm.shift) {
        *x = ((f64::from(*x) - mean) * factor) as f32 * scale + shift;
    }
}

/// The activation function of `x`.
pub(crate) fn activate(x: f32, activation: Activation) -> f32 {
    let wide = f64::from(x);
    match activation {
        Activation::Gelu => (0.5 * wide * (1.0 + erf(wide * std::f64::consts::FRAC_1_SQRT_2))) as f32,
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044715 * wide.powi(3));
            (0.5 * wide * (1.0 + inner.tanh())) as f32
        }
        Activation::Relu => x.max(0.0),
    }
}

/// The error function: its Maclaurin series where that converges quickly, its continued fraction elsewhere
/// (Abramowitz and Stegun, 7.1.5 and 7.1.14).
pub(crate) fn erf(x: f64) -> f64 {
    let size = x.abs();
    if size > 6.0 {
        return x.signum();
    }
    if size < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        return sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..=60).rev().fold(size, |below, n| size + f64::from(n) / 2.0 / below);
    x.signum() * (1.0 - (-size * size).exp() / (fraction * std::f64::consts::PI.sqrt()))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight sums side by side, which the compiler turns into vectors; one sum would take the tests minutes.
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_tabulated_values() {
        // Abramowitz and Stegun, table 7.1.
        for (x, value) in
            [(0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0), (2.6, 0.999_763_965_6)]
        {
            assert!((erf(x) - value).abs() < 1e-9, "erf({x})");
            assert!((erf(-x) + value).abs() < 1e-9, "erf(-{x})");
        }
        assert!((erf(2.499_999_999) - erf(2.500_000_001)).abs() < 1e-9, "the two branches meet");
    }
}
