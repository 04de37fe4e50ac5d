//! Downloads a model of the hub into the cache: small files first, weights last, each file whole or not at all.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millstream_core::disk::create_fresh;
use millstream_core::{Error, Result, ResultExt};
use reqwest::header::{AUTHORIZATION, ETAG, HeaderMap, LOCATION};
use reqwest::{Client, Response, StatusCode, redirect};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::SENTENCE_TRANSFORMERS;
use super::config::CONFIG;
use super::files::{SAFETENSORS, SAFETENSORS_INDEX, TORCH};
use super::hub::{Hub, Repository};
use super::tokenizer::{BPE_MERGES, BPE_VOCABULARY, TOKENIZER, TOKENIZER_CONFIG, WORDPIECE_VOCABULARY};

/// Small files that are taken where they are.
const SMALL_FILES: [&str; 10] = [
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    WORDPIECE_VOCABULARY,
    BPE_VOCABULARY,
    BPE_MERGES,
    "modules.json",
    "sentence_bert_config.json",
    SENTENCE_TRANSFORMERS,
    SAFETENSORS_INDEX,
];
/// Redirects that are followed for one file.
const REDIRECTS_MAX: usize = 5;
/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The list of a model's files.
const LIST_BYTES_MAX: usize = 16 << 20;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes of it that are here.
    pub bytes: u64,
    /// Bytes that it will have, where the server says so.
    pub bytes_total: Option<u64>,
}

/// Downloads what is missing of a model, and answers with its folder in the cache. A branch is looked up again.
///
/// # Errors
/// `Config`: `HF_HUB_OFFLINE` is set, or the hub knows no such model, or does not give it to you. `Retry`: the hub
/// can't be reached. `Environment`: the cache can't be written.
pub async fn pull(
    hub: &Hub,
    repository: &Repository,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<PathBuf> {
    let doing = || format!("download {repository} from {}", hub.endpoint);
    if hub.offline {
        let message = "HF_HUB_OFFLINE is set: unset it, or copy the model's folder here and write its path as `source`";
        return Err(Error::config(message).context(doing()));
    }
    Download::new(hub, repository)?.run(progress).await.map_err(|e| e.context(doing()))
}

/// As [`pull`], for callers that can't await, inside of a runtime or not.
///
/// # Errors
/// As [`pull`].
pub fn pull_blocking(
    hub: &Hub,
    repository: &Repository,
    progress: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<PathBuf> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::environment("can't start a runtime for the download").caused_by(e))?;
        runtime.block_on(pull(hub, repository, progress))
    };
    // A thread of its own, for a runtime can't be entered twice.
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(Error::bug("the thread of the download panicked")))
}

struct Download<'a> {
    hub: &'a Hub,
    repository: &'a Repository,
    client: Client,
    /// The model's folder in the cache.
    root: PathBuf,
}

/// A file on its way: the answer that brings it, and what its content is called.
struct Arriving {
    response: Response,
    etag: String,
}

impl<'a> Download<'a> {
    fn new(hub: &'a Hub, repository: &'a Repository) -> Result<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(Error::bug("no TLS provider is installed: install one before a model is downloaded"));
        }
        let client = Client::builder()
            .connect_timeout(SILENCE_MAX)
            .read_timeout(SILENCE_MAX)
            // Followed here: the name of the content stands in the first answer, and the token stays with the hub.
            .redirect(redirect::Policy::none())
            // The size of a file is that of its bytes.
            .no_gzip()
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))?;
        Ok(Self { hub, repository, client, root: hub.cache.join(repository.folder_name()) })
    }

    async fn run(&self, progress: &mut (dyn FnMut(Progress<'_>) + Send)) -> Result<PathBuf> {
        let (commit, names) = self.list().await?;
        let snapshot = self.root.join("snapshots").join(&commit);
        for name in wanted(&names)? {
            if !snapshot.join(&name).exists() {
                self.fetch(&commit, &name, &snapshot, progress).await.map_err(|e| e.context(format!("file {name}")))?;
            }
        }
        if !self.repository.is_commit() {
            // Last: whoever reads it finds all files.
            write_whole(&self.root.join("refs").join(&self.repository.revision), commit.as_bytes())?;
        }
        Ok(snapshot)
    }

    /// The commit that the revision means, and the names of its files.
    async fn list(&self) -> Result<(String, Vec<String>)> {
        let url =
            self.url(&format!("api/models/{}/revision/{}", self.repository.id, escaped(&self.repository.revision)))?;
        let mut response = self.get(url).await?.response;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            body.extend_from_slice(&chunk);
            if body.len() > LIST_BYTES_MAX {
                return Err(Error::config("the list of its files is longer than any model's"));
            }
        }
        let list: Value = serde_json::from_slice(&body)
            .map_err(|e| Error::config("the answer is no list of files: is HF_ENDPOINT a hub?").caused_by(e))?;
        let commit = list.get("sha").and_then(Value::as_str).unwrap_or_default();
        if commit.is_empty() || commit.len() > 64 || !commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::config("the answer names no commit: is HF_ENDPOINT a hub?"));
        }
        let files = list.get("siblings").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let names = files.iter().filter_map(|file| file.get("rfilename")?.as_str().map(str::to_owned));
        Ok((commit.to_owned(), names.collect()))
    }

    async fn fetch(
        &self,
        commit: &str,
        name: &str,
        snapshot: &Path,
        progress: &mut (dyn FnMut(Progress<'_>) + Send),
    ) -> Result<()> {
        let url = self.url(&format!("{}/resolve/{commit}/{name}", self.repository.id))?;
        let Arriving { mut response, etag } = self.get(url).await?;
        let blob = self.root.join("blobs").join(&etag);
        if !blob.exists() {
            let folder = self.root.join("blobs");
            fs::create_dir_all(&folder).doing(|| format!("make folder {}", folder.display()))?;
            let bytes_total = response.content_length();
            let partial = Partial::new(folder.join(format!("{etag}.{}.incomplete", std::process::id())));
            let mut file = create_fresh(&partial.path).doing(|| format!("write {}", partial.path.display()))?;
            let (mut digest, mut bytes) = (Sha256::new(), 0);
            progress(Progress { file: name, bytes, bytes_total });
            while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
                file.write_all(&chunk).doing(|| format!("write {}", partial.path.display()))?;
                digest.update(&chunk);
                bytes += chunk.len() as u64;
                progress(Progress { file: name, bytes, bytes_total });
            }
            if let Some(total) = bytes_total.filter(|total| *total != bytes) {
                return Err(Error::retry(format!("{bytes} of {total} bytes came: try again")));
            }
            // The hub calls large files by their SHA-256.
            let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            if etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit()) && etag != found {
                return Err(Error::retry(format!("the content has the SHA-256 {found}, not {etag}: try again")));
            }
            file.sync_all().doing(|| format!("write {}", partial.path.display()))?;
            partial.keep_as(&blob)?;
        }
        link(&blob, &etag, snapshot, name)
    }

    fn url(&self, path: &str) -> Result<Url> {
        let base = self.hub.endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}")).map_err(|e| Error::bug("the address of a file is broken").caused_by(e))
    }

    /// Follows redirects; the token goes to the hub's own host only.
    async fn get(&self, mut url: Url) -> Result<Arriving> {
        let mut etag = None;
        for _ in 0..REDIRECTS_MAX {
            let mut request = self.client.get(url.clone());
            if let Some(token) = self.hub.token.as_ref().filter(|_| url.origin() == self.hub.endpoint.origin()) {
                request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
            }
            let response = request.send().await.map_err(|e| self.unreachable(e))?;
            etag = etag.or_else(|| content_name(response.headers()));
            let status = response.status();
            if status.is_redirection() {
                let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
                let next = location.and_then(|location| url.join(location).ok());
                let next = next.ok_or_else(|| Error::config("a redirect leads nowhere"))?;
                if !["http", "https"].contains(&next.scheme()) || (url.scheme(), next.scheme()) == ("https", "http") {
                    return Err(Error::config(format!("a redirect leads from {} to {}", url.scheme(), next.scheme())));
                }
                url = next;
                continue;
            }
            if !status.is_success() {
                return Err(self.refusal(status));
            }
            let etag = etag.unwrap_or_else(|| name_of(url.as_str()));
            return Ok(Arriving { response, etag });
        }
        Err(Error::config(format!("more than {REDIRECTS_MAX} redirects")))
    }

    fn refusal(&self, status: StatusCode) -> Error {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::config(format!(
                "{status}: no such model, or one that needs a right: check the name, set HF_TOKEN, accept its terms on the hub"
            )),
            StatusCode::NOT_FOUND => {
                let Repository { id, revision } = self.repository;
                Error::config(format!("{status}: no model `{id}` with a revision `{revision}`: check the name"))
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Error::retry(format!("{status}: try again later"))
            }
            status => Error::config(status.to_string()),
        }
    }

    fn unreachable(&self, e: reqwest::Error) -> Error {
        let message = "the hub can't be reached: check the network, set HF_ENDPOINT to a mirror, or copy the model's folder \
                       here and write its path as `source`";
        // The address of the content may hold a signature.
        Error::retry(message).caused_by(e.without_url())
    }
}

/// The files that a model needs: small ones, then weights, in the order of preference.
fn wanted(names: &[String]) -> Result<Vec<String>> {
    let has = |name: &str| names.iter().any(|known| known == name);
    let mut wanted: Vec<String> = SMALL_FILES.iter().filter(|name| has(name)).map(|name| (*name).to_owned()).collect();
    let mut weights = weights_in(names, "");
    let folders = names.iter().filter_map(|name| Some(name.split_once('/')?.0)).filter(|folder| is_module(folder));
    let mut folders: Vec<&str> = folders.collect();
    folders.dedup();
    for folder in folders {
        let small = SMALL_FILES.iter().map(|name| format!("{folder}/{name}"));
        wanted.extend(small.filter(|name| has(name)));
        // The encoder of old sentence-transformers lies in such a folder; then it is the last to come.
        let more = weights_in(names, &format!("{folder}/"));
        if weights.is_empty() { weights.extend(more) } else { wanted.extend(more) }
    }
    if !has(CONFIG) && !has("modules.json") {
        return Err(Error::config(format!("it has no {CONFIG}: it is no model of the kind that is known here")));
    }
    if weights.is_empty() {
        return Err(Error::config(format!("it has neither {SAFETENSORS} nor {TORCH}")));
    }
    wanted.extend(weights);
    Ok(wanted)
}

/// The weights directly in a folder: whole, in parts, or as `torch.save` writes them.
fn weights_in(names: &[String], folder: &str) -> Vec<String> {
    let has = |name: &str| names.iter().any(|known| known.strip_prefix(folder) == Some(name));
    if has(SAFETENSORS) {
        return vec![format!("{folder}{SAFETENSORS}")];
    }
    let is_part = |name: &&String| {
        let name = name.strip_prefix(folder).unwrap_or_default();
        name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/')
    };
    if has(SAFETENSORS_INDEX) {
        return names.iter().filter(is_part).cloned().collect();
    }
    if has(TORCH) { vec![format!("{folder}{TORCH}")] } else { Vec::new() }
}

/// `1_Pooling`, `2_Dense`: where sentence-transformers keep their modules.
fn is_module(folder: &str) -> bool {
    let Some((number, name)) = folder.split_once('_') else { return false };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What the hub calls the content of a file: of large ones it stands in a header of their own.
fn content_name(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("x-linked-etag").or_else(|| headers.get(ETAG))?.to_str().ok()?;
    let name = value.trim_start_matches("W/").trim_matches('"');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_file_name = !name.is_empty() && name.len() <= 128 && name.bytes().all(is_plain);
    Some(if is_file_name { name.to_owned() } else { name_of(name) })
}

fn name_of(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

/// Puts a link to the blob into the snapshot; a copy where the file system has no links.
fn link(blob: &Path, etag: &str, snapshot: &Path, name: &str) -> Result<()> {
    let place = snapshot.join(name);
    let folder = place.parent().unwrap_or(snapshot);
    fs::create_dir_all(folder).doing(|| format!("make folder {}", folder.display()))?;
    #[cfg(unix)]
    {
        let up = "../".repeat(2 + name.matches('/').count());
        match std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), &place) {
            Ok(()) => return Ok(()),
            // Another process was faster.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(_) => {}
        }
    }
    #[cfg(not(unix))]
    let _ = etag;
    let partial = Partial::new(place.with_extension(format!("{}.incomplete", std::process::id())));
    let copied = fs::File::open(blob).and_then(|mut from| std::io::copy(&mut from, &mut create_fresh(&partial.path)?));
    copied.doing(|| format!("write {}", partial.path.display()))?;
    partial.keep_as(&place)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).doing(|| format!("make folder {}", folder.display()))?;
    let partial = Partial::new(path.with_extension(format!("{}.incomplete", std::process::id())));
    let written = create_fresh(&partial.path).and_then(|mut file| file.write_all(bytes));
    written.doing(|| format!("write {}", partial.path.display()))?;
    partial.keep_as(path)
}

/// A file that goes away again unless it becomes whole.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn keep_as(self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).doing(|| format!("rename {} to {}", self.path.display(), path.display()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Renamed: there is nothing left to remove.
        let _ = fs::remove_file(&self.path);
    }
}
