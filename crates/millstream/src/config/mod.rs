//! The pipeline file, from text to a checked [`Pipeline`].
//!
//! ```text
//!  text ─tree─▶ nodes with places ─interpolate─▶ variables replaced ─strict─▶ of the right shape ─check─▶ Pipeline
//!                                                                      ▲
//!                                                        schema ◀── raw (what may be written)
//! ```
//!
//! Values of the command line ([`setting`]) are put into the tree before its variables are replaced.
//!
//! A value may also refer to one of the file's `secrets:`; [`secrets`] asks for those.
//!
//! Every step goes on after an error where it can, so that all that is wrong with a file is said at once, each with its
//! place. Nothing here looks at the network, and at the disk only to read the file itself.

pub mod check;
pub mod diagnostics;
pub mod env_file;
mod interpolate;
mod named;
pub mod raw;
pub mod reference;
pub mod schema;
pub mod secrets;
pub mod setting;
mod strict;
#[cfg(test)]
mod tests;
mod traps;
mod tree;

use std::io::Read;
use std::path::Path;

use millstream_models::ModelConfig;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub use diagnostics::{Diagnostic, Diagnostics, Severity};
pub use millstream_engine::spec::Pipeline;
pub use setting::Setting;

use crate::config::diagnostics::{Problem, Secrets, report};
use crate::config::setting::Extended;
use crate::config::tree::{Content, Node};

/// What a pipeline file takes from elsewhere.
pub struct Outside<'a> {
    /// The variables.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Called with each model before it is checked, and may download it.
    pub fetch: &'a dyn Fn(&ModelConfig) -> millstream_core::Result<()>,
    /// The secrets: asked for where a value refers to one.
    pub secrets: &'a secrets::Ask<'a>,
}

/// A pipeline file that was read and checked.
#[derive(Debug, Clone)]
pub struct PipelineFile {
    /// What it says.
    pub pipeline: Pipeline,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<Diagnostic>,
}

/// A larger file is no pipeline.
const FILE_BYTES_MAX: u64 = 4 << 20;

impl PipelineFile {
    /// Reads and checks the pipeline file at `path`, with variables from `env`. Paths in it start from its folder.
    ///
    /// # Errors
    /// Everything that is wrong with it, and the warnings.
    pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Diagnostics> {
        Self::load_with(path, &[], &Outside { env, fetch: &|_| Ok(()), secrets: &|_| Ok(None) })
    }

    /// As [`PipelineFile::load`], with values of the command line. `-` is standard input; paths in it start from the
    /// working directory.
    ///
    /// # Errors
    /// As [`PipelineFile::load`].
    pub fn load_with(path: &Path, settings: &[Setting], outside: &Outside<'_>) -> Result<Self, Diagnostics> {
        let shown = if is_stdin(path) { "<stdin>".to_owned() } else { path.display().to_string() };
        let unreadable =
            |message: String, help: Option<&str>| Diagnostics::unreadable(&shown, message, help.map(str::to_owned));
        let describe = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound => {
                unreadable("there is no such file".into(), Some("`millstream init` writes one to begin with"))
            }
            std::io::ErrorKind::IsADirectory => {
                unreadable("this is a folder".into(), Some("name the pipeline file in it"))
            }
            _ => unreadable(format!("the file can't be read: {e}"), None),
        };
        let bytes = read(path).map_err(describe)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let message = format!("it has more than the {FILE_BYTES_MAX} bytes that a pipeline file can have");
            return Err(unreadable(message, None));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            unreadable(format!("line {line} is not UTF-8"), Some("save the file as UTF-8"))
        })?;
        let base = if is_stdin(path) { Path::new("") } else { path.parent().unwrap_or(Path::new("")) };
        Self::parse_with(&shown, &text, base, settings, outside)
    }

    /// Checks the text of a pipeline file, called `file` in messages. Paths in it start from `base`; `fetch` as in
    /// [`Outside`]. No secret is asked for.
    ///
    /// # Errors
    /// As [`PipelineFile::load`].
    pub fn parse(
        file: &str,
        text: &str,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        fetch: &dyn Fn(&ModelConfig) -> millstream_core::Result<()>,
    ) -> Result<Self, Diagnostics> {
        Self::parse_with(file, text, base, &[], &Outside { env, fetch, secrets: &|_| Ok(None) })
    }

    fn parse_with(
        file: &str,
        text: &str,
        base: &Path,
        settings: &[Setting],
        outside: &Outside<'_>,
    ) -> Result<Self, Diagnostics> {
        let Outside { env, fetch, secrets: ask } = outside;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (tree, errors) = tree::parse(text);
        let mut problems: Vec<Problem> = errors.into_iter().map(Problem::from).collect();
        let Some(mut root) = tree.filter(|root| !root.is_null()) else {
            if problems.is_empty() {
                let help = "a pipeline file has a name (`pipeline:`) and `sources:`; `millstream init` writes one to begin with";
                return Err(Diagnostics::unreadable(file, "the file is empty", Some(help.into())));
            }
            return Err(report(file, text, problems, &Secrets::default()));
        };
        let extended = Extended::new(text, settings);
        let text = extended.text.as_str();
        problems.extend(extended.apply(&mut root));
        let mut section = secrets::take(&mut root);
        let known = secrets::Section::read(&mut section, text, base, env, ask);
        let unset = interpolate::interpolate(&mut root, text, env, &|name| known.find(name));
        problems.extend(known.problems());
        secrets::put_back(&mut root, section);
        let mut findings = strict::check(&mut root, schema::document());
        secrets::hide(&mut root, &mut findings.secrets);
        let unknown = secrets::unknown(&root);
        findings.problems.retain(|p| !unknown.iter().any(|bytes| bytes.contains(&p.place.bytes.start)));
        // What an unset variable would have been is not known: no second message about it.
        findings.problems.retain(|p| !unset.iter().any(|u| p.place.bytes.contains(&u.place.bytes.start)));
        problems.extend(unset.into_iter().map(Problem::from));
        let braces = traps::braces(&root, text);
        findings.problems.retain(|p| !braces.hidden.iter().any(|bytes| bytes.contains(&p.place.bytes.start)));
        problems.extend(braces.problems);
        problems.extend(findings.problems);

        let version = version(&root, &findings.secrets);
        let version = version.as_str().into();
        let input = check::Input { source: text, base, version, known: &problems, unknown: &unknown, fetch };
        let (pipeline, found) = check::check(&root, &input);
        problems.extend(found);
        let diagnostics = extended.rename(report(file, text, problems, &findings.secrets));
        match pipeline {
            Some(pipeline) if diagnostics.errors() == 0 => Ok(Self { pipeline, warnings: diagnostics.0 }),
            _ => Err(diagnostics),
        }
    }
}

/// True for `-`.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes of the file, and one more than it may have at most.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_stdin(path) {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The first 12 hexadecimal digits of SHA-256 over the file as JSON, without secrets: a new password is no new version.
fn version(root: &Node, secrets: &Secrets) -> String {
    let digest = Sha256::digest(without_secrets(root, secrets).to_string().as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn without_secrets(node: &Node, secrets: &Secrets) -> Value {
    match &node.content {
        Content::Scalar(_) if secrets.places.contains(&node.place.bytes) => Value::String("***".into()),
        Content::Scalar(scalar) => scalar.value.clone(),
        Content::List(items) => items.iter().map(|item| without_secrets(item, secrets)).collect(),
        Content::Map(entries) => entries.iter().map(|e| (e.key.clone(), without_secrets(&e.value, secrets))).collect(),
    }
}
