//! Where the outputs of a stage begin: its tables, and the streams that it writes.
//!
//! A stage has one offset, but its outputs may be younger than what is behind that offset. What is new begins where the
//! stage is (`start: latest`), or is *filled* first with what the log still holds (`start: earliest`): the task reads
//! the log again for that output alone, then goes on for all. So that this happens once, whatever crashes, each task
//! keeps beside its commit which outputs it has fed, and how far a filling is, and writes both together.
//!
//! ```text
//! key  m/outputs: JSON of [`Outputs`]
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::heard::Heard;
use crate::plan::StagePlan;
use crate::spec::Start;

/// The key of this record in a task's state.
pub const OUTPUTS_KEY: &[u8] = b"m/outputs";

/// What a task knows of its outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Every output that it has ever fed, by name: a table, or a stream.
    pub fed: BTreeMap<String, Fed>,
    /// Steps and tables whose failures have been put aside: a filling does not do it again.
    pub steps: BTreeSet<String>,
    /// What is still to be filled, in this order.
    pub fills: Vec<Fill>,
    /// The streams of transforms have had the rows of all records below this offset: a replay computes them for its
    /// tables alone.
    #[serde(default)]
    pub sent_below: u64,
}

/// One output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fed {
    /// The first offset that it was fed.
    pub began: u64,
    /// Where feeding ended, for an output that the pipeline file no longer has.
    pub until: Option<u64>,
}

/// A part of the log that is read again for some outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// The outputs.
    pub outputs: BTreeSet<String>,
    /// The next offset to read.
    pub at: u64,
    /// Where it ends.
    pub until: u64,
    /// Steps whose failures were put aside when these records were read the first time.
    pub quiet: BTreeSet<String>,
    /// What was heard of the input's producers on the way from its beginning to `at`; as `heard.rs` encodes it.
    pub heard: Vec<u8>,
}

/// An output that begins, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begins {
    /// The output.
    pub output: String,
    /// Its first record.
    pub offset: u64,
    /// There are older records, which it does not get.
    pub leaves_out: bool,
    /// It is filled first.
    pub filled: bool,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// It has never committed: nothing was fed.
    pub is_fresh: bool,
    /// Its next offset.
    pub next: u64,
    /// The first offset that the log still has.
    pub log_start: u64,
}

impl Outputs {
    /// From the bytes that [`Outputs::encode`] made.
    ///
    /// # Errors
    /// `Corruption`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::corruption("the outputs of a task do not read back").caused_by(e))
    }

    /// As bytes.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::bug(e.to_string()))
    }

    /// For a task of a version that kept no such record: the outputs that the data folder knows have been fed.
    pub fn of_earlier_version(plan: &StagePlan, known: &BTreeSet<String>, log_start: u64) -> Self {
        let fed = plan.outputs().filter(|(name, _)| known.contains(&**name));
        let fed: BTreeMap<String, Fed> =
            fed.map(|(name, _)| (name.to_string(), Fed { began: log_start, until: None })).collect();
        let names: BTreeSet<String> = fed.keys().cloned().collect();
        Self { steps: plan.restricted_to(&names).step_names(), fed, fills: Vec::new(), sent_below: 0 }
    }

    /// Brings the record up to what `plan` now has; says what begins.
    pub fn follow(&mut self, plan: &StagePlan, at: Position) -> Vec<Begins> {
        let mut begins = Vec::new();
        let mut to_fill: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
        let current: BTreeSet<String> = plan.outputs().map(|(name, _)| name.to_string()).collect();
        self.drop_others(&current, at.next);
        for (name, start) in plan.outputs() {
            let known = self.fed.get(&*name).copied();
            if known.is_some_and(|fed| fed.until.is_none()) {
                continue;
            }
            let left_at = known.and_then(|fed| fed.until);
            let oldest = left_at.unwrap_or(0).max(at.log_start).min(at.next);
            let offset = if start == Start::Earliest || at.is_fresh { oldest } else { at.next };
            let filled = offset < at.next;
            if filled {
                to_fill.entry(offset).or_default().insert(name.to_string());
            }
            begins.push(Begins { output: name.to_string(), offset, leaves_out: oldest < offset, filled });
            let began = known.map_or(offset, |fed| fed.began);
            self.fed.insert(name.to_string(), Fed { began, until: None });
        }
        for (from, outputs) in to_fill {
            self.fills.push(Fill {
                outputs,
                at: from,
                until: at.next,
                quiet: self.steps.clone(),
                heard: Heard::default().to_vec(),
            });
        }
        self.steps = plan.step_names();
        begins
    }

    /// Outputs that are gone are fed no further.
    fn drop_others(&mut self, current: &BTreeSet<String>, next: u64) {
        for (name, fed) in self.fed.iter_mut().filter(|(name, fed)| fed.until.is_none() && !current.contains(*name)) {
            let filling = self.fills.iter().filter(|fill| fill.outputs.contains(name)).map(|fill| fill.at).min();
            fed.until = Some(filling.unwrap_or(next));
        }
        for fill in &mut self.fills {
            fill.outputs.retain(|name| current.contains(name));
        }
        self.fills.retain(|fill| !fill.outputs.is_empty() && fill.at < fill.until);
    }

    /// All outputs of `plan` are filled from `from` on: a replay of a single table.
    pub fn refill(&mut self, plan: &StagePlan, from: u64, at: Position) {
        let outputs: BTreeSet<String> = plan.outputs().map(|(name, _)| name.to_string()).collect();
        for name in &outputs {
            let began = self.fed.get(name).map_or(from, |fed| fed.began.min(from));
            self.fed.insert(name.clone(), Fed { began, until: None });
        }
        for fill in &mut self.fills {
            fill.outputs.retain(|name| !outputs.contains(name));
        }
        self.fills.retain(|fill| !fill.outputs.is_empty());
        if from < at.next {
            self.fills.push(Fill {
                outputs,
                at: from,
                until: at.next,
                quiet: self.steps.clone(),
                heard: Heard::default().to_vec(),
            });
        }
    }

    /// The whole stage goes back from `next` to `offset`: what would have been filled behind it is read there, and what
    /// has been sent is not sent again.
    pub fn rewind(&mut self, offset: u64, next: u64) {
        self.sent_below = self.sent_below.max(next);
        for fill in &mut self.fills {
            fill.until = fill.until.min(offset);
        }
        self.fills.retain(|fill| fill.at < fill.until);
    }

    /// The lowest offset that is still to be read, where the stage itself is at `next`.
    pub fn lowest(&self, next: u64) -> u64 {
        self.fills.iter().map(|fill| fill.at).fold(next, u64::min)
    }
}

/// What is said at the start of outputs that begin: one line for each, over all partitions.
pub fn announce(stage: &StagePlan, begins: &[(u32, Begins)]) {
    let mut by_output: BTreeMap<&str, Vec<&Begins>> = BTreeMap::new();
    for (_, one) in begins {
        by_output.entry(&one.output).or_default().push(one);
    }
    for (output, ones) in by_output {
        let offsets = ones.iter().map(|one| one.offset.to_string()).collect::<Vec<_>>().join(", ");
        let (input, name) = (&stage.input, stage.shown(output));
        let plural = if ones.len() > 1 { "offsets" } else { "offset" };
        if ones.iter().any(|one| one.filled) {
            tracing::info!("{name} is filled with what `{input}` holds from {plural} {offsets} on; then all goes on");
        } else if ones.iter().any(|one| one.leaves_out) {
            let advice = match stage.table_of(output) {
                Some(table) => format!("`millstream replay FILE --table {table}` fills it with what is older"),
                None => "what is older is not sent (`start: earliest` in a sink that is new sends it)".to_owned(),
            };
            tracing::info!("{name} begins at {plural} {offsets} of `{input}`; {advice}");
        }
    }
}

/// Names as they are kept.
pub fn names<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> BTreeSet<String> {
    names.map(ToString::to_string).collect()
}
