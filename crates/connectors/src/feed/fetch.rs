//! One poll of one feed: a conditional request, and the document's entries.

use std::time::Duration;

use bytes::Bytes;
use millstream_core::{Clock, Failure, FailureKind};
use reqwest::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER,
};
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};

use crate::file::KEPT_BYTES_MAX;
use crate::format::feed::{FeedEntry, parse_feed};
use crate::source::{charset, describe_http_error, retry_after};

/// What a server wants to see again in order to answer "not modified".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_modified: Option<String>,
}

/// What a poll gave.
#[derive(Debug)]
pub(crate) enum Polled {
    /// Nothing has changed.
    NotModified,
    /// The document's entries, in its order.
    Entries { entries: Vec<FeedEntry>, validators: Validators },
    /// The document is no feed, or too large.
    Refused { kept: Bytes, failure: Failure, validators: Validators },
    /// No document: why, and how long the server wants to be left alone.
    Failed { why: String, retry_after: Option<Duration> },
}

/// Asks for `url`, whose last answer had these `validators`.
pub(crate) async fn poll(
    client: Client,
    url: String,
    validators: Validators,
    max_body: usize,
    clock: &dyn Clock,
) -> Polled {
    let mut request = client.get(&url);
    if let Some(etag) = &validators.etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    if let Some(last_modified) = &validators.last_modified {
        request = request.header(IF_MODIFIED_SINCE, last_modified);
    }
    let failed = |why| Polled::Failed { why, retry_after: None };
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(e) => return failed(describe_http_error(e)),
    };
    if response.status() == StatusCode::NOT_MODIFIED {
        return Polled::NotModified;
    }
    if !response.status().is_success() {
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, clock));
        return Polled::Failed { why: format!("the server answered {}", response.status()), retry_after };
    }
    let validators =
        Validators { etag: text(response.headers(), &ETAG), last_modified: text(response.headers(), &LAST_MODIFIED) };
    let charset = response.headers().get(CONTENT_TYPE).and_then(charset);
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(e) => return failed(describe_http_error(e)),
        }
        if body.len() > max_body {
            let failure = Failure::new(
                FailureKind::TooLarge,
                format!(
                    "the document has more than the {max_body} bytes that `max_body` allows; its beginning is kept"
                ),
            );
            body.truncate(KEPT_BYTES_MAX);
            return Polled::Refused { kept: body.into(), failure, validators };
        }
    }
    // Large documents take a while.
    let parsed = tokio::task::spawn_blocking(move || {
        parse_feed(&body, Some(&without_credentials(&url)), charset.as_deref()).map_err(|failure| (body, failure))
    });
    match parsed.await {
        Ok(Ok(entries)) => Polled::Entries { entries, validators },
        Ok(Err((body, failure))) => Polled::Refused { kept: body.into(), failure, validators },
        Err(e) => failed(format!("reading the document broke off: {e}")),
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The address as it is stored with the entries.
fn without_credentials(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else { return url.to_owned() };
    if parsed.username().is_empty() && parsed.password().is_none() {
        return url.to_owned();
    }
    // Neither fails for an address that has a host, and only those can be polled.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.into()
}
