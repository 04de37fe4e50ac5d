//! The fast encoder: packed weights, a team of threads, and nothing allocated once it has seen a batch as large.
//!
//! ```text
//! layer by layer ──pack once──▶ PackedEncoder (shared) ──▶ Encoder (a team and its buffers) ──encode──▶ hidden states
//! ```
//!
//! Tokens of a batch lie behind each other without padding, so that each product runs over all of them; only attention
//! looks at texts one by one. `plan` says which threads compute what, `forward` what a thread does.

mod arena;
mod attention;
mod fits;
mod forward;
mod packed;
mod plan;
mod team;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use millstream_core::Result;

use super::kernels::Path;
use super::spec::{EncoderSpec, Precision, Tokens};
use arena::Shared;
use forward::{GroupBuffers, Member, ThreadBuffers};
pub use packed::PackedEncoder;
use plan::Plan;
use team::Team;

/// Turns tokens into hidden states with a team of threads.
#[derive(Debug)]
pub struct Encoder {
    model: Arc<PackedEncoder>,
    team: Team,
    plan: Plan,
    groups: Vec<GroupBuffers>,
    /// Locked by their thread for the length of a call; never contended.
    threads: Vec<Mutex<ThreadBuffers>>,
    states: Shared<f32>,
    firsts: Vec<f32>,
}

impl Encoder {
    /// An encoder with `threads` threads, at least 1; the one that calls it is one of them.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(model: Arc<PackedEncoder>, threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        Ok(Self {
            model,
            team: Team::new(threads)?,
            plan: Plan::default(),
            groups: (0..threads).map(|_| GroupBuffers::default()).collect(),
            threads: (0..threads).map(|_| Mutex::default()).collect(),
            states: Shared::default(),
            firsts: Vec::new(),
        })
    }

    /// The shape.
    pub fn spec(&self) -> &EncoderSpec {
        &self.model.spec
    }

    /// Hidden states of the last layer, row-major `tokens × hidden`.
    ///
    /// # Panics
    /// Where `tokens` are none of this encoder: an id, a type or a length that it doesn't have, or lengths that don't
    /// add up.
    pub fn encode(&mut self, tokens: &Tokens) -> &[f32] {
        self.compute(tokens, false);
        // SAFETY: all threads are done with the call.
        unsafe { self.states.get(0, tokens.ids.len() * self.model.spec.hidden) }
    }

    /// As [`Encoder::encode`] for the first token of each text only, row-major `texts × hidden`: cheaper, because
    /// behind the last layer's attention only these rows are computed.
    ///
    /// # Panics
    /// As [`Encoder::encode`].
    pub fn encode_first(&mut self, tokens: &Tokens) -> &[f32] {
        self.compute(tokens, true);
        let width = self.model.spec.hidden;
        self.firsts.clear();
        let mut row = 0;
        for length in &tokens.lengths {
            // SAFETY: all threads are done with the call.
            self.firsts.extend_from_slice(unsafe { self.states.get(row * width, width) });
            row += length;
        }
        &self.firsts
    }

    fn compute(&mut self, tokens: &Tokens, first_only: bool) {
        let spec = &self.model.spec;
        check(spec, tokens);
        self.states.reserve(tokens.ids.len() * spec.hidden);
        if tokens.ids.is_empty() {
            return;
        }
        let threads = self.team.members();
        self.plan.make(&tokens.lengths, threads, self.model.kernels.chunk_tokens());
        let shares = self.plan.shares();
        let members = threads / shares.len();
        let length = tokens.lengths.iter().copied().max().unwrap_or(0);
        for (index, share) in shares.iter().enumerate() {
            let rows = share.chunk_tokens_max();
            self.groups[index].reserve(&self.model, rows);
            self.groups[index].barrier.reset(members);
            for thread in &mut self.threads[index * members..(index + 1) * members] {
                thread.get_mut().unwrap_or_else(PoisonError::into_inner).reserve(&self.model, rows, length);
            }
        }
        let (model, groups, buffers, states) = (&*self.model, &self.groups, &self.threads, &self.states);
        self.team.run(&|thread| {
            let group = &groups[thread / members];
            let _guard = group.barrier.guard();
            // After a panic the buffers hold numbers that the next call overwrites, as after any call.
            let mut own = buffers[thread].lock().unwrap_or_else(PoisonError::into_inner);
            let share = &shares[thread / members];
            let index = thread % members;
            Member { model, tokens, states, share, group, own: &mut own, index, members, first_only }.run();
        });
    }
}

fn check(spec: &EncoderSpec, tokens: &Tokens) {
    let count = tokens.ids.len();
    assert_eq!(tokens.lengths.iter().sum::<usize>(), count, "the lengths of texts add up to the number of tokens");
    let lengths = 1..=spec.tokens_max();
    assert!(tokens.lengths.iter().all(|length| lengths.contains(length)), "each text has 1..={} tokens", lengths.end());
    assert!(tokens.ids.iter().all(|&id| (id as usize) < spec.vocabulary), "token ids are below {}", spec.vocabulary);
    if spec.token_types > 0 {
        assert_eq!(tokens.types.len(), count, "each token has a type");
        assert!(
            tokens.types.iter().all(|&kind| (kind as usize) < spec.token_types),
            "types are below {}",
            spec.token_types
        );
    }
}

/// What to compute in where nobody says otherwise: the fastest that this processor has instructions for.
///
/// Measured on two cores of Zen 5, whose 8-bit dot products do four times as many multiplications as its single
/// precision, and bfloat16 twice as many: BERT-base at batch 32 gives 517 sequences a second in 8 bits, 270 in
/// bfloat16, 144 in single precision. Where an instruction is missing, what stands in for it is not known to be faster,
/// so the more exact numbers are taken.
///
/// Nothing was measured on ARM. There too an 8-bit dot product does four times as many multiplications as an
/// instruction in single precision; processors with bfloat16 dot products have those of integers as well.
pub fn default_precision() -> Precision {
    let has = |precision, paths: &[Path]| Path::choices(precision).iter().any(|path| paths.contains(path));
    const INT8: [Path; 5] = [Path::AmxInt8, Path::Avx512Vnni, Path::AvxVnni, Path::NeonI8mm, Path::NeonDot];
    if has(Precision::Int8, &INT8) {
        Precision::Int8
    } else if has(Precision::Bf16, &[Path::AmxBf16, Path::Avx512Bf16]) {
        Precision::Bf16
    } else {
        Precision::F32
    }
}
