//! What is computed, transforms and tables, in the order in which each follows what it reads.

use std::collections::{BTreeMap, BTreeSet};

use millstream_engine::spec::{CHANGES_SUFFIX, ModelSpec, TableSpec, TransformSpec};

use super::Checker;
use super::transforms::Candidate;
use crate::config::raw::OneOrMany;
use crate::config::tree::Entry;

/// A transform or a table.
struct Computed<'a> {
    entry: &'a Entry,
    what: What<'a>,
    /// The relations that it reads.
    reads: Vec<String>,
}

enum What<'a> {
    Transform(Box<Candidate<'a>>),
    Table(&'a Entry),
}

impl<'a> Checker<'a> {
    /// Transforms, each after those it reads, and tables, as in the file.
    pub(super) fn computed(&mut self, models: &[ModelSpec]) -> (Vec<TransformSpec>, Vec<TableSpec>) {
        let transforms = self.transform_candidates().into_iter().map(|candidate| Computed {
            entry: candidate.entry,
            reads: candidate.inputs.clone().unwrap_or_default(),
            what: What::Transform(Box::new(candidate)),
        });
        let mut computed: Vec<Computed<'a>> = transforms.collect();
        for entry in self.table_entries() {
            let from = entry.value.get("from").and_then(|from| serde_json::from_value(from.to_json()).ok());
            let reads = from.map(|from: OneOrMany| from.names().to_vec()).unwrap_or_default();
            computed.push(Computed { entry, what: What::Table(entry), reads });
        }
        let (mut transforms, mut tables) = (Vec::new(), Vec::new());
        for index in self.order(&computed) {
            match &computed[index].what {
                What::Transform(candidate) => transforms.extend(self.transform(candidate, models)),
                What::Table(entry) => tables.extend(self.table_of(entry).map(|table| (index, table))),
            }
        }
        tables.sort_by_key(|(index, _)| *index);
        (transforms, tables.into_iter().map(|(_, table)| table).collect())
    }

    /// Indices of what is computed, each after what it reads. Those in or behind a circle are left out.
    fn order(&mut self, computed: &[Computed<'a>]) -> Vec<usize> {
        let index: BTreeMap<&str, usize> =
            computed.iter().enumerate().map(|(i, c)| (c.entry.key.as_str(), i)).collect();
        // The changes of a table come from the table.
        let of = |name: &str| index.get(name.strip_suffix(CHANGES_SUFFIX).unwrap_or(name)).copied();
        let reads: Vec<Vec<usize>> =
            computed.iter().map(|c| c.reads.iter().filter_map(|name| of(name)).collect()).collect();
        let mut order: Vec<usize> = Vec::new();
        let mut left: BTreeSet<usize> = (0..computed.len()).collect();
        while let Some(next) = left.iter().copied().find(|&i| reads[i].iter().all(|r| !left.contains(r))) {
            left.remove(&next);
            order.push(next);
        }
        while let Some(&start) = left.first() {
            let circle = circle(start, &reads, &left);
            if let Some(circle) = &circle {
                let names: Vec<&str> =
                    circle.iter().chain(circle.first()).map(|&i| computed[i].entry.key.as_str()).collect();
                let message = if circle.len() == 1 {
                    format!("`{}` reads itself", names[0])
                } else {
                    let tables = circle.iter().any(|&i| matches!(computed[i].what, What::Table(_)));
                    let what = if tables { "transforms and tables" } else { "transforms" };
                    format!("these {what} read each other in a circle: {}", names.join(" → "))
                };
                let place = &computed[circle[0]].entry.place;
                self.error(
                    place,
                    message,
                    Some("the first must read a source, or a transform outside of the circle".into()),
                );
            }
            left.remove(&start);
            circle.into_iter().flatten().for_each(|i| {
                left.remove(&i);
            });
        }
        order
    }
}

/// A way from `start` back to where it has been, along what is read; the circle begins with its first transform in the
/// file. None where `start` only reads from a circle.
fn circle(start: usize, reads: &[Vec<usize>], left: &BTreeSet<usize>) -> Option<Vec<usize>> {
    let mut path = vec![start];
    loop {
        let next = *reads[*path.last()?].iter().find(|r| left.contains(r))?;
        if let Some(from) = path.iter().position(|&i| i == next) {
            let mut circle = path.split_off(from);
            let first = circle.iter().enumerate().min_by_key(|(_, i)| **i)?.0;
            circle.rotate_left(first);
            return Some(circle);
        }
        path.push(next);
    }
}
