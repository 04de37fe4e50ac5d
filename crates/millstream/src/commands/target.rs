//! What `query`, `tap` and `dlq` work on: a running server, or a data folder at rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use millstream_core::{Error, Result};
use reqwest::{Method, Response, StatusCode};

use crate::pipeline::data_dir::{DEFAULT_ROOT, found_in};

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Where the data is.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// A running server. Without --url and --data-dir: the one on this machine if there is one, else a folder in
    /// millstream-data.
    #[arg(long, env = "MILLSTREAM_URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// A data folder at rest.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The pipeline, by its name or its file: whose folder in millstream-data is meant.
    #[arg(long, value_name = "NAME|FILE", conflicts_with = "url")]
    pipeline: Option<String>,
    /// The server's bearer token.
    #[arg(long, env = "MILLSTREAM_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// A server or a folder.
#[derive(Debug)]
pub enum Target {
    /// A running server.
    Server(Server),
    /// A data folder.
    Folder(PathBuf),
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    client: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl TargetArgs {
    /// The pipeline file, where one is named.
    pub fn pipeline_file(&self) -> Option<PathBuf> {
        self.pipeline.as_deref().filter(|named| named.contains(['.', '/'])).map(PathBuf::from)
    }

    /// Finds out which of the two is meant.
    pub async fn resolve(self) -> Result<Target> {
        let pipeline = self.pipeline.as_deref().map(pipeline_name).transpose()?;
        match (self.url, self.data_dir) {
            (None, None) if pipeline.is_some() => the_folder(pipeline.as_deref()).map(Target::Folder),
            (Some(url), _) => Ok(Target::Server(Server::at(&url, self.token)?)),
            (None, Some(folder)) => Ok(Target::Folder(folder)),
            (None, None) => {
                let server = Server::at(DEFAULT_URL, self.token)?;
                let health = server.client.get(format!("{DEFAULT_URL}/healthz"));
                let answers = health.timeout(Duration::from_millis(500)).send().await;
                match answers {
                    Ok(answer) if answer.status().is_success() => Ok(Target::Server(server)),
                    _ => the_folder(None).map(Target::Folder),
                }
            }
        }
    }
}

/// The data folder of the pipeline called `name`, or the only one there is.
fn the_folder(name: Option<&str>) -> Result<PathBuf> {
    let found = found_in(Path::new(DEFAULT_ROOT));
    let known = found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let mut fitting = found.iter().filter(|(pipeline, _)| name.is_none_or(|name| name == pipeline));
    match (fitting.next(), fitting.next(), name) {
        (Some((_, folder)), None, _) => Ok(folder.clone()),
        (Some(_), Some(_), _) => Err(Error::config(format!(
            "{DEFAULT_ROOT} holds the data of several pipelines: {known}. Say which with --pipeline NAME or --data-dir"
        ))),
        (None, _, Some(name)) if found.is_empty() => Err(Error::config(format!(
            "there is no data of a pipeline `{name}` in {DEFAULT_ROOT}: name its folder with --data-dir"
        ))),
        (None, _, Some(name)) => Err(Error::config(format!(
            "there is no data of a pipeline `{name}` in {DEFAULT_ROOT}; there is that of {known}"
        ))),
        (None, _, None) => Err(Error::config(format!(
            "no server answers on {DEFAULT_URL} and there is no data folder in {DEFAULT_ROOT}: say which with --url or --data-dir"
        ))),
    }
}

/// The name of a pipeline, from that or from its file. The file is only looked at as far as it says its name.
fn pipeline_name(named: &str) -> Result<String> {
    if !named.contains(['.', '/']) {
        return Ok(named.to_owned());
    }
    let text = std::fs::read_to_string(named).map_err(|e| Error::from(e).context(format!("read {named}")))?;
    let name = text.lines().find_map(|line| line.strip_prefix("pipeline:")).map(str::trim);
    let name = name.and_then(|name| name.split([' ', '#']).next()).map(|name| name.trim_matches(['"', '\'']));
    let name = name.filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| Error::config(format!("{named} has no line `pipeline: NAME`")))
}

impl Server {
    /// The server at `url`; nothing is sent yet.
    pub fn at(url: &str, token: Option<String>) -> Result<Self> {
        let client = reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).build();
        let client = client.map_err(|e| Error::bug("build HTTP client").caused_by(e))?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Sends a request and gives its answer, where that is a success.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        accept: Option<&str>,
        body: Option<&serde_json::Value>,
    ) -> Result<Response> {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable =
            |e: reqwest::Error| Error::retry(format!("can't reach {}", self.url)).caused_by(e.without_url());
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let said = serde_json::from_str::<serde_json::Value>(&text).ok();
        let said = said.as_ref().and_then(|v| v["error"].as_str()).unwrap_or(text.as_str());
        match status {
            StatusCode::UNAUTHORIZED => {
                Err(Error::config("the server asks for a token: set MILLSTREAM_TOKEN or --token"))
            }
            status if status.is_client_error() => Err(Error::config(said.to_owned())),
            status => Err(Error::retry(format!("{} answered {status}: {said}", self.url))),
        }
    }

    /// The whole body of a GET or POST.
    pub async fn bytes(
        &self,
        method: Method,
        path: &str,
        accept: Option<&str>,
        body: Option<&serde_json::Value>,
    ) -> Result<Bytes> {
        let answer = self.send(method, path, accept, body).await?;
        answer.bytes().await.map_err(|e| Error::retry("the server's answer broke off").caused_by(e.without_url()))
    }

    /// The body as JSON.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<serde_json::Value> {
        let bytes = self.bytes(method, path, None, body).await?;
        serde_json::from_slice(&bytes).map_err(|e| Error::retry("the server's answer is no JSON").caused_by(e))
    }
}
