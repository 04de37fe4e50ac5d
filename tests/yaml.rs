//! Every YAML that is shipped can be read by other tools than ours.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of the repository that end in one of `extensions`.
fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let listed = Command::new("git").arg("-C").arg(&root).arg("ls-files").output();
    let names = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        // Not a clone: what is known to be there.
        _ => "examples/news/pipeline.yaml\nREADME.md\n".into(),
    };
    let wanted = |name: &&str| extensions.iter().any(|e| name.ends_with(e));
    names.lines().filter(wanted).map(|name| root.join(name)).filter(|path| path.exists()).collect()
}

fn check(what: &str, text: &str) {
    use serde::Deserialize;
    for document in serde_yaml::Deserializer::from_str(text) {
        if let Err(error) = serde_yaml::Value::deserialize(document) {
            panic!("{what} can't be read by other tools: {error}");
        }
    }
}

#[test]
fn every_yaml_file_is_yaml_for_other_tools_too() {
    let found = files(&[".yaml", ".yml"]);
    assert!(!found.is_empty());
    for path in found {
        check(&path.display().to_string(), &std::fs::read_to_string(&path).unwrap());
    }
}

#[test]
fn every_yaml_example_in_the_docs_is_yaml_for_other_tools_too() {
    let mut blocks = 0;
    for path in files(&[".md"]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut rest = text.as_str();
        while let Some((_, from)) = rest.split_once("```yaml\n") {
            let (block, behind) = from.split_once("```").unwrap_or((from, ""));
            check(&format!("an example in {}:\n{block}", path.display()), block);
            (rest, blocks) = (behind, blocks + 1);
        }
    }
    assert!(blocks > 0 || files(&[".md"]).len() < 3);
}
