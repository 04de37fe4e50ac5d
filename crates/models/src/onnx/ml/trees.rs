//! `TreeEnsembleClassifier` and `TreeEnsembleRegressor`: random forests and boosted trees.

use std::collections::HashMap;

use tract_onnx::pb::NodeProto;
use tract_onnx::tract_hir::internal::*;

use super::classes::{Labels, PostTransform, winner};
use super::{Fact, Kernel, batch, floats, list, only, rows_and_width};

/// A step on the way down a tree.
#[derive(Debug)]
enum Node {
    Branch {
        feature: usize,
        compare: Compare,
        threshold: f32,
        /// Where a missing value (NaN) goes.
        missing_is_true: bool,
        if_true: usize,
        if_false: usize,
    },
    /// What is added to which score.
    Leaf(Vec<(usize, f32)>),
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Compare {
    fn holds(self, value: f32, threshold: f32) -> bool {
        match self {
            Self::LessOrEqual => value <= threshold,
            Self::Less => value < threshold,
            Self::GreaterOrEqual => value >= threshold,
            Self::Greater => value > threshold,
            Self::Equal => value == threshold,
            Self::NotEqual => value != threshold,
        }
    }
}

#[derive(Debug)]
struct Trees {
    nodes: Vec<Node>,
    roots: Vec<usize>,
    /// The width that a row must have at least.
    width_min: usize,
}

/// How the leaves of several trees become one score.
#[derive(Debug, Clone, Copy)]
enum Aggregate {
    Sum,
    Average,
    Min,
    Max,
}

#[derive(Debug)]
struct Ensemble {
    trees: Trees,
    scores: usize,
    base_values: Vec<f32>,
    post_transform: PostTransform,
}

impl Trees {
    /// Reads the attributes `nodes_…`, and the leaves from `<leaf>_…`.
    fn new(node: &NodeProto, leaf: &str, scores: usize) -> TractResult<Self> {
        for name in ["nodes_values_as_tensor", "nodes_hitrates_as_tensor", &format!("{leaf}_weights_as_tensor")] {
            let is_double = node.attribute.iter().any(|attribute| attribute.name == name);
            ensure!(!is_double, "`{name}`: trees in double precision are not supported, export them for float inputs");
        }
        let tree_ids: Vec<i64> = node.get_attr_vec("nodes_treeids")?;
        let count = tree_ids.len();
        let ints = |name: &str| -> TractResult<Vec<i64>> {
            let values: Vec<i64> = node.get_attr_vec(name)?;
            ensure!(values.len() == count, "`{name}` has {} values for {count} nodes", values.len());
            Ok(values)
        };
        let (node_ids, features) = (ints("nodes_nodeids")?, ints("nodes_featureids")?);
        let (if_true, if_false) = (ints("nodes_truenodeids")?, ints("nodes_falsenodeids")?);
        let thresholds: Vec<f32> = node.get_attr_vec("nodes_values")?;
        let modes: Vec<&str> = node.get_attr_vec("nodes_modes")?;
        let missing: Vec<i64> = list(node, "nodes_missing_value_tracks_true")?;
        ensure!(thresholds.len() == count && modes.len() == count, "`nodes_values` or `nodes_modes` is too short");

        let mut index = HashMap::with_capacity(count);
        let mut roots = Vec::new();
        for i in 0..count {
            if i == 0 || tree_ids[i] != tree_ids[i - 1] {
                roots.push(i);
            }
            ensure!(index.insert((tree_ids[i], node_ids[i]), i).is_none(), "node {} stands twice", node_ids[i]);
        }
        let child = |tree: i64, id: i64| {
            index.get(&(tree, id)).copied().with_context(|| format!("tree {tree} has no node {id}"))
        };
        let mut nodes = Vec::with_capacity(count);
        let mut width_min = 0;
        for i in 0..count {
            let Some(compare) = compare(modes[i])? else {
                nodes.push(Node::Leaf(Vec::new()));
                continue;
            };
            let feature = usize::try_from(features[i]).context("a feature's index is negative")?;
            width_min = width_min.max(feature + 1);
            nodes.push(Node::Branch {
                feature,
                compare,
                threshold: thresholds[i],
                missing_is_true: missing.get(i).is_some_and(|&tracks| tracks != 0),
                if_true: child(tree_ids[i], if_true[i])?,
                if_false: child(tree_ids[i], if_false[i])?,
            });
        }
        let mut trees = Self { nodes, roots, width_min };
        trees.read_leaves(node, leaf, scores, &index)?;
        trees.check_ends()?;
        Ok(trees)
    }

    fn read_leaves(
        &mut self,
        node: &NodeProto,
        leaf: &str,
        scores: usize,
        index: &HashMap<(i64, i64), usize>,
    ) -> TractResult<()> {
        let ints = |name: &str| -> TractResult<Vec<i64>> { node.get_attr_vec(&format!("{leaf}_{name}")) };
        let (trees, ids, targets) = (ints("treeids")?, ints("nodeids")?, ints("ids")?);
        let weights: Vec<f32> = node.get_attr_vec(&format!("{leaf}_weights"))?;
        let lengths = [trees.len(), ids.len(), targets.len(), weights.len()];
        ensure!(lengths.iter().all(|&length| length == lengths[0]), "the lists `{leaf}_…` differ in length");
        for i in 0..weights.len() {
            let at = index.get(&(trees[i], ids[i]));
            let Some(Node::Leaf(values)) = at.map(|&at| &mut self.nodes[at]) else {
                bail!("node {} of tree {} has a weight, but is no leaf", ids[i], trees[i]);
            };
            let target = usize::try_from(targets[i]).ok().filter(|&target| target < scores);
            values
                .push((target.with_context(|| format!("`{leaf}_ids` names {}, of {scores}", targets[i]))?, weights[i]));
        }
        Ok(())
    }

    /// Each node has one way to it, so that every walk ends.
    fn check_ends(&self) -> TractResult<()> {
        let mut is_reached = vec![false; self.nodes.len()];
        let children = self.nodes.iter().flat_map(|node| match node {
            Node::Branch { if_true, if_false, .. } => vec![*if_true, *if_false],
            Node::Leaf(_) => Vec::new(),
        });
        for at in children.chain(self.roots.iter().copied()) {
            ensure!(!std::mem::replace(&mut is_reached[at], true), "a tree's nodes form a circle");
        }
        Ok(())
    }

    fn leaf(&self, root: usize, row: &[f32]) -> &[(usize, f32)] {
        let mut at = root;
        loop {
            match &self.nodes[at] {
                Node::Leaf(values) => return values,
                Node::Branch { feature, compare, threshold, missing_is_true, if_true, if_false } => {
                    let value = row[*feature];
                    let is_true = compare.holds(value, *threshold) || (*missing_is_true && value.is_nan());
                    at = if is_true { *if_true } else { *if_false };
                }
            }
        }
    }

    /// A row's scores; `None` where no leaf said anything about one.
    fn scores(&self, row: &[f32], scores: &mut [Option<f32>], aggregate: Aggregate) {
        scores.fill(None);
        for &root in &self.roots {
            for &(target, weight) in self.leaf(root, row) {
                scores[target] = Some(match (scores[target], aggregate) {
                    (None, _) => weight,
                    (Some(score), Aggregate::Sum | Aggregate::Average) => score + weight,
                    (Some(score), Aggregate::Min) => score.min(weight),
                    (Some(score), Aggregate::Max) => score.max(weight),
                });
            }
        }
        if matches!(aggregate, Aggregate::Average) {
            scores.iter_mut().flatten().for_each(|score| *score /= self.roots.len() as f32);
        }
    }

    /// Calls `each` with every row of the input.
    fn for_rows(&self, input: &TValue, mut each: impl FnMut(&[f32])) -> TractResult<usize> {
        let (rows, width) = rows_and_width(input.shape())?;
        ensure!(width >= self.width_min, "the trees read {} columns; there are {width}", self.width_min);
        floats(input)?.chunks_exact(width).for_each(&mut each);
        Ok(rows)
    }
}

fn compare(mode: &str) -> TractResult<Option<Compare>> {
    Ok(Some(match mode {
        "BRANCH_LEQ" => Compare::LessOrEqual,
        "BRANCH_LT" => Compare::Less,
        "BRANCH_GTE" => Compare::GreaterOrEqual,
        "BRANCH_GT" => Compare::Greater,
        "BRANCH_EQ" => Compare::Equal,
        "BRANCH_NEQ" => Compare::NotEqual,
        "LEAF" => return Ok(None),
        _ => bail!("nodes of mode `{mode}` are not supported"),
    }))
}

impl Ensemble {
    fn new(node: &NodeProto, leaf: &str, scores: usize) -> TractResult<Self> {
        let base_values: Vec<f32> = list(node, "base_values")?;
        ensure!(
            !node.attribute.iter().any(|a| a.name == "base_values_as_tensor"),
            "`base_values_as_tensor`: not supported"
        );
        let post_transform = PostTransform::new(node)?;
        Ok(Self { trees: Trees::new(node, leaf, scores)?, scores, base_values, post_transform })
    }
}

#[derive(Debug)]
struct Regressor {
    ensemble: Ensemble,
    aggregate: Aggregate,
}

pub(super) fn regressor(node: &NodeProto) -> TractResult<impl Kernel> {
    let targets: usize = node.get_attr_opt("n_targets")?.unwrap_or(1);
    let aggregate = match node.get_attr_opt::<&str>("aggregate_function")?.unwrap_or("SUM") {
        "SUM" => Aggregate::Sum,
        "AVERAGE" => Aggregate::Average,
        "MIN" => Aggregate::Min,
        "MAX" => Aggregate::Max,
        other => bail!("`aggregate_function: {other}` is not supported"),
    };
    let ensemble = Ensemble::new(node, "target", targets)?;
    let bases = ensemble.base_values.len();
    ensure!(bases == 0 || bases == targets, "`base_values` has {bases} values for {targets} targets");
    Ok(Regressor { ensemble, aggregate })
}

impl Kernel for Regressor {
    fn name(&self) -> &'static str {
        "TreeEnsembleRegressor"
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        Ok(vec![(f32::datum_type(), tvec![batch(only(inputs)?), self.ensemble.scores.to_dim()])])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let Ensemble { trees, scores: width, base_values, .. } = &self.ensemble;
        let (mut found, mut scores) = (vec![None; *width], vec![0.0; *width]);
        let mut all = Vec::new();
        let rows = trees.for_rows(only(inputs)?, |row| {
            trees.scores(row, &mut found, self.aggregate);
            for (i, score) in scores.iter_mut().enumerate() {
                *score = found[i].unwrap_or(0.0) + base_values.get(i).copied().unwrap_or(0.0);
            }
            self.ensemble.post_transform.apply(&mut scores);
            all.extend_from_slice(&scores);
        })?;
        Ok(vec![Tensor::from_shape(&[rows, *width], &all)?])
    }
}

#[derive(Debug)]
struct Classifier {
    ensemble: Ensemble,
    labels: Labels,
    /// Two classes, and all leaves speak of the same one: a single score stands for both.
    is_binary: bool,
    /// No leaf has a weight below 0: the single score is a probability.
    is_positive: bool,
}

pub(super) fn classifier(node: &NodeProto) -> TractResult<impl Kernel> {
    let labels = Labels::new(node, "classlabels_int64s")?;
    let classes = labels.len();
    let ensemble = Ensemble::new(node, "class", classes)?;
    let ids: Vec<i64> = node.get_attr_vec("class_ids")?;
    let weights: Vec<f32> = node.get_attr_vec("class_weights")?;
    let is_binary = classes == 2 && ids.windows(2).all(|pair| pair[0] == pair[1]);
    let bases = ensemble.base_values.len();
    ensure!(
        bases == 0 || bases == classes || (is_binary && bases == 1),
        "`base_values` has {bases} values for {classes} classes"
    );
    Ok(Classifier { ensemble, labels, is_binary, is_positive: weights.iter().all(|&weight| weight >= 0.0) })
}

impl Classifier {
    /// A row's scores, and the class that wins.
    fn finish(&self, found: &[Option<f32>], scores: &mut [f32]) -> usize {
        let base = |i: usize| self.ensemble.base_values.get(i).copied().unwrap_or(0.0);
        if self.is_binary {
            // The base value that counts is the last one: that of the second class, or the only one.
            let score = found.iter().flatten().sum::<f32>() + base(self.ensemble.base_values.len().saturating_sub(1));
            if self.is_positive {
                scores.copy_from_slice(&[1.0 - score, score]);
                return usize::from(score > 0.5);
            }
            scores.copy_from_slice(&[-score, score]);
            self.ensemble.post_transform.apply(scores);
            return usize::from(score > 0.0);
        }
        for (i, score) in scores.iter_mut().enumerate() {
            *score = found[i].unwrap_or(0.0) + base(i);
        }
        let winner = winner(scores);
        self.ensemble.post_transform.apply(scores);
        winner
    }
}

impl Kernel for Classifier {
    fn name(&self) -> &'static str {
        "TreeEnsembleClassifier"
    }

    fn output_count(&self) -> usize {
        2
    }

    fn facts(&self, inputs: &[Fact]) -> TractResult<Vec<Fact>> {
        let rows = batch(only(inputs)?);
        let scores = tvec![rows.clone(), self.ensemble.scores.to_dim()];
        Ok(vec![(self.labels.datum_type(), tvec![rows]), (f32::datum_type(), scores)])
    }

    fn eval(&self, inputs: &[TValue]) -> TractResult<Vec<Tensor>> {
        let Ensemble { trees, scores: width, .. } = &self.ensemble;
        let (mut found, mut scores) = (vec![None; *width], vec![0.0; *width]);
        let (mut winners, mut all) = (Vec::new(), Vec::new());
        let rows = trees.for_rows(only(inputs)?, |row| {
            trees.scores(row, &mut found, Aggregate::Sum);
            winners.push(self.finish(&found, &mut scores));
            all.extend_from_slice(&scores);
        })?;
        Ok(vec![self.labels.of(&winners), Tensor::from_shape(&[rows, *width], &all)?])
    }
}
