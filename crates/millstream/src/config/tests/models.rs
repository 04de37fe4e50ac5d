//! Models of the same files in one pipeline, and what a reload of one of them means for the others.

use std::time::Duration;

use millstream_core::SystemClock;
use millstream_models::Prediction;

use std::path::Path;
use std::sync::Arc;

use millstream_core::Clock;
use millstream_engine::Plan;
use millstream_engine::models::ModelSet;
use millstream_engine::spec::Pipeline;
use millstream_storage::state::StateOptions;

use crate::config::PipelineFile;

const PIPELINE: &str = "
pipeline: shared
sources: { wire: { type: http, schema: { id: int, text: string }, key: [id] } }
models:
  one: { task: text-classification, source: ./model, threads: 1, cache: { ttl: 1h } }
  other: { task: text-classification, source: ./model, threads: 1, batch: { max: 2 }, shadow: third }
  third: { task: text-classification, source: ./model, threads: 1 }
transforms:
  a: { from: wire, predict: { model: one, input: text, output: a } }
  b: { from: a, predict: { model: other, input: text, output: b } }
tables: { news: { from: b, key: [id] } }
";

/// A folder with a model and a pipeline of it.
fn place() -> (tempfile::TempDir, Pipeline) {
    let place = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/testdata/transformers/bert-classifier");
    std::fs::create_dir(place.path().join("model")).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), place.path().join("model").join(file.file_name())).unwrap();
    }
    let pipeline = PipelineFile::parse("pipeline.yaml", PIPELINE, place.path(), &|_| None, &|_| Ok(()));
    let pipeline = pipeline.unwrap_or_else(|wrong| panic!("{wrong}")).pipeline;
    (place, pipeline)
}

async fn open(place: &tempfile::TempDir, pipeline: &Pipeline) -> ModelSet {
    let (plan, clock): (_, Arc<dyn Clock>) = (Plan::new(pipeline).unwrap(), Arc::new(SystemClock));
    ModelSet::open(pipeline, &plan, (place.path().join("cache"), &StateOptions::default()), &clock, &Arc::default())
        .await
        .unwrap()
}

/// Puts files with other weights in the place of the model's.
fn change_weights(place: &tempfile::TempDir) {
    let path = place.path().join("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    for number in bytes.rchunks_exact_mut(4).take(64) {
        number.copy_from_slice(&0.5f32.to_le_bytes());
    }
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn digest(models: &ModelSet, name: &str) -> Arc<str> {
    models.scorers[name].info().digest.clone()
}

async fn said(models: &ModelSet, name: &str) -> Prediction {
    models.scorers[name].model().predict(vec!["shares rose"]).await.unwrap().remove(0).unwrap()
}

/// The threads of a replaced model end a moment later.
async fn until_in_memory(models: &ModelSet, expected: usize) {
    while models.weights_in_memory() != expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_the_same_files_share_weights_and_are_reloaded_one_by_one() {
    let (place, pipeline) = place();
    let models = open(&place, &pipeline).await;
    assert_eq!((models.scorers.len(), models.weights_in_memory()), (3, 1));
    assert!(models.scorers["one"].cache().is_some() && models.scorers["one"].shadow().is_none());
    assert!(models.scorers["other"].cache().is_none() && models.scorers["other"].shadow().is_some());
    let (old, old_said) = (digest(&models, "one"), said(&models, "one").await);

    let same = models.reload(&pipeline, "one").await.unwrap();
    assert_eq!((&same.digest, models.weights_in_memory()), (&old, 1), "nothing is read twice that has not changed");

    change_weights(&place);
    let new = models.reload(&pipeline, "one").await.unwrap();
    assert_eq!(new.replaced, old);
    assert_ne!(new.digest, old);
    assert_eq!(models.weights_in_memory(), 2);
    assert_ne!(said(&models, "one").await, old_said);
    for name in ["other", "third"] {
        assert_eq!((digest(&models, name), said(&models, name).await), (old.clone(), old_said.clone()), "{name}");
    }
    for name in ["other", "third"] {
        assert_eq!(models.reload(&pipeline, name).await.unwrap().digest, new.digest);
        assert_eq!(said(&models, name).await, said(&models, "one").await);
    }
    until_in_memory(&models, 1).await;
}
