//! The encoder's tensors, by the names that each architecture gives them.

use millstream_core::Result;

use super::config::{Architecture, Config};
use super::tensors::Weights;
use crate::transformer::{EmbeddingWeights, LayerWeights, NormWeights, Projection};

/// Whether tensors are read, or only looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Their numbers are read.
    Read,
    /// Name, shape and type are compared; what comes back is empty.
    Check,
}

/// Tensors below a prefix of their names.
#[derive(Clone, Copy)]
pub struct Tensors<'a> {
    /// Where from.
    pub weights: &'a Weights,
    /// What stands in front of every name.
    pub prefix: &'a str,
    /// Whether numbers are read.
    pub values: Values,
}

impl Tensors<'_> {
    /// One tensor.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = format!("{}{name}", self.prefix);
        match self.values {
            Values::Read => self.weights.read(&name, shape),
            Values::Check => self.weights.check(&name, shape).map(|()| Vec::new()),
        }
    }

    /// A dense layer with a bias.
    ///
    /// # Errors
    /// As [`Weights::read`].
    pub fn projection(&self, name: &str, inputs: usize, outputs: usize) -> Result<Projection> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Projection { weight, bias: self.tensor(&format!("{name}.bias"), &[outputs])? })
    }

    fn norm(&self, name: &str, width: usize) -> Result<NormWeights> {
        let scale = self.tensor(&format!("{name}.weight"), &[width])?;
        Ok(NormWeights { scale, shift: self.tensor(&format!("{name}.bias"), &[width])? })
    }
}

/// What stands in front of the encoder's tensors in these weights.
pub fn prefix(config: &Config, weights: &Weights) -> &'static str {
    let with_head = config.architecture.prefix();
    let first = "embeddings.word_embeddings.weight";
    if weights.has(&format!("{with_head}{first}")) || !weights.has(first) { with_head } else { "" }
}

/// Compares names, shapes and types of all of the encoder's tensors, without reading numbers; `tensors` has the prefix
/// that [`prefix`] found.
///
/// # Errors
/// As [`Weights::check`].
pub fn check(config: &Config, tensors: Tensors<'_>) -> Result<()> {
    let tensors = Tensors { values: Values::Check, ..tensors };
    embeddings(config, tensors)?;
    layers(config, tensors).try_for_each(|layer| layer.map(drop))
}

/// What stands in front of the layers; `tensors` as for [`check`].
///
/// # Errors
/// As [`Weights::read`].
pub fn embeddings(config: &Config, tensors: Tensors<'_>) -> Result<EmbeddingWeights> {
    let spec = &config.encoder;
    let width = spec.hidden;
    let type_table = match spec.token_types {
        0 => Vec::new(),
        types => tensors.tensor("embeddings.token_type_embeddings.weight", &[types, width])?,
    };
    Ok(EmbeddingWeights {
        token_table: tensors.tensor("embeddings.word_embeddings.weight", &[spec.vocabulary, width])?,
        position_table: tensors.tensor("embeddings.position_embeddings.weight", &[spec.positions, width])?,
        type_table,
        norm: tensors.norm("embeddings.LayerNorm", width)?,
    })
}

/// The layers, first to last, each read when it is asked for; `tensors` as for [`check`]. They fail as
/// [`Weights::read`] does.
pub fn layers<'a>(config: &'a Config, tensors: Tensors<'a>) -> impl Iterator<Item = Result<LayerWeights>> + 'a {
    let (width, wide) = (config.encoder.hidden, config.encoder.intermediate);
    let names = LayerNames::of(config.architecture);
    (0..config.encoder.layers).map(move |index| {
        let place = format!("{}{}.{index}.", tensors.prefix, names.layers);
        let tensors = Tensors { prefix: &place, ..tensors };
        Ok(LayerWeights {
            query: tensors.projection(names.query, width, width)?,
            key: tensors.projection(names.key, width, width)?,
            value: tensors.projection(names.value, width, width)?,
            attention_output: tensors.projection(names.attention_output, width, width)?,
            attention_norm: tensors.norm(names.attention_norm, width)?,
            expand: tensors.projection(names.expand, width, wide)?,
            contract: tensors.projection(names.contract, wide, width)?,
            output_norm: tensors.norm(names.output_norm, width)?,
        })
    })
}

/// The names below one layer.
struct LayerNames {
    layers: &'static str,
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    expand: &'static str,
    contract: &'static str,
    output_norm: &'static str,
}

impl LayerNames {
    fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Bert | Architecture::Roberta | Architecture::XlmRoberta => Self {
                layers: "encoder.layer",
                query: "attention.self.query",
                key: "attention.self.key",
                value: "attention.self.value",
                attention_output: "attention.output.dense",
                attention_norm: "attention.output.LayerNorm",
                expand: "intermediate.dense",
                contract: "output.dense",
                output_norm: "output.LayerNorm",
            },
            Architecture::DistilBert => Self {
                layers: "transformer.layer",
                query: "attention.q_lin",
                key: "attention.k_lin",
                value: "attention.v_lin",
                attention_output: "attention.out_lin",
                attention_norm: "sa_layer_norm",
                expand: "ffn.lin1",
                contract: "ffn.lin2",
                output_norm: "output_layer_norm",
            },
        }
    }
}
