//! Every path of this processor against the plain encoder.

use std::borrow::Borrow;
use std::cell::Cell;
use std::sync::Arc;

use millstream_core::Error;
use proptest::prelude::*;

use super::super::kernels::{Kernels, Path};
use super::super::random::{random_tokens, random_weights};
use super::super::reference::Reference;
use super::super::spec::{Activation, EncoderSpec, EncoderWeights, LayerWeights, Precision, Tokens};
use super::{Encoder, PackedEncoder};

/// As small as it can be and still have several panels, and heads that fill none.
fn small() -> EncoderSpec {
    EncoderSpec {
        hidden: 60,
        layers: 2,
        heads: 3,
        intermediate: 100,
        vocabulary: 50,
        positions: 130,
        first_position: 0,
        token_types: 2,
        activation: Activation::Gelu,
        norm_epsilon: 1e-12,
    }
}

fn paths(precision: Precision) -> impl Iterator<Item = Kernels> {
    Path::choices(precision).into_iter().filter_map(move |path| Kernels::new(path, precision))
}

fn encoder(spec: &EncoderSpec, weights: &EncoderWeights, kernels: Kernels, threads: usize) -> Encoder {
    let layers = weights.layers.iter().map(Ok);
    let packed = PackedEncoder::with_kernels(spec.clone(), weights.embeddings.clone(), layers, kernels).unwrap();
    Encoder::new(Arc::new(packed), threads).unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |largest, x| if x.is_nan() { x } else { largest.max(x) })
}

/// 1 minus the cosine of the angle between the rows that are furthest apart.
fn largest_turn(a: &[f32], b: &[f32], width: usize) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let turn = |(a, b): (&[f32], &[f32])| 1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    a.chunks(width).zip(b.chunks(width)).map(turn).fold(0.0, f64::max) as f32
}

fn agrees_with_reference(spec: &EncoderSpec, lengths: &[usize], seed: u64) {
    let weights = random_weights(spec, seed);
    let tokens = random_tokens(spec, lengths, seed + 1);
    let reference = Reference::encode(spec, &weights, &tokens);
    for kernels in [Precision::F32, Precision::Bf16, Precision::Int8].into_iter().flat_map(paths) {
        for threads in [1, 2, 3] {
            let mut encoder = encoder(spec, &weights, kernels, threads);
            let place = format!("{:?} with {threads} threads on {lengths:?}", kernels.path());
            let states = encoder.encode(&tokens).to_vec();
            match kernels.precision() {
                Precision::F32 => {
                    let difference = largest_difference(&states, &reference);
                    assert!(difference < 5e-5, "{place}: {difference}");
                }
                Precision::Bf16 | Precision::Int8 => {
                    let turn = largest_turn(&states, &reference, spec.hidden);
                    assert!(turn < 2e-3, "{place}: {turn}");
                }
            }
            let firsts: Vec<f32> = lengths
                .iter()
                .scan(0, |row, length| Some(std::mem::replace(row, *row + length)))
                .flat_map(|row| states[row * spec.hidden..][..spec.hidden].to_vec())
                .collect();
            let difference = largest_difference(encoder.encode_first(&tokens), &firsts);
            assert!(difference < 5e-5, "{place}: the first tokens by themselves: {difference}");
            assert_eq!(encoder.encode(&tokens), states, "{place}: the same again");
        }
    }
}

#[test]
fn every_path_gives_the_states_of_the_plain_encoder() {
    agrees_with_reference(&small(), &[1], 1);
    agrees_with_reference(&small(), &[7, 1, 33, 2], 2);
    agrees_with_reference(&small(), &[130, 5, 64], 3);
    agrees_with_reference(&small(), &[19; 30], 4);
}

#[test]
fn shapes_of_the_family_give_the_states_of_the_plain_encoder() {
    // RoBERTa: one token type, positions from 2 on. DistilBERT: none.
    let roberta = EncoderSpec { token_types: 1, first_position: 2, norm_epsilon: 1e-5, ..small() };
    agrees_with_reference(&roberta, &[128, 3], 5);
    agrees_with_reference(&EncoderSpec { token_types: 0, ..small() }, &[3, 17], 6);
    agrees_with_reference(&EncoderSpec { activation: Activation::GeluTanh, ..small() }, &[9], 7);
    agrees_with_reference(&EncoderSpec { activation: Activation::Relu, ..small() }, &[9], 8);
    // Heads of exactly one panel and of two.
    agrees_with_reference(&EncoderSpec { hidden: 96, ..small() }, &[20, 40], 9);
    agrees_with_reference(&EncoderSpec { hidden: 128, heads: 2, intermediate: 512, ..small() }, &[20, 40], 10);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_text_gets_the_same_states_in_any_company(lengths in prop::collection::vec(1usize..60, 1..12), seed in 0u64..1000) {
        let spec = small();
        let weights = random_weights(&spec, 20);
        let tokens = random_tokens(&spec, &lengths, seed);
        let mut encoder = encoder(&spec, &weights, Kernels::fastest(Precision::F32), 2);
        let together = encoder.encode(&tokens).to_vec();
        let mut row = 0;
        for &length in &lengths {
            let part = row..row + length;
            let alone = Tokens { ids: tokens.ids[part.clone()].to_vec(), types: tokens.types[part.clone()].to_vec(), lengths: vec![length] };
            let difference = largest_difference(encoder.encode(&alone), &together[row * spec.hidden..(row + length) * spec.hidden]);
            prop_assert!(difference < 1e-5, "{difference}");
            row += length;
        }
    }
}

#[test]
fn no_texts_give_no_states() {
    let (spec, weights) = (small(), random_weights(&small(), 30));
    let mut encoder = encoder(&spec, &weights, Kernels::fastest(Precision::F32), 2);
    assert!(encoder.encode(&Tokens::default()).is_empty());
    assert!(encoder.encode_first(&Tokens::default()).is_empty());
}

#[test]
fn a_token_that_the_encoder_does_not_know_panics_and_the_next_call_works() {
    let (spec, weights) = (small(), random_weights(&small(), 31));
    let mut encoder = encoder(&spec, &weights, Kernels::fastest(Precision::F32), 2);
    let good = random_tokens(&spec, &[4, 5], 1);
    let states = encoder.encode(&good).to_vec();
    let bad = Tokens { ids: vec![50], types: vec![0], lengths: vec![1] };
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encoder.encode(&bad).len())).is_err());
    let long = random_tokens(&EncoderSpec { positions: 200, ..small() }, &[131], 1);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| encoder.encode(&long).len())).is_err());
    assert_eq!(encoder.encode(&good), states);
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let spec = small();
    let refusal = |change: &dyn Fn(&mut EncoderWeights)| {
        let mut weights = random_weights(&spec, 32);
        change(&mut weights);
        let layers = weights.layers.iter().map(Ok);
        PackedEncoder::new(spec.clone(), weights.embeddings.clone(), layers, Precision::Int8).unwrap_err().to_string()
    };
    let message = refusal(&|weights| weights.layers[1].expand.weight.truncate(10));
    assert_eq!(message, "the first dense layer weight of layer 1 has 10 numbers, not 6000");
    let message = refusal(&|weights| weights.layers[0].output_norm.scale[3] = f32::NAN);
    assert_eq!(message, "the output norm's scale of layer 0 has a number that is not finite");
    let message = refusal(&|weights| weights.layers.truncate(1));
    assert_eq!(message, "1 layers of weights for 2 layers");
    let message = refusal(&|weights| weights.layers.extend(weights.layers.clone()));
    assert_eq!(message, "more than 2 layers of weights for 2 layers");
    let message = refusal(&|weights| weights.embeddings.norm.shift.clear());
    assert_eq!(message, "the shift of the norm of the embeddings has 0 numbers, not 60");
}

/// A layer that counts how many of its kind there are.
struct Counted<'a> {
    layer: LayerWeights,
    alive: &'a Cell<usize>,
}

impl<'a> Counted<'a> {
    fn new(layer: LayerWeights, alive: &'a Cell<usize>) -> Self {
        alive.set(alive.get() + 1);
        Self { layer, alive }
    }
}

impl Borrow<LayerWeights> for Counted<'_> {
    fn borrow(&self) -> &LayerWeights {
        &self.layer
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

#[test]
fn a_layer_is_packed_and_dropped_before_the_next_is_read() {
    let spec = EncoderSpec { layers: 5, ..small() };
    let EncoderWeights { embeddings, layers } = random_weights(&spec, 33);
    let (alive, most) = (Cell::new(0), Cell::new(0));
    let layers = layers.into_iter().map(|layer| {
        let layer = Counted::new(layer, &alive);
        most.set(most.get().max(alive.get()));
        Ok(layer)
    });
    let packed = PackedEncoder::new(spec.clone(), embeddings, layers, Precision::Int8).unwrap();
    assert_eq!((packed.layers.len(), most.get(), alive.get()), (5, 1, 0));
}

#[test]
fn a_layer_that_cannot_be_read_ends_the_packing() {
    let (spec, weights) = (small(), random_weights(&small(), 34));
    let unreadable = Err(Error::config("the second layer is broken"));
    let behind = std::iter::from_fn(|| panic!("a layer behind the broken one is read"));
    let layers = [Ok(&weights.layers[0]), unreadable].into_iter().chain(behind);
    let error = PackedEncoder::new(spec, weights.embeddings.clone(), layers, Precision::F32).unwrap_err();
    assert_eq!(error.to_string(), "the second layer is broken");
}
