//! What `query`, `tap` and `dlq` work on: a running server, or a data folder at rest.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use millstream_core::units::url_without_credentials;
use millstream_core::{Error, Result};
use reqwest::{Method, Response, StatusCode};

use super::server_args::ClientTlsArgs;
use millstream_engine::data_dir::{DEFAULT_ROOT, found_in};

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
    #[command(flatten)]
    tls: ClientTlsArgs,
}

/// A server or a folder.
#[derive(Debug, Clone)]
pub enum Target {
    /// A running server.
    Server(Server),
    /// A data folder.
    Folder(PathBuf),
}

/// A running server.
#[derive(Debug, Clone)]
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

    /// The same, with `folder` where nothing is named.
    #[must_use]
    pub fn or_folder(self, folder: PathBuf) -> Self {
        let is_named = self.url.is_some() || self.data_dir.is_some() || self.pipeline.is_some();
        Self { data_dir: if is_named { self.data_dir } else { Some(folder) }, ..self }
    }

    /// Finds out which of the two is meant.
    pub async fn resolve(self) -> Result<Target> {
        let pipeline = self.pipeline.as_deref().map(pipeline_name).transpose()?;
        match (self.url, self.data_dir) {
            (None, None) if pipeline.is_some() => the_folder(pipeline.as_deref()).map(Target::Folder),
            (Some(url), _) => Ok(Target::Server(Server::at(&url, self.token, &self.tls)?)),
            (None, Some(folder)) => is_folder(&folder).map(|()| Target::Folder(folder)),
            (None, None) => {
                let server = Server::at(DEFAULT_URL, self.token, &self.tls)?;
                let health = server.client.get(format!("{DEFAULT_URL}/healthz"));
                let answers = health.timeout(Duration::from_millis(500)).send().await;
                // Whatever else has the port is not meant.
                match answers {
                    Ok(answer) if is_ours(&answer) => Ok(Target::Server(server)),
                    _ => the_folder(None).map(Target::Folder),
                }
            }
        }
    }
}

/// That there is such a folder.
fn is_folder(folder: &Path) -> Result<()> {
    match folder.metadata() {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(Error::config(format!("--data-dir {}: that is a file, not a data folder", folder.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::config(format!("--data-dir {}: there is no such folder", folder.display())))
        }
        Err(e) => Err(Error::from(e).context(format!("--data-dir {}", folder.display()))),
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

/// True where a Millstream answers.
fn is_ours(answer: &Response) -> bool {
    answer.headers().get("server").is_some_and(|name| name.as_bytes().starts_with(b"millstream/"))
}

impl Server {
    /// The server at `url`, which may lack its scheme (`127.0.0.1:8080`); nothing is sent yet.
    ///
    /// # Errors
    /// `Config`: it is no address, or a file of `tls` is not as it should be.
    pub fn at(url: &str, token: Option<String>, tls: &ClientTlsArgs) -> Result<Self> {
        let url = url.trim();
        let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let with_scheme = with_scheme.trim_end_matches('/').to_owned();
        let parsed =
            url::Url::parse(&with_scheme).ok().filter(|parsed| parsed.host_str().is_some_and(|h| !h.is_empty()));
        let typed = if url.contains('@') { "***" } else { url };
        let wrong = || Error::config(format!("--url {typed}: no address of a server, such as http://127.0.0.1:8080"));
        let parsed = parsed.ok_or_else(wrong)?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let client = tls.over(reqwest::Client::builder().connect_timeout(Duration::from_secs(5)).referer(false))?;
        let client = client.build().map_err(|e| Error::bug("build HTTP client").caused_by(e))?;
        Ok(Self { client, url: with_scheme, token })
    }

    /// The address without user and password.
    fn shown(&self) -> String {
        url_without_credentials(&self.url)
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
        let answer = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = answer.status();
        if !is_ours(&answer) {
            return Err(Error::config(format!(
                "{} answers ({status}), but is no Millstream server: is the address right (--url, MILLSTREAM_URL)?",
                self.shown()
            )));
        }
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        let said = serde_json::from_str::<serde_json::Value>(&text).ok();
        let said = said.as_ref().and_then(|v| v["error"].as_str()).unwrap_or(text.as_str());
        match status {
            StatusCode::UNAUTHORIZED if self.token.is_some() => Err(Error::config(format!(
                "{} does not take this token: check MILLSTREAM_TOKEN or --token",
                self.shown()
            ))),
            StatusCode::UNAUTHORIZED => {
                Err(Error::config(format!("{} asks for a token: set MILLSTREAM_TOKEN or --token", self.shown())))
            }
            status if status.is_client_error() => Err(Error::config(said.to_owned())),
            status => Err(Error::retry(format!("{} answered {status}: {said}", self.shown()))),
        }
    }

    /// Why nothing came back, in words.
    fn unreachable(&self, e: reqwest::Error) -> Error {
        let mut cause = std::error::Error::source(&e);
        let mut text = String::new();
        while let Some(error) = cause {
            text = error.to_string();
            cause = error.source();
        }
        let hint = match text.as_str() {
            _ if e.is_timeout() => "it does not answer in time",
            t if t.contains("refused") => "nothing listens there: is the server running, and the port right?",
            t if t.contains("dns") || t.contains("lookup") || t.contains("resolve") => "there is no host of that name",
            t if t.contains("UnknownIssuer") => {
                "its certificate is of no authority that this machine trusts: name that with --ca FILE (MILLSTREAM_CA)"
            }
            t if t.contains("NotValidForName") || t.contains("not valid for name") => {
                "its certificate is for another name: ask it by a name that is in the certificate"
            }
            t if t.contains("Expired") || t.contains("expired") => "its certificate has ended",
            // With TLS 1.3 a client without a certificate is told so when it has begun to send.
            t if self.url.starts_with("https:")
                && ["channel closed", "connection closed", "reset", "fatal alert", "broken pipe"]
                    .iter()
                    .any(|end| t.to_lowercase().contains(end)) =>
            {
                "it closes the connection: it may ask for a certificate of an authority that it knows, which --client-cert \
                 and --client-key name"
            }
            t if t.contains("InvalidContentType") || t.contains("corrupt message") => {
                "it does not speak TLS: write http:// in place of https://"
            }
            t if t.contains("invalid HTTP")
                || t.contains("unexpected")
                || t.contains("parse")
                || t.contains("incomplete") =>
            {
                "what answers there is no Millstream server, or speaks TLS: then write https://"
            }
            other => other,
        };
        Error::retry(format!("can't reach {}: {hint}", self.shown()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_its_scheme_and_must_be_one() {
        let url = |text: &str| Server::at(text, None, &ClientTlsArgs::default()).map(|server| server.url);
        let _ = rustls::crypto::ring::default_provider().install_default();
        assert_eq!(url("127.0.0.1:9209").unwrap(), "http://127.0.0.1:9209");
        assert_eq!(url("localhost:9209/").unwrap(), "http://localhost:9209");
        assert_eq!(url("https://a.example/prefix/").unwrap(), "https://a.example/prefix");
        for wrong in ["", "http://", "ftp://a.example", "a b"] {
            assert!(url(wrong).unwrap_err().to_string().contains("no address of a server"), "{wrong}");
        }
    }
}
