//! What the places that give credentials answer, and how it is read.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use chrono::DateTime;
use millstream_core::{Error, Result};
use reqwest::{Client, RequestBuilder, StatusCode, redirect};
use serde_json::Value;

/// A client of the two kinds that are needed: `near` is for this machine, and never goes through a proxy.
///
/// # Errors
/// `Environment`: it can't be set up.
pub(crate) fn client(near: bool, timeout: Duration) -> Result<Client> {
    // Requests carry tokens; they go nowhere else than to the host that they are meant for.
    let builder = Client::builder().timeout(timeout).redirect(redirect::Policy::none());
    let builder = if near { builder.no_proxy() } else { builder };
    builder.build().map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))
}

/// Sends a request to `whom`.
///
/// # Errors
/// `Retry`: there is no whole answer.
pub(crate) async fn exchange(whom: &str, request: RequestBuilder) -> Result<(StatusCode, String)> {
    // The address may hold a token.
    let failed =
        |e: reqwest::Error| Error::retry(format!("no answer from {whom}")).caused_by(chained(&e.without_url()));
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    Ok((status, response.text().await.map_err(failed)?))
}

/// The text of a good answer.
///
/// # Errors
/// `Retry`: there is none, or it is a refusal.
pub(super) async fn text(whom: &str, request: RequestBuilder) -> Result<String> {
    match exchange(whom, request).await? {
        (status, text) if status.is_success() => Ok(text),
        (status, _) => Err(Error::retry(format!("{whom} answered {status}"))),
    }
}

/// The text of an XML element without children. The values here have no character that XML escapes.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

/// Credentials in JSON; `token` is what the session token is called.
///
/// # Errors
/// `Retry`: there are none in it.
pub(super) fn from_json(whom: &str, text: &str, token: &str) -> Result<Credentials> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    credentials(whom, field("AccessKeyId"), field("SecretAccessKey"), field(token), field("Expiration"))
}

/// Credentials of the fields that they have everywhere.
///
/// # Errors
/// `Retry`: an access key is missing, or `expiration` is no time.
pub(super) fn credentials(
    whom: &str,
    id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
) -> Result<Credentials> {
    // What was answered may hold half a secret: it is not shown.
    let unusable = || Error::retry(format!("what {whom} answered holds no credentials"));
    let (Some(id), Some(secret)) = (id, secret) else { return Err(unusable()) };
    let expiry = match expiration {
        None => None,
        Some(text) => Some(SystemTime::from(DateTime::parse_from_rfc3339(&text).map_err(|_| unusable())?)),
    };
    Ok(Credentials::new(id, secret, token, expiry, "millstream"))
}

/// A file with a token.
///
/// # Errors
/// `Environment`: it can't be read.
pub(super) async fn read(path: &str) -> Result<String> {
    tokio::fs::read_to_string(path).await.map_err(|e| Error::environment(format!("can't read {path}")).caused_by(e))
}

/// The message of an error with those of its causes.
pub(super) fn chained(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
