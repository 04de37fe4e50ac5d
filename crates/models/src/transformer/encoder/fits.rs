//! Everything that an encoder relies on: shapes that fit, and numbers that are numbers.

use millstream_core::{Error, Result};

use super::super::spec::{EmbeddingWeights, EncoderSpec, LayerWeights};

/// The sizes themselves.
pub(super) fn spec(spec: &EncoderSpec) -> Result<()> {
    let (hidden, wide) = (spec.hidden, spec.intermediate);
    if hidden == 0 || wide == 0 || spec.heads == 0 || !hidden.is_multiple_of(spec.heads) {
        return fail(format!("an encoder of width {hidden} and {wide} can't have {} heads", spec.heads));
    }
    if spec.positions <= spec.first_position {
        return fail(format!("{} positions leave none from {} on", spec.positions, spec.first_position));
    }
    Ok(())
}

/// What stands in front of the blocks.
pub(super) fn embeddings(spec: &EncoderSpec, weights: &EmbeddingWeights) -> Result<()> {
    let hidden = spec.hidden;
    numbers("the token table", &weights.token_table, spec.vocabulary * hidden)?;
    numbers("the position table", &weights.position_table, spec.positions * hidden)?;
    numbers("the token type table", &weights.type_table, spec.token_types * hidden)?;
    numbers("the scale of the norm of the embeddings", &weights.norm.scale, hidden)?;
    numbers("the shift of the norm of the embeddings", &weights.norm.shift, hidden)
}

/// Block number `index`, from 0.
pub(super) fn layer(spec: &EncoderSpec, index: usize, layer: &LayerWeights) -> Result<()> {
    if index >= spec.layers {
        return fail(format!("more than {} layers of weights for {0} layers", spec.layers));
    }
    let (hidden, wide) = (spec.hidden, spec.intermediate);
    let projections = [
        ("query", &layer.query, hidden, hidden),
        ("key", &layer.key, hidden, hidden),
        ("value", &layer.value, hidden, hidden),
        ("attention output", &layer.attention_output, hidden, hidden),
        ("first dense layer", &layer.expand, hidden, wide),
        ("second dense layer", &layer.contract, wide, hidden),
    ];
    for (name, projection, inputs, outputs) in projections {
        numbers(&format!("the {name} weight of layer {index}"), &projection.weight, inputs * outputs)?;
        numbers(&format!("the {name} bias of layer {index}"), &projection.bias, outputs)?;
    }
    for (name, norm) in [("attention", &layer.attention_norm), ("output", &layer.output_norm)] {
        numbers(&format!("the {name} norm's scale of layer {index}"), &norm.scale, hidden)?;
        numbers(&format!("the {name} norm's shift of layer {index}"), &norm.shift, hidden)?;
    }
    Ok(())
}

/// That there were as many blocks as there should be.
pub(super) fn layer_count(spec: &EncoderSpec, count: usize) -> Result<()> {
    if count != spec.layers {
        return fail(format!("{count} layers of weights for {} layers", spec.layers));
    }
    Ok(())
}

fn numbers(name: &str, numbers: &[f32], count: usize) -> Result<()> {
    if numbers.len() != count {
        return fail(format!("{name} has {} numbers, not {count}", numbers.len()));
    }
    if !numbers.iter().all(|x| x.is_finite()) {
        return fail(format!("{name} has a number that is not finite"));
    }
    Ok(())
}

fn fail(message: String) -> Result<()> {
    Err(Error::config(message))
}
