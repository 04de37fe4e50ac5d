//! `secrets:` of the pipeline file, and `${secret:NAME}` in its values.
//!
//! A secret is asked for when a value refers to it, once; one that nobody refers to is never asked for. What it is
//! never gets into a message. Where it may not be asked for now (`validate` calls no command and no service), the value
//! that refers to it is not known, and nothing is said about that value.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use millstream_core::{HumanDuration, Secret};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::diagnostics::{Problem, Secrets, suggestion};
use crate::config::interpolate::{Found, interpolate};
use crate::config::raw;
use crate::config::tree::{Content, Entry, Node, Place};

/// What stands for a value that is not known.
pub const UNKNOWN: &str = "not-asked-for";

/// A secret, told apart by `from`: where it is kept. What is read there is the text without a line break at its end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum SecretConfig {
    /// The content of a file, such as those that Docker and Kubernetes mount.
    File(FileSecret),
    /// An environment variable, of the process or of `--env-file`.
    Env(EnvSecret),
    /// What a program prints. It begins in the folder of the pipeline file; `validate` calls it only with `--connect`.
    Command(CommandSecret),
    /// A secret in AWS Secrets Manager, with credentials as every AWS tool finds them. `validate` asks only with
    /// `--connect`.
    AwsSecretsManager(ManagedSecret),
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSecret {
    /// The file.
    pub path: PathBuf,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvSecret {
    /// The variable's name.
    pub name: String,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandSecret {
    /// The program and its arguments: `[pass, show, news/key]`. No shell reads them.
    #[schemars(length(min = 1))]
    pub command: Vec<String>,
    /// How long it may take before it is killed. Default: `30s`.
    pub timeout: Option<HumanDuration>,
    /// Where it begins.
    #[serde(skip)]
    #[schemars(skip)]
    pub folder: PathBuf,
}

/// A secret of AWS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ManagedSecret {
    /// Its name or ARN.
    pub id: String,
    /// The field of the JSON in it that is meant. Default: all of its text.
    pub field: Option<String>,
    /// Which of its versions. Default: `AWSCURRENT`.
    pub version_stage: Option<String>,
    /// The region. Default: that of the ARN, else of the environment (`AWS_REGION`).
    pub region: Option<String>,
    /// Another address of the service.
    pub endpoint_url: Option<String>,
}

/// Asks for a secret; none where it may not be asked for now.
pub type Ask<'a> = dyn Fn(&SecretConfig) -> millstream_core::Result<Option<Secret>> + 'a;

/// The section of a file.
pub struct Section<'a> {
    entries: Vec<Known>,
    ask: &'a Ask<'a>,
    /// What was asked for, by index: none where it is not known.
    asked: RefCell<BTreeMap<usize, Option<String>>>,
    problems: RefCell<Vec<Problem>>,
}

struct Known {
    name: String,
    place: Place,
    /// None where it is not written as it should be; that is said elsewhere.
    config: Option<SecretConfig>,
}

/// The section's entry, and where it stood.
pub struct Taken(usize, Entry);

/// Takes the section out of the tree, so that its own values refer to no secret.
pub fn take(root: &mut Node) -> Option<Taken> {
    let Content::Map(entries) = &mut root.content else { return None };
    let index = entries.iter().position(|entry| entry.key == "secrets")?;
    Some(Taken(index, entries.remove(index)))
}

/// Puts it back.
pub fn put_back(root: &mut Node, taken: Option<Taken>) {
    if let (Content::Map(entries), Some(Taken(index, entry))) = (&mut root.content, taken) {
        entries.insert(index.min(entries.len()), entry);
    }
}

impl<'a> Section<'a> {
    /// Reads the section, with variables from `env`. Paths start from `base`. Nothing is asked for yet.
    pub fn read(
        taken: &mut Option<Taken>,
        source: &str,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        ask: &'a Ask<'a>,
    ) -> Self {
        let mut problems = Vec::new();
        let mut entries = Vec::new();
        if let Some(Taken(_, section)) = taken {
            let other = |_: &str| {
                let message = "a secret can't be made of another one".to_owned();
                Found::Wrong { message, help: "write a variable, `${NAME}`, or the text itself".into() }
            };
            problems.extend(interpolate(&mut section.value, source, env, &other).into_iter().map(Problem::from));
            entries.extend(section.value.entries().iter().map(|entry| Known {
                name: entry.key.clone(),
                place: entry.place.clone(),
                config: raw::read::<SecretConfig>(entry.value.to_json()).ok().map(|config| config.start_from(base)),
            }));
        }
        Self { entries, ask, asked: RefCell::default(), problems: RefCell::new(problems) }
    }

    /// The secret that a value refers to.
    pub fn find(&self, name: &str) -> Found {
        let Some(index) = self.entries.iter().position(|known| known.name == name) else {
            let names: Vec<&str> = self.entries.iter().map(|known| known.name.as_str()).collect();
            let help = suggestion(name, "secrets", &names);
            let help = help
                .unwrap_or_else(|| format!("name it below `secrets:`, such as `{name}: {{ from: file, path: … }}`"));
            return Found::Wrong { message: format!("there is no secret `{name}`"), help };
        };
        let known = &self.entries[index];
        let mut asked = self.asked.borrow_mut();
        let value = asked.entry(index).or_insert_with(|| match (self.ask)(known.config.as_ref()?) {
            Ok(value) => value.map(|secret| secret.expose().to_owned()),
            Err(e) => {
                let message = format!("the secret `{name}` can't be had: {e}");
                self.problems.borrow_mut().push(Problem::error(&known.place, message, None));
                None
            }
        });
        value.clone().map_or(Found::Unknown, Found::Secret)
    }

    /// What is wrong with secrets, once every value was looked at; also those that no value refers to.
    pub fn problems(self) -> Vec<Problem> {
        let asked = self.asked.into_inner();
        let mut problems = self.problems.into_inner();
        for (_, known) in self.entries.iter().enumerate().filter(|(index, _)| !asked.contains_key(index)) {
            let message = format!("no value refers to the secret `{}`", known.name);
            let help = format!("write `${{secret:{}}}` where it belongs, or remove it", known.name);
            problems.push(Problem::warning(&known.place, message, Some(help)));
        }
        problems
    }
}

impl SecretConfig {
    /// The same, with paths that start from `base`.
    fn start_from(mut self, base: &Path) -> Self {
        match &mut self {
            Self::File(file) => file.path = base.join(&file.path),
            Self::Command(command) => command.folder = base.to_owned(),
            Self::Env(_) | Self::AwsSecretsManager(_) => {}
        }
        self
    }
}

/// Values with secrets in them are shown nowhere, whatever they are for.
pub fn hide(root: &mut Node, secrets: &mut Secrets) {
    root.each_scalar(&mut |scalar, place| {
        if let Some(interpolated) = scalar.interpolated.as_ref().filter(|i| !i.secrets.is_empty()) {
            secrets.places.push(place.bytes.clone());
            secrets.values.push(interpolated.text.clone());
            secrets.values.extend(interpolated.secrets.iter().cloned());
        }
    });
    // A longer one may have a shorter one in it.
    secrets.values.sort_by_key(|value| std::cmp::Reverse(value.len()));
}

/// Where nothing can be said, because a value is not known: it and its key, and the keys of what it is in.
pub fn unknown(root: &Node) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    collect(root, &mut found);
    found
}

fn collect(node: &Node, found: &mut Vec<Range<usize>>) -> bool {
    match &node.content {
        Content::Scalar(scalar) => {
            let is_unknown = scalar.interpolated.as_ref().is_some_and(|i| i.is_unknown);
            if is_unknown {
                found.push(node.place.bytes.clone());
            }
            is_unknown
        }
        Content::List(items) => items.iter().fold(false, |any, item| collect(item, found) | any),
        Content::Map(entries) => entries.iter().fold(false, |any, entry| {
            let is_in = collect(&entry.value, found);
            if is_in {
                found.push(entry.place.bytes.clone());
            }
            is_in | any
        }),
    }
}
