//! rten: the ONNX files as they are, their weights packed at load.

use std::path::Path;
use std::sync::Arc;

use candle_core::utils::get_num_threads;
use rten::{ModelOptions, RunOptions, ThreadPool};
use rten_tensor::{AsView, Layout, NdTensor};

use crate::inputs::Padded;
use crate::{Call, Outcome};

/// Loads an ONNX file with the inputs `input_ids` and `attention_mask` and the output `logits`.
pub fn load(file: &Path) -> Outcome<Call> {
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(file)?;
    let (ids, mask) = (model.node_id("input_ids")?, model.node_id("attention_mask")?);
    let logits = model.node_id("logits")?;
    // rten's own choice is a thread for each physical core; the other peers have one for each that the system shows.
    let pool = Arc::new(ThreadPool::with_num_threads(get_num_threads()));
    Ok(Box::new(move |batch: &Padded| {
        // rten takes 64-bit integers as 32-bit ones.
        let matrix = |values: &[u32]| {
            NdTensor::from_data([batch.rows, batch.width], values.iter().map(|&v| v as i32).collect::<Vec<i32>>())
        };
        let inputs = vec![(ids, matrix(&batch.ids).into()), (mask, matrix(&batch.mask).into())];
        let options = RunOptions::default().with_thread_pool(Some(pool.clone()));
        let [found] = model.run_n(inputs, [logits], Some(options))?;
        let found: NdTensor<f32, 2> = found.try_into()?;
        Ok(found.to_vec().chunks(found.size(1)).map(<[f32]>::to_vec).collect())
    }))
}
