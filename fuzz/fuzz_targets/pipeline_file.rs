//! The text of a pipeline file. Whatever it is, the answer is a pipeline or a list of mistakes; nothing is connected
//! to.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use millstream::config::PipelineFile;

static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));

fuzz_target!(|text: &str| {
    let _entered = RUNTIME.enter();
    let env = |name: &str| (name == "SET").then(|| "value".to_owned());
    let fetched = PipelineFile::parse("fuzz.yaml", text, Path::new("/nonexistent"), &env, &|_| Ok(()));
    if let Err(mistakes) = fetched {
        assert!(mistakes.errors() > 0);
        let _ = mistakes.to_string();
    }
});
