//! `models reload` of a folder whose weights have changed, while records go on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::http::{self, get};
use crate::support::process::eventually;
use crate::support::{Place, Server};

const WEIGHTS: &str = "model/model.safetensors";
const TEXT: &str = "shares rose";

/// A pipeline whose model is a folder, and a second model of the same folder.
fn place() -> Place {
    let place = Place::new(
        "
pipeline: reloaded
sources: { posts: { type: http, schema: { id: int, text: string }, key: [id], partitions: 2 } }
models:
  tone: { task: text-classification, source: ./model, precision: f32 }
  other: { task: text-classification, source: ./model, precision: f32 }
transforms:
  scored: { from: posts, predict: { model: tone, input: text, output: tone } }
  twice: { from: scored, predict: { model: other, input: text, output: other } }
tables: { items: { from: twice, key: [id] } }
",
    );
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/testdata/transformers/bert-classifier");
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        place.write(&format!("model/{}", file.file_name().to_string_lossy()), std::fs::read(file.path()).unwrap());
    }
    place
}

/// Another file in the place of the weights, as tools write it: beside, then renamed.
fn put(place: &Place, weights: &[u8]) {
    place.write("model/new", weights);
    std::fs::rename(place.path("model/new"), place.path(WEIGHTS)).unwrap();
}

/// The same weights, except that the classifier always decides for label number `label`.
fn deciding_for(label: usize, weights: &[u8]) -> Vec<u8> {
    let (length, rest) = weights.split_first_chunk::<8>().unwrap();
    let header_bytes = u64::from_le_bytes(*length) as usize;
    let header: Value = serde_json::from_slice(&rest[..header_bytes]).unwrap();
    let bias = &header["classifier.bias"];
    assert_eq!(bias["dtype"], "F32");
    let at = 8 + header_bytes + bias["data_offsets"][0].as_u64().unwrap() as usize + 4 * label;
    let mut weights = weights.to_vec();
    weights[at..at + 4].copy_from_slice(&50f32.to_le_bytes());
    weights
}

/// Sends so many records with the next ids.
fn push(server: &Server, next_id: &AtomicU64, records: u64) {
    let first = next_id.fetch_add(records, Ordering::SeqCst);
    let lines: String =
        (first..first + records).map(|id| json!({ "id": id, "text": TEXT }).to_string() + "\n").collect();
    let answer = http::post(&format!("{}/streams/posts/records", server.url()), lines);
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// What the query gives, a row a line.
fn query(server: &Server, sql: &str) -> Vec<Value> {
    let answer = http::post(&format!("{}/api/v1/query", server.url()), json!({ "sql": sql }).to_string());
    crate::support::json_lines(&answer.text)
}

fn until_all_are_there(server: &Server, next_id: &AtomicU64) {
    let records = next_id.load(Ordering::SeqCst);
    eventually("all rows", || {
        (query(server, "SELECT count(*) AS n FROM items")[0]["n"].as_u64() == Some(records)).then_some(())
    });
}

fn digest(server: &Server, name: &str) -> String {
    let models = get(&format!("{}/api/v1/models", server.url())).json();
    let model = models["models"].as_array().unwrap().iter().find(|model| model["name"] == name).cloned();
    model.unwrap()["digest"].as_str().unwrap().to_owned()
}

#[test]
fn new_weights_answer_after_a_reload_and_no_record_is_lost_on_the_way() {
    let place = place();
    let server = place.start(&[]);
    let next_id = AtomicU64::new(0);
    push(&server, &next_id, 10);
    until_all_are_there(&server, &next_id);
    let old_digest = digest(&server, "tone");
    let seen = &query(&server, "SELECT tone.label AS label FROM items LIMIT 1")[0];
    let old_label = seen["label"].as_str().unwrap().to_owned();
    let labels = get(&format!("{}/v2/models/tone", server.url())).json()["parameters"]["labels"].clone();
    let labels: Vec<String> = serde_json::from_value(labels).unwrap();
    let new = labels.iter().position(|label| *label != old_label).unwrap();
    let weights = std::fs::read(place.path(WEIGHTS)).unwrap();

    put(&place, &weights[..weights.len() / 2]);
    let refused = http::post(&format!("{}/api/v1/models/tone/reload", server.url()), "");
    assert!(refused.status >= 400, "{refused:?}");
    assert_eq!(digest(&server, "tone"), old_digest, "what can't be loaded replaces nothing");

    put(&place, &deciding_for(new, &weights));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                push(&server, &next_id, 20);
            }
        });
        eventually("records on their way", || (next_id.load(Ordering::SeqCst) > 200).then_some(()));
        let said = place.stdout(&["models", "reload", "tone", "--url", &server.url()]);
        assert!(said.contains(&old_digest), "{said}");
        let then = next_id.load(Ordering::SeqCst);
        eventually("more records", || (next_id.load(Ordering::SeqCst) > then + 200).then_some(()));
        is_over.store(true, Ordering::SeqCst);
        pushing.join().unwrap();
    });
    until_all_are_there(&server, &next_id);
    let new_digest = digest(&server, "tone");
    assert_ne!(new_digest, old_digest);
    assert_eq!(digest(&server, "other"), old_digest, "the other model of the folder was not reloaded");

    let sql = "SELECT DISTINCT tone.model_digest AS digest, tone.label AS label FROM items";
    let pair = |row: Value| (row["digest"].as_str().unwrap().to_owned(), row["label"].as_str().unwrap().to_owned());
    let said: BTreeSet<(String, String)> = query(&server, sql).into_iter().map(pair).collect();
    let expected = [(old_digest.clone(), old_label.clone()), (new_digest, labels[new].clone())];
    assert_eq!(said, BTreeSet::from(expected), "each row has the answer of the model that it names");
    let sql = "SELECT DISTINCT other.model_digest AS digest, other.label AS label FROM items";
    let others: Vec<(String, String)> = query(&server, sql).into_iter().map(pair).collect();
    assert_eq!(others, [(old_digest, old_label)]);
    let last = format!("SELECT tone.label AS label FROM items WHERE id = {}", next_id.load(Ordering::SeqCst) - 1);
    assert_eq!(query(&server, &last)[0]["label"], *labels[new]);
    assert_eq!(get(&format!("{}/api/v1/dlq", server.url())).json()["dead_letters"], json!([]));
}
