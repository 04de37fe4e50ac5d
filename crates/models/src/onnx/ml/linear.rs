//! `LinearClassifier`: logistic regression and its kin. (tract's own can't have words as labels.)

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::classes::{Labels, PostTransform, winner};
use super::{Fact, Kernel, batch, floats, list, only, rows_and_width};

#[derive(Debug)]
pub(super) struct LinearClassifier {
    labels: Labels,
    /// One row of weights for each class; with two classes, perhaps only one, for the second.
    coefficients: Vec<f32>,
    /// As many as rows of weights.
    intercepts: Vec<f32>,
    post_transform: PostTransform,
}

impl LinearClassifier {
    pub(super) fn new(node: &NodeProto) -> TractResult<Self> {
        let labels = Labels::new(node, "classlabels_ints")?;
        let coefficients: Vec<f32> = node.get_attr_vec("coefficients")?;
        let mut intercepts: Vec<f32> = list(node, "intercepts")?;
        if intercepts.is_empty() {
            intercepts = vec![0.0; labels.len()];
        }
        let (models, classes) = (intercepts.len(), labels.len());
        ensure!(
            models == classes || (models, classes) == (1, 2),
            "there are {models} intercepts for {classes} classes"
        );
        let is_whole = !coefficients.is_empty() && coefficients.len().is_multiple_of(models);
        ensure!(is_whole, "{} coefficients can't be shared by {models} classes", coefficients.len());
        Ok(Self { labels, coefficients, intercepts, post_transform: PostTransform::new(node)? })
    }

    /// A row's scores, and the class that wins.
    fn score(&self, row: &[f32], scores: &mut [f32]) -> usize {
        let dot = |weights: &[f32]| weights.iter().zip(row).map(|(weight, x)| weight * x).sum::<f32>();
        if let [intercept] = *self.intercepts {
            let score = dot(&self.coefficients) + intercept;
            scores.copy_from_slice(&[
                if self.post_transform == PostTransform::None { 1.0 - score } else { -score },
                score,
            ]);
            self.post_transform.apply(scores);
            return usize::from(score > 0.0);
        }
        let weights = self.coefficients.chunks_exact(row.len());
        for ((score, weights), intercept) in scores.iter_mut().zip(weights).zip(&self.intercepts) {
            *score = dot(weights) + intercept;
        }
        let winner = winner(scores);
        self.post_transform.apply(scores);
        winner
    }
}

impl Kernel for LinearClassifier {
    fn name(&self) -> &'static str {
        "LinearClassifier"
    }

    fn output_count(&self) -> usize {
        2
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let rows = batch(only(inputs)?);
        let scores = tvec![rows.clone(), self.labels.len().to_dim()];
        Ok(vec![(self.labels.datum_type(), tvec![rows]), (f32::datum_type(), scores)])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let input = only(inputs)?;
        let (rows, width) = rows_and_width(input.shape())?;
        let weights = self.coefficients.len() / self.intercepts.len();
        ensure!(width == weights, "there are {weights} weights for each class, and {width} columns");
        let mut scores = vec![0.0; self.labels.len()];
        let (mut winners, mut all) = (Vec::new(), Vec::new());
        for row in floats(input)?.chunks_exact(width) {
            winners.push(self.score(row, &mut scores));
            all.extend_from_slice(&scores);
        }
        Ok(vec![self.labels.of(&winners), Tensor::from_shape(&[rows, self.labels.len()], &all)?])
    }
}
