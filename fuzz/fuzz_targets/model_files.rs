//! Files of models: weights in both formats, descriptions, tokenizers, ONNX graphs.

#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use millstream_models::{ModelConfig, Task};
use millstream_models::huggingface::ModelFiles;
use millstream_models::huggingface::pickle::unpickle;

/// A folder of this process, with a whole small model in it.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let folder = parent.join(format!("millstream-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder to work in");
    for name in NAMES {
        restore(&folder, name);
    }
    folder
});
const NAMES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

fn restore(folder: &Path, name: &str) {
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/models/testdata/transformers/bert-classifier");
    std::fs::copy(whole.join(name), folder.join(name)).expect("a test model");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = millstream_fuzz::choice(data) else { return };
    match choice % 6 {
        0 => drop(unpickle(bytes)),
        1 => {
            let path = FOLDER.join("model.onnx");
            std::fs::write(&path, bytes).expect("room in memory");
            for task in ["text-classification", "tabular-classification"] {
                let config = serde_json::json!({ "task": task, "source": path });
                let config: ModelConfig = serde_json::from_value(config).expect("a model's settings");
                drop(config.check());
            }
        }
        2 => {
            let path = FOLDER.join("pytorch_model.bin");
            std::fs::write(&path, bytes).expect("room in memory");
            let _ = std::fs::remove_file(FOLDER.join(NAMES[2]));
            drop(ModelFiles::open(&FOLDER, Task::TextClassification));
            let _ = std::fs::remove_file(path);
            restore(&FOLDER, NAMES[2]);
        }
        which => {
            let name = NAMES[which - 3];
            std::fs::write(FOLDER.join(name), bytes).expect("room in memory");
            for task in [Task::TextClassification, Task::Embedding] {
                if let Ok(files) = ModelFiles::open(&FOLDER, task) {
                    drop(files.tokenizer(32));
                }
            }
            restore(&FOLDER, name);
        }
    }
});
