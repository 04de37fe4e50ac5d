//! What administrators have done: one line for each write of theirs, in the log (target `audit`) and, with
//! `--audit-log`, in a file of JSON lines.
//!
//! A line is written when the write has ended, whether its client waited for that or not. The file is opened for every
//! line, so it may be moved away at any time; it is forced to disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::{Clock, Error, Result, ResultExt, SystemClock};
use serde::Serialize;
use serde_json::Value;

/// Bytes of parameters or of an answer that a line holds of a text that is no JSON.
const TEXT_BYTES_MAX: usize = 1024;

/// Where lines go.
#[derive(Debug, Clone)]
pub struct Audit {
    file: Option<Arc<Path>>,
    clock: Arc<dyn Clock>,
}

/// One write.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// When it ended, RFC 3339.
    pub at: String,
    /// The name of the token; none where the server asks for none.
    pub who: Option<String>,
    /// The subject of the client's certificate.
    pub certificate: Option<String>,
    /// The client's address.
    pub from: Option<String>,
    /// `POST`.
    pub method: String,
    /// The path as it was asked for.
    pub path: String,
    /// Query and body, without secrets.
    pub parameters: Value,
    /// HTTP's status.
    pub status: u16,
    /// What was answered: counts, or the error.
    pub answer: Value,
}

impl Audit {
    /// Lines into the log, and into `file` where there is one.
    ///
    /// # Errors
    /// `Config`: the file can't be written.
    pub fn open(file: Option<PathBuf>) -> Result<Self> {
        if let Some(path) = &file {
            let opened = open(path).map_err(Error::from);
            opened.map_err(|e| Error::config(format!("--audit-log {}: {e}", path.display())))?;
        }
        Ok(Self { file: file.map(Into::into), clock: Arc::new(SystemClock) })
    }

    /// Now, as lines have it.
    pub fn now(&self) -> String {
        let now = chrono::DateTime::from_timestamp_micros(self.clock.now_us());
        now.map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)).unwrap_or_default()
    }

    /// Writes a line. Where that fails the log says so: what was done can't be undone.
    pub async fn write(&self, line: Line) {
        let none = "-".to_owned();
        let (who, certificate) = (line.who.as_ref().unwrap_or(&none), line.certificate.as_ref().unwrap_or(&none));
        let from = line.from.as_ref().unwrap_or(&none);
        tracing::info!(
            target: "audit", %who, %certificate, %from, parameters = %line.parameters, status = line.status,
            answer = %line.answer, "{} {}", line.method, line.path
        );
        let Some(path) = self.file.clone() else { return };
        let written = tokio::task::spawn_blocking(move || append(&path, &line)).await;
        let written = written.unwrap_or_else(|e| Err(Error::bug(format!("writing it panicked: {e}"))));
        if let Err(e) = written {
            tracing::error!("a line of --audit-log is missing: {e}");
        }
    }
}

fn append(path: &Path, line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line).map_err(|e| Error::bug("write a line").caused_by(e))?;
    text.push('\n');
    let mut file = open(path).doing(|| format!("open {}", path.display()))?;
    // In one call: lines of several requests do not mix.
    file.write_all(text.as_bytes()).doing(|| format!("write {}", path.display()))?;
    file.sync_data().doing(|| format!("write {}", path.display()))
}

fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// A body as a line holds it: JSON without secrets, else its size.
pub fn shown(body: &[u8]) -> Value {
    match serde_json::from_slice(body) {
        _ if body.is_empty() => Value::Null,
        Ok(value) => without_secrets(value),
        Err(_) if body.len() <= TEXT_BYTES_MAX => String::from_utf8_lossy(body).into_owned().into(),
        Err(_) => format!("{} bytes", body.len()).into(),
    }
}

/// Query and body together.
pub fn parameters(query: Option<&str>, body: &[u8]) -> Value {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let query: serde_json::Map<String, Value> = pairs.map(|(k, v)| (k.into_owned(), v.into_owned().into())).collect();
    let body = shown(body);
    match (query.is_empty(), body) {
        (true, body) => body,
        (false, Value::Null) => without_secrets(query.into()),
        (false, body) => serde_json::json!({ "query": without_secrets(query.into()), "body": body }),
    }
}

fn without_secrets(value: Value) -> Value {
    let is_secret = |key: &str| {
        let key = key.to_ascii_lowercase();
        ["token", "password", "secret", "authorization", "credential", "api_key"].iter().any(|word| key.contains(word))
    };
    match value {
        Value::Object(map) => {
            let pair = |(key, value): (String, Value)| {
                let value = if is_secret(&key) { "***".into() } else { without_secrets(value) };
                (key, value)
            };
            Value::Object(map.into_iter().map(pair).collect())
        }
        Value::Array(items) => items.into_iter().map(without_secrets).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_shown_without_secrets() {
        let body = br#"{"component": "x", "ids": ["a/1"], "nested": [{"api_token": "hush", "Password": "hush"}]}"#;
        let all = parameters(Some("a=1&token=hush"), body).to_string();
        assert!(!all.contains("hush") && all.contains("a/1") && all.contains("\"a\":\"1\""), "{all}");
        assert_eq!((parameters(None, b""), parameters(None, b"{}")), (Value::Null, serde_json::json!({})));
        assert_eq!(shown(&[b'x'; 5000]), "5000 bytes");
    }
}
