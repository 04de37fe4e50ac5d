//! Models of the Hugging Face hub in the cache that its own libraries use, so that a model is on a machine once.
//!
//! ```text
//! ~/.cache/huggingface/hub/models--org--name/
//!   refs/main                    the commit that the name means
//!   snapshots/<commit>/<file>    links into blobs
//!   blobs/<etag>                 the files
//! ```
//!
//! Variables, as there: `HF_HUB_CACHE`, else `HF_HOME`/hub, else `XDG_CACHE_HOME`/huggingface/hub; `HF_ENDPOINT`,
//! `HF_TOKEN` (or `HF_HOME`/token), `HF_HUB_OFFLINE`.

use std::fmt;
use std::path::{Path, PathBuf};

use millstream_core::{Error, Result, Secret};
use url::Url;

use super::config::CONFIG;
use super::files::{SAFETENSORS, SAFETENSORS_INDEX, TORCH, shards};

pub use super::download::{Progress, pull, pull_blocking};

/// What stands in front of a model's name in `source`.
pub const SCHEME: &str = "hf://";
/// The hub.
const ENDPOINT: &str = "https://huggingface.co";
/// The revision that is meant where none is written.
const REVISION: &str = "main";

/// A model on the hub: `hf://org/name[@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `org/name`, or `name` alone for the oldest models.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// Reads `hf://org/name[@revision]`.
    ///
    /// # Errors
    /// `Config`: it is written in another way.
    pub fn parse(source: &str) -> Result<Self> {
        let rest = source.strip_prefix(SCHEME).unwrap_or(source);
        let (id, revision) = rest.split_once('@').unwrap_or((rest, REVISION));
        let is_name = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && part.len() <= 96 && part.chars().all(allowed) && !part.starts_with('.')
        };
        let parts: Vec<&str> = id.split('/').collect();
        let is_revision = !revision.is_empty() && revision.split('/').all(is_name);
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) || !is_revision {
            return Err(Error::config(format!(
                "`{source}` is no model of the hub: write hf://org/name or hf://org/name@revision"
            )));
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// The folder below the cache.
    pub(super) fn folder_name(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }

    /// Whether the revision is a commit, which never means anything else.
    pub(super) fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.id)?;
        if self.revision == REVISION { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Where the hub and its cache are.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The hub's address.
    pub endpoint: Url,
    /// Sent to the hub, and to no other host.
    pub token: Option<Secret>,
    /// Nothing is downloaded.
    pub offline: bool,
}

impl Hub {
    /// From the variables of this process.
    ///
    /// # Errors
    /// As [`Hub::from_variables`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// From variables.
    ///
    /// # Errors
    /// `Config`: there is no home folder to keep a cache in, or `HF_ENDPOINT` is no URL.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = || {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")));
            variable("HF_HOME").map(PathBuf::from).or_else(|| Some(cache?.join("huggingface")))
        };
        let cache = variable("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home()?.join("hub")));
        let cache = cache.ok_or_else(|| Error::config("no folder for models of the hub: set HF_HOME"))?;
        let written = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = Url::parse(written.trim_end_matches('/')).ok().filter(|url| url.has_host());
        let endpoint =
            endpoint.ok_or_else(|| Error::config("HF_ENDPOINT is no URL: write such as https://hub.example"))?;
        let stored = || std::fs::read_to_string(home()?.join("token")).ok();
        let token = variable("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned());
        let token = token.filter(|token| !token.is_empty()).map(Secret::new);
        let yes = |value: String| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
        Ok(Self { cache, endpoint, token, offline: variable("HF_HUB_OFFLINE").is_some_and(yes) })
    }

    /// The folder of a model in the cache; none where it, or a part of it, is not there. Touches no network.
    ///
    /// A revision that is a branch means what it meant when it was downloaded last.
    pub fn cached(&self, repository: &Repository) -> Option<PathBuf> {
        let root = self.cache.join(repository.folder_name());
        let commit = if repository.is_commit() {
            repository.revision.clone()
        } else {
            std::fs::read_to_string(root.join("refs").join(&repository.revision)).ok()?.trim().to_owned()
        };
        if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let folder = root.join("snapshots").join(commit);
        is_complete(&folder).then_some(folder)
    }
}

/// The folder of a model in the cache. Touches no network.
///
/// # Errors
/// `Config`: it is not there; with what to do.
pub fn locate(hub: &Hub, repository: &Repository) -> Result<PathBuf> {
    hub.cached(repository).ok_or_else(|| {
        let cache = hub.cache.display();
        Error::config(format!(
            "{repository} is not in the cache ({cache}): run `millstream models pull {repository}`, \
             or copy the model's folder here and write its path as `source`"
        ))
    })
}

/// Whether configuration and weights are there. They are downloaded last, so that all else is there, too.
fn is_complete(folder: &Path) -> bool {
    if !folder.join(CONFIG).exists() && !folder.join("modules.json").exists() {
        return false;
    }
    if folder.join(SAFETENSORS).exists() || folder.join(TORCH).exists() {
        return true;
    }
    let index = std::fs::read(folder.join(SAFETENSORS_INDEX)).ok();
    let index = index.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    index.and_then(|index| shards(&index)).is_some_and(|names| names.iter().all(|name| folder.join(name).exists()))
}
