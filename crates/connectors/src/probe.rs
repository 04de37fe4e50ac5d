//! A look at what a connector connects to, before anything is read or written: are the paths there, does the host
//! answer, are the credentials taken?
//!
//! Nothing is changed anywhere: no queue declared, no file left, no request sent to a web service that might act on it.
//! An error of kind `Retry` passes by itself (a pipeline waits for it); any other one a person has to mend.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use millstream_core::{Error, Result, ResultExt};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use tokio::net::TcpStream;
use url::Url;

use crate::http_client::{Access, HttpClient, Outgoing, public_addresses};

/// How far a probe goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Paths, host and port, and the credentials of brokers: what a start looks at.
    Quick,
    /// What a source reads is asked for, too.
    Full,
}

/// How long a probe may take, in all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks for a document, and reads only what the server says of it.
pub(crate) async fn ask(url: &Url, headers: HeaderMap, access: Access) -> Result<String> {
    let client = HttpClient::new(headers, Some(TIMEOUT), access)?;
    let answer = client.send(url, Outgoing::default()).await.map_err(Error::retry)?;
    let (host, status) = (answer.url().host_str().unwrap_or_default().to_owned(), answer.status());
    match status {
        _ if status.is_success() || status == StatusCode::NOT_MODIFIED => Ok(format!("{host} answers {status}")),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(Error::config(format!("{host} answers {status}: check the credentials (`headers`, `bearer_token`)")))
        }
        _ => Err(Error::retry(format!("{host} answers {status}"))),
    }
}

/// Lets a probe take as long as any may.
///
/// # Errors
/// What it says; `Retry` where it takes longer.
pub(crate) async fn within(probe: impl Future<Output = Result<String>>) -> Result<String> {
    let late = |_| Err(Error::retry(format!("no answer within {} s", TIMEOUT.as_secs())));
    tokio::time::timeout(TIMEOUT, probe).await.unwrap_or_else(late)
}

/// Connects to host and port of a URL, and hangs up.
///
/// # Errors
/// `Retry`: the name is not known or nobody answers.
pub(crate) async fn reach(url: &str, deny_private: bool) -> Result<String> {
    // The text may hold a password, so it is not repeated.
    let url = Url::parse(url).map_err(|e| Error::config(format!("`url` is no URL: {e}")))?;
    let host = url.host_str().ok_or_else(|| Error::config("`url` names no host"))?;
    let port = url.port_or_known_default().or(match url.scheme() {
        "ws" => Some(80),
        "wss" => Some(443),
        "amqp" => Some(5672),
        "amqps" => Some(5671),
        _ => None,
    });
    let port = port.ok_or_else(|| Error::config("`url` names no port"))?;
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let connected = if deny_private {
        match public_addresses(address, port).await {
            Ok(addresses) => TcpStream::connect(addresses.as_slice()).await,
            Err(e) => Err(e),
        }
    } else {
        TcpStream::connect((address, port)).await
    };
    match connected {
        Ok(_) => Ok(format!("{host}:{port} answers")),
        Err(e) => Err(Error::retry(format!("{host}:{port} can't be reached")).caused_by(e)),
    }
}

/// True where the program may write into `folder`, or make it.
///
/// # Errors
/// `Environment`: it is a file, or it can't be written.
pub(crate) fn writable(folder: &Path) -> Result<String> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    if !there.is_dir() {
        return Err(Error::environment(format!("{} is a file, not a folder", there.display())));
    }
    // Modes alone don't say it: a file system may be read-only.
    let probe = there.join(format!(".millstream-probe-{}", std::process::id()));
    let made = std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe));
    // Room may be made, or come back, while others go on.
    let passes = |e: &std::io::Error| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    if let Some(e) = made.as_ref().err().filter(|e| passes(e)) {
        return Err(Error::retry(format!("write into {}: the disk is full: {e}", there.display())));
    }
    made.doing(|| format!("write into {}", there.display()))?;
    Ok(if there == folder { format!("{} can be written", folder.display()) } else { "the folder will be made".into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::ErrorKind;

    #[tokio::test]
    async fn a_host_that_does_not_answer_passes_and_a_wrong_url_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reach(&format!("amqp://user:hush@127.0.0.1:{port}/%2f"), false).await.is_ok());
        drop(listener);
        let error = reach(&format!("ws://user:hush@127.0.0.1:{port}/"), false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert!(!error.to_string().contains("hush"), "{error}");
        assert_eq!(reach("no url", false).await.unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn a_folder_is_looked_at_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        writable(folder.path()).unwrap();
        writable(&folder.path().join("to/be/made")).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(writable(&folder.path().join("file/out")).unwrap_err().kind(), ErrorKind::Environment);
    }
}
