//! From a graph's output to predictions.

use std::sync::Arc;

use millstream_core::{Failure, FailureKind};

use super::config::{OnnxActivation, OnnxPooling};
use super::mapping::{Mapping, Meaning};
use super::tensor::Tensor;
use crate::Prediction;

/// How far the sum of a text's scores may be from 1.
const SUM_TOLERANCE: f32 = 0.01;

type Answer = Result<Prediction, Failure>;

/// One answer for each of the first `rows` rows of an output. `lengths`: tokens of each text, without padding.
///
/// # Errors
/// The output as a whole is not of the shape that was expected.
pub(super) fn read(mapping: &Mapping, output: &Tensor, rows: usize, lengths: &[usize]) -> Result<Vec<Answer>, String> {
    let name = &mapping.answer.name;
    let shape = &output.shape;
    let wrong = || format!("the output `{name}` came with a shape that does not fit the rows");
    let count: usize = shape.iter().product();
    // An output without a dimension for the batch is fine for a single row.
    let batch = if shape.is_empty() { 1 } else { shape[0] };
    if batch < rows || !count.is_multiple_of(batch.max(1)) {
        return Err(wrong());
    }
    let width = count / batch.max(1);
    if mapping.answer.meaning == Meaning::Label {
        return Ok(output
            .to_words()
            .iter()
            .step_by(width.max(1))
            .take(rows)
            .map(|word| label(mapping, word))
            .collect());
    }
    let values = output.to_f32().ok_or_else(wrong)?;
    let row = |i: usize| &values[i * width..][..width];
    let answer = |i: usize| match mapping.answer.meaning {
        Meaning::Scores(activation) => scores(mapping, activation, row(i)),
        Meaning::Value | Meaning::Label => value(name, row(i)),
        Meaning::Embedding { pooling, normalize } => {
            let mut vector = pooled(pooling, row(i), shape, lengths.get(i).copied().unwrap_or(1))
                .ok_or_else(|| Failure::new(FailureKind::Model, wrong()))?;
            if let Some(place) = vector.iter().position(|number| !number.is_finite()) {
                return Err(not_finite(name, "a number", vector[place]));
            }
            if normalize {
                let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
                vector.iter_mut().for_each(|x| *x /= length);
            }
            Ok(Prediction::Embedding(vector))
        }
    };
    Ok((0..rows).map(answer).collect())
}

fn label(mapping: &Mapping, word: &str) -> Answer {
    let Some(at) = mapping.labels.iter().position(|label| **label == *word) else {
        let known: Vec<&str> = mapping.labels.iter().map(Arc::as_ref).collect();
        let message = format!("the model gave the label `{word}`; the labels are {}", known.join(", "));
        return Err(Failure::new(FailureKind::Model, message));
    };
    let mut scores = vec![0.0; mapping.labels.len()];
    scores[at] = 1.0;
    Ok(Prediction::Scores(scores))
}

fn value(name: &str, row: &[f32]) -> Answer {
    match row {
        [value] if value.is_finite() => Ok(Prediction::Value(*value)),
        [value] => Err(not_finite(name, "the value", *value)),
        _ => Err(Failure::new(
            FailureKind::Model,
            format!("the output `{name}` gave several numbers for a row, or none"),
        )),
    }
}

fn scores(mapping: &Mapping, activation: OnnxActivation, row: &[f32]) -> Answer {
    let (name, labels) = (&mapping.answer.name, &mapping.labels);
    let fail = |message: String| Err(Failure::new(FailureKind::Model, message));
    if let Some(at) = row.iter().position(|score| score.is_nan()) {
        let label = labels.get(at).map_or("?", Arc::as_ref);
        return Err(not_finite(name, &format!("the score of `{label}`"), row[at]));
    }
    let mut scores = match (activation, row) {
        (OnnxActivation::Sigmoid, [logit]) => {
            let score = 1.0 / (1.0 + (-logit).exp());
            vec![1.0 - score, score]
        }
        (OnnxActivation::None, [score]) if labels.len() == 2 => vec![1.0 - score, *score],
        _ => row.to_vec(),
    };
    if scores.len() != labels.len() {
        return fail(format!("the output `{name}` gave another number of scores than there are labels"));
    }
    if activation == OnnxActivation::Softmax {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if !largest.is_finite() {
            return fail(format!("the output `{name}` gave logits that are not finite"));
        }
        scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
        let sum: f32 = scores.iter().sum();
        scores.iter_mut().for_each(|score| *score /= sum);
    }
    let sum: f32 = scores.iter().sum();
    let are_probabilities = scores.iter().all(|score| (-SUM_TOLERANCE..=1.0 + SUM_TOLERANCE).contains(score));
    if !are_probabilities || (sum - 1.0).abs() > SUM_TOLERANCE {
        return fail(format!(
            "the output `{name}` gave scores that are no probabilities: if they are logits, set the model's `activation`"
        ));
    }
    scores.iter_mut().for_each(|score| *score = score.clamp(0.0, 1.0));
    Ok(Prediction::Scores(scores))
}

/// One vector for a text; `None` where the shape does not fit.
fn pooled(pooling: Option<OnnxPooling>, row: &[f32], shape: &[usize], tokens: usize) -> Option<Vec<f32>> {
    let (&[_, length, width], Some(pooling)) = (shape, pooling) else {
        return (shape.len() == 2 && !row.is_empty()).then(|| row.to_vec());
    };
    if width == 0 || length < tokens || tokens == 0 {
        return None;
    }
    let mut vectors = row.chunks_exact(width).take(tokens);
    match pooling {
        OnnxPooling::Cls => vectors.next().map(<[f32]>::to_vec),
        OnnxPooling::Mean => {
            let mut mean = vec![0.0; width];
            for vector in vectors {
                mean.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
            }
            mean.iter_mut().for_each(|sum| *sum /= tokens as f32);
            Some(mean)
        }
    }
}

fn not_finite(name: &str, what: &str, value: f32) -> Failure {
    Failure::new(FailureKind::Model, format!("{what} in the output `{name}` is {value}"))
}
