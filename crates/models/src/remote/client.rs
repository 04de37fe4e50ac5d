//! Sends batches to an endpoint and says what an answer's status means.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | the predictions |
//! | 408, 429, 5xx, no connection, time-out | `Retry` for the batch; with `Retry-After` in the message |
//! | 400, 413, 422 | an input is refused: the batch is halved until the refused inputs stand alone |
//! | any other | every input of the batch fails: a redirect, a missing right, a wrong address |

use std::collections::BTreeMap;

use millstream_core::units::redact_url;
use millstream_core::{Error, Failure, FailureKind, Result, Secret};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};

use super::{Endpoint, shape};
use crate::{ModelInfo, Prediction};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How much of a refusal is read, for its message.
const REFUSAL_BYTES_MAX: usize = 4 << 10;

/// The headers of the pipeline file.
///
/// # Errors
/// `Config`: a name or a value that HTTP does not allow. The value is not printed.
pub fn headers(written: &BTreeMap<String, Secret>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::config(format!("`{name}` is no name for an HTTP header")))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
            Error::config(format!("the value of header `{name}` holds a character that HTTP does not allow"))
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// A model behind an endpoint.
pub(crate) struct Remote {
    client: Client,
    endpoint: Endpoint,
    info: ModelInfo,
    /// The address without credentials, for messages.
    shown_url: String,
}

/// What an endpoint made of one request.
enum Outcome {
    Answers(Vec<Result<Prediction, Failure>>),
    /// At least one of the inputs is refused.
    Refused(Failure),
    /// All of them fail, and asking for fewer would not help.
    Failed(Failure),
}

impl Remote {
    pub(crate) fn new(endpoint: Endpoint, info: ModelInfo) -> Result<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(Error::bug("no TLS provider is installed: install one before a model is loaded"));
        }
        let client = Client::builder()
            .default_headers(endpoint.headers.clone())
            .timeout(endpoint.timeout)
            // Headers hold secrets; they go nowhere else than to the host that was written.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))?;
        let shown_url = redact_url(endpoint.url.as_str());
        Ok(Self { client, endpoint, info, shown_url })
    }

    /// One answer per text, in order.
    pub(crate) async fn predict(&self, texts: &[&str]) -> Result<Vec<Result<Prediction, Failure>>> {
        let mut answers = Vec::with_capacity(texts.len());
        let mut to_ask = vec![texts];
        while let Some(part) = to_ask.pop() {
            match self.ask(part).await? {
                Outcome::Answers(some) => answers.extend(some),
                Outcome::Refused(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    to_ask.extend([second, first]);
                }
                Outcome::Refused(failure) | Outcome::Failed(failure) => {
                    answers.extend(part.iter().map(|_| Err(failure.clone())));
                }
            }
        }
        Ok(answers)
    }

    async fn ask(&self, texts: &[&str]) -> Result<Outcome> {
        let request = self
            .client
            .post(self.endpoint.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(shape::encode(self.endpoint.protocol, texts));
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        if !status.is_success() {
            return self.refusal(status, response).await;
        }
        let Some(body) = self.body(response, ANSWER_BYTES_MAX).await? else {
            let message = format!("{} answered with more than {} MiB", self.shown_url, ANSWER_BYTES_MAX >> 20);
            return Ok(Outcome::Failed(Failure::new(FailureKind::Model, message)));
        };
        Ok(match shape::decode(self.endpoint.protocol, &self.info, texts.len(), &body) {
            Ok(answers) => Outcome::Answers(answers),
            Err(failure) => Outcome::Failed(failure),
        })
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> Result<Outcome> {
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(shape::shortened);
        let location = response.status().is_redirection();
        let body = self.beginning(response).await;
        let mut message = format!("{} answered {status}", self.shown_url);
        if !body.trim().is_empty() {
            message = format!("{message}: {}", shape::shortened(body.trim()));
        }
        let is_passing = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if is_passing || status.is_server_error() {
            if let Some(wait) = retry_after {
                message = format!("{message} (Retry-After: {wait})");
            }
            return Err(Error::retry(message));
        }
        if location {
            message.push_str(" (redirects are not followed: write the final address)");
        }
        let failure = Failure::new(FailureKind::Model, message);
        Ok(match status {
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Outcome::Refused(failure)
            }
            _ => Outcome::Failed(failure),
        })
    }

    /// The whole body; none where it is longer than `bytes_max`.
    async fn body(&self, mut response: Response, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(e))? {
            if body.len() + chunk.len() > bytes_max {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// As much of a refusal as a message needs; what can't be read of it does not matter.
    async fn beginning(&self, mut response: Response) -> String {
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= REFUSAL_BYTES_MAX {
                break;
            }
        }
        String::from_utf8_lossy(&body).into_owned()
    }

    fn unreachable(&self, e: reqwest::Error) -> Error {
        let message = if e.is_timeout() {
            format!("{} gave no answer within {:?}", self.shown_url, self.endpoint.timeout)
        } else if e.is_connect() {
            format!("can't connect to {}", self.shown_url)
        } else {
            format!("the connection to {} broke", self.shown_url)
        };
        // The URL may hold a token.
        Error::retry(message).caused_by(e.without_url())
    }
}
