//! What classifiers share: labels, and what is done to their scores at the end.

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::list;

/// The labels of a classifier.
#[derive(Debug)]
pub(super) enum Labels {
    Ints(Vec<i64>),
    Strings(Vec<String>),
}

impl Labels {
    /// From `classlabels_strings`, or the attribute `ints`.
    pub(super) fn new(node: &NodeProto, ints: &str) -> TractResult<Self> {
        let strings: Vec<String> = list(node, "classlabels_strings")?;
        let labels = if strings.is_empty() { Self::Ints(list(node, ints)?) } else { Self::Strings(strings) };
        ensure!(labels.len() >= 2, "there are {} class labels", labels.len());
        Ok(labels)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Ints(labels) => labels.len(),
            Self::Strings(labels) => labels.len(),
        }
    }

    pub(super) fn datum_type(&self) -> DatumType {
        match self {
            Self::Ints(_) => i64::datum_type(),
            Self::Strings(_) => String::datum_type(),
        }
    }

    /// The labels at these indices, as a tensor.
    pub(super) fn of(&self, winners: &[usize]) -> Tensor {
        match self {
            Self::Ints(labels) => tensor1(&winners.iter().map(|&i| labels[i]).collect::<Vec<_>>()),
            Self::Strings(labels) => tensor1(&winners.iter().map(|&i| labels[i].clone()).collect::<Vec<_>>()),
        }
    }
}

/// The index of the highest score, the first of equals.
pub(super) fn winner(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// The attribute `post_transform`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PostTransform {
    None,
    Softmax,
    Logistic,
}

impl PostTransform {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        Ok(match node.get_attr_opt::<&str>("post_transform")?.unwrap_or("NONE") {
            "NONE" => Self::None,
            "SOFTMAX" => Self::Softmax,
            "LOGISTIC" => Self::Logistic,
            other => bail!("`post_transform: {other}` is not supported"),
        })
    }

    /// To the scores of one row.
    pub(super) fn apply(self, scores: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Logistic => scores.iter_mut().for_each(|score| *score = 1.0 / (1.0 + (-*score).exp())),
            Self::Softmax => {
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
                let sum: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|score| *score /= sum);
            }
        }
    }
}
