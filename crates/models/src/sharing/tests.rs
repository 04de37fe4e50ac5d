//! Who shares weights with whom, and for how long.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{ModelConfig, ModelHandle, Prediction};

fn folder(name: &str) -> String {
    format!("{}/testdata/transformers/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn load(weights: &SharedWeights, name: &str, settings: Value) -> ModelHandle {
    let mut all = json!({ "task": "text-classification", "source": folder("bert-classifier") });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    serde_json::from_value::<ModelConfig>(all).unwrap().load_sharing(name, weights).unwrap()
}

async fn said(model: &ModelHandle) -> Prediction {
    model.predict(vec!["Shares rose"]).await.unwrap().remove(0).unwrap()
}

/// The threads of a dropped model end a moment later.
async fn until_in_memory(weights: &SharedWeights, expected: usize) {
    while weights.in_memory() != expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn what_is_there_is_not_loaded_again_until_its_last_user_is_gone() {
    let weights = SharedWeights::default();
    let identity = |place: &str, task, digest: &str| Identity { place: place.into(), task, digest: digest.into() };
    let ours = || identity("a", Task::Embedding, "1");
    let first = weights.get_or_load(ours(), || Ok(1)).unwrap();
    let again: Arc<i32> = weights.get_or_load(ours(), || panic!("loaded again")).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    for other in [
        identity("b", Task::Embedding, "1"),
        identity("a", Task::TextClassification, "1"),
        identity("a", Task::Embedding, "2"),
    ] {
        assert_eq!(*weights.get_or_load(other, || Ok(2)).unwrap(), 2);
    }
    assert_eq!(weights.in_memory(), 1, "what nobody kept is gone");
    drop((first, again));
    assert_eq!((weights.in_memory(), *weights.get_or_load(ours(), || Ok(3)).unwrap()), (0, 3));
}

#[test]
fn a_failure_to_load_is_not_kept() {
    let weights = SharedWeights::default();
    let identity = Identity { place: "a".into(), task: Task::Embedding, digest: "1".into() };
    let failed = weights.get_or_load::<i32>(identity.clone(), || Err(millstream_core::Error::config("no")));
    assert!(failed.is_err());
    assert_eq!(*weights.get_or_load(identity, || Ok(1)).unwrap(), 1);
}

#[tokio::test]
async fn queue_threads_and_name_are_each_models_own_and_what_decides_an_answer_is_not_shared() {
    let weights = SharedWeights::default();
    let one = load(&weights, "one", json!({ "precision": "f32" }));
    let other = load(
        &weights,
        "other",
        json!({
            "precision": "f32", "batch": { "max": 2 }, "threads": 1, "stall_timeout": "5s", "cache": { "ttl": "1h" }
        }),
    );
    assert_eq!(weights.in_memory(), 1);
    assert_eq!((&*one.info().name, &*other.info().name), ("one", "other"));
    assert_eq!((one.info().digest.clone(), said(&one).await), (other.info().digest.clone(), said(&other).await));
    let other_said = said(&other).await;
    assert_eq!((one.stats().batch_size.sum, other.stats().batch_size.sum), (1.0, 2.0), "each has its own queue");
    let own = [
        json!({ "precision": "f32", "max_length": 8 }),
        json!({ "precision": "int8" }),
        json!({ "precision": "f32", "source": folder("distilbert-classifier") }),
        json!({ "precision": "f32", "task": "embedding" }),
    ];
    let own: Vec<ModelHandle> = own.into_iter().map(|settings| load(&weights, "own", settings)).collect();
    assert_eq!(weights.in_memory(), 1 + own.len());
    drop(own);
    until_in_memory(&weights, 1).await;
    drop(one);
    assert_eq!(said(&other).await, other_said, "the weights stay as long as one of them needs them");
    drop(other);
    until_in_memory(&weights, 0).await;
}

#[cfg(feature = "onnx")]
#[tokio::test]
async fn a_graph_is_planned_once_for_models_of_the_same_file() {
    use std::path::Path;

    let weights = SharedWeights::default();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/onnx/forest.onnx");
    let crooked = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/../testdata/onnx/forest.onnx");
    let config = |path: &Path, batch| {
        let settings = json!({ "task": "tabular-classification", "source": path, "batch": { "max": batch } });
        serde_json::from_value::<ModelConfig>(settings).unwrap()
    };
    let one = config(&path, 1).load_sharing("one", &weights).unwrap();
    let other = config(&crooked, 2).load_sharing("other", &weights).unwrap();
    assert_eq!(weights.in_memory(), 1);
    assert_eq!((&*one.info().name, &*other.info().name), ("one", "other"));
    drop((one, other));
    until_in_memory(&weights, 0).await;
}
