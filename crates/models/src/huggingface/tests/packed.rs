//! Our packed form: one safetensors file with 8-bit rows, their scales, and the small files as texts.

use safetensors::Dtype;

use super::*;
use crate::text_model::{Settings, find, load_packed};
use crate::{Model, Prediction, TextModel};

/// The model in a folder, packed: matrices of more than one row in 8 bits.
fn packed(folder: &Path, leave_out: &str) -> Vec<u8> {
    let mut tensors: Vec<Tensor> = Vec::new();
    for (name, dtype, shape, bytes) in read_tensors(&folder.join("model.safetensors")) {
        if shape.len() < 2 {
            tensors.push((name, dtype, shape, bytes));
            continue;
        }
        let (mut rows, mut scales) = (Vec::new(), Vec::new());
        let numbers: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        for row in numbers.chunks_exact(shape[1]) {
            let scale = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs())) / 127.0;
            rows.extend(row.iter().map(|x| (x / scale).round() as i8 as u8));
            scales.extend(scale.to_le_bytes());
        }
        tensors.push((format!("{name}.scale"), Dtype::F32, vec![shape[0]], scales));
        tensors.push((name, Dtype::I8, shape, rows));
    }
    tensors.retain(|(name, ..)| name != leave_out);
    let text = |name: &str| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap());
    write_tensors(&tensors, Some(["config.json", "tokenizer.json"].map(text).into()))
}

fn exact() -> Settings {
    Settings { precision: Some(Precision::F32), ..Settings::default() }
}

#[test]
fn a_packed_model_answers_as_the_folder_it_was_made_of() {
    let folder = testdata("bert-classifier");
    let bytes: &'static [u8] = packed(&folder, "").leak();
    let mut packed = load_packed("headlines", bytes, Task::TextClassification, &exact()).unwrap();
    assert_eq!(&*packed.info().name, "headlines");
    assert_eq!(packed.info().labels, ["negative", "neutral", "positive"].map(Arc::from));
    let found = find(&folder, Task::TextClassification, &exact()).unwrap();
    let mut whole = TextModel::new(found.info.clone(), &found).unwrap();
    assert_ne!(packed.info().digest, whole.info().digest);
    let texts = ["Profit rises as exports recover", "Shares fall", ""];
    let answers = packed.predict(&texts).unwrap().into_iter().zip(whole.predict(&texts).unwrap());
    for (packed, whole) in answers {
        let (Ok(Prediction::Scores(packed)), Ok(Prediction::Scores(whole))) = (packed, whole) else {
            panic!("no scores")
        };
        for (packed, whole) in packed.iter().zip(&whole) {
            // 8 bits of 32 random numbers, through two layers: near, and not the same.
            assert!((packed - whole).abs() < 0.1, "{packed} {whole}");
        }
    }
}

#[test]
fn a_packed_matrix_without_its_scales_is_refused() {
    let name = "bert.encoder.layer.0.attention.self.query.weight.scale";
    let bytes = packed(&testdata("bert-classifier"), name).leak();
    let error = load_packed("headlines", bytes, Task::TextClassification, &exact()).err().unwrap().to_string();
    assert!(error.contains(&format!("`{name}` is missing in headlines")) && error.contains("[32]"), "{error}");
}

#[test]
fn a_packed_file_without_texts_is_refused() {
    let tensors = read_tensors(&testdata("bert-classifier").join("model.safetensors"));
    let bytes = write_tensors(&tensors, None).leak();
    let error = load_packed("headlines", bytes, Task::TextClassification, &exact()).err().unwrap().to_string();
    assert!(error.contains("headlines:config.json is missing"), "{error}");
    let error = load_packed("headlines", &bytes[..200], Task::TextClassification, &exact()).err().unwrap();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Corruption);
}
