//! What `query`, `tap` and `dlq` work on: a running server, or a data folder at rest.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use millstream_core::{Error, Result};
use reqwest::{Method, Response, StatusCode};

use super::default_data_dir;

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// Where the data is.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// A running server. Without --url and --data-dir: the one on this machine if there is one, else the folder millstream-data.
    #[arg(long, env = "MILLSTREAM_URL", conflicts_with = "data_dir")]
    url: Option<String>,
    /// A data folder at rest.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
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
    /// Finds out which of the two is meant.
    pub async fn resolve(self) -> Result<Target> {
        match (self.url, self.data_dir) {
            (Some(url), _) => Ok(Target::Server(Server::at(&url, self.token)?)),
            (None, Some(folder)) => Ok(Target::Folder(folder)),
            (None, None) => {
                let server = Server::at(DEFAULT_URL, self.token)?;
                let health = server.client.get(format!("{DEFAULT_URL}/healthz"));
                let answers = health.timeout(Duration::from_millis(500)).send().await;
                let folder = default_data_dir();
                match answers {
                    Ok(answer) if answer.status().is_success() => Ok(Target::Server(server)),
                    _ if folder.is_dir() => Ok(Target::Folder(folder)),
                    _ => Err(Error::config(format!(
                        "no server answers on {DEFAULT_URL} and there is no folder {}: say which with --url or --data-dir",
                        folder.display()
                    ))),
                }
            }
        }
    }
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
