//! candle: its BERT, with the pooler and the classifier of `BertForSequenceClassification` on top.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use candle_transformers::models::bert::{BertModel, Config};

use crate::inputs::Padded;
use crate::{Call, Outcome};

/// Loads `config.json` and `model.safetensors` of the folder.
pub fn load(folder: &Path) -> Outcome<Call> {
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let file = folder.join("model.safetensors");
    // SAFETY: the file is mapped, and nobody writes to it while the benchmark runs.
    let weights = unsafe { VarBuilder::from_mmaped_safetensors(&[file], DType::F32, &Device::Cpu)? };
    let bert = BertModel::load(weights.pp("bert"), &config)?;
    let pooler = linear(&weights.pp("bert.pooler.dense"))?;
    let classifier = linear(&weights.pp("classifier"))?;
    Ok(Box::new(move |batch: &Padded| {
        let matrix = |values: &[u32]| Tensor::from_slice(values, (batch.rows, batch.width), &Device::Cpu);
        let ids = matrix(&batch.ids)?;
        let hidden = bert.forward(&ids, &ids.zeros_like()?, Some(&matrix(&batch.mask)?))?;
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        Ok(classifier.forward(&pooler.forward(&first)?.tanh()?)?.to_vec2()?)
    }))
}

/// A layer whose shape the file says.
fn linear(weights: &VarBuilder<'_>) -> candle_core::Result<Linear> {
    Ok(Linear::new(weights.get_unchecked("weight")?, Some(weights.get_unchecked("bias")?)))
}
