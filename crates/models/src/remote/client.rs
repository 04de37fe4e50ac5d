//! Sends batches to an endpoint and says what its answers mean.
//!
//! | answer | meaning |
//! |---|---|
//! | 2xx | the predictions |
//! | no connection, 429, anything with `Retry-After`, expired credentials | `Unavailable`: nothing in the batch is to blame; `Retry-After` is obeyed |
//! | 408, 425, 5xx, time-out, broken connection; 2xx that is no answer of the protocol | `Retry` for the batch |
//! | 400, 413, 422, 424, a Lambda function's error | an input is refused: the batch is halved until the refused inputs stand alone |
//! | any other | `Retry` for the batch: a redirect, a missing right, a wrong address, until a person has mended it |
//!
//! A request is never sent twice from here. Trying again is left to the `predict` step, the one place that knows how
//! long the record may still wait.
//!
//! Messages are compared and counted: what an endpoint says is quoted without its numbers.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::units::redact_url;
use millstream_core::{Clock, Error, Failure, FailureKind, Hidden, Result, Secret, SystemClock};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, redirect};
use url::Url;

use super::breaker::{Fate, Refused};
use super::gate::{Gate, Turn};
use super::protocol::{quoted, said, shortened};
use super::signer::Signer;
use super::status::{Verdict, of_aws, of_http};
use super::{Endpoint, Place, aws, retry_after};
use crate::{ModelInfo, Prediction};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How much of a refusal is read, for its message.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// Said in place of an answer that repeats a secret.
const REPEATS: &str = "answered with an error that repeats what it was sent";

/// A model behind an endpoint.
pub(crate) struct Remote {
    client: Client,
    endpoint: Endpoint,
    info: ModelInfo,
    url: Url,
    /// What messages call it: never with credentials.
    shown: String,
    /// On AWS only.
    signer: Option<Signer>,
    gate: Arc<Gate>,
    clock: Arc<dyn Clock>,
    /// What an answer may repeat of a request and no message says.
    hidden: Hidden,
}

/// What an endpoint made of one request.
enum Outcome {
    Answers(Vec<Result<Prediction, Failure>>),
    /// At least one of the inputs is refused.
    Refused(Failure),
}

/// A request that may work later.
struct Later {
    error: Error,
    fate: Fate,
}

impl Remote {
    /// # Errors
    /// `Bug`: no TLS provider is installed. `Config`: the region is nowhere to be found. `Environment`: no HTTP client.
    pub(crate) fn new(endpoint: Endpoint, info: ModelInfo) -> Result<Self> {
        Self::with_clock(endpoint, info, Arc::new(SystemClock))
    }

    pub(crate) fn with_clock(endpoint: Endpoint, info: ModelInfo, clock: Arc<dyn Clock>) -> Result<Self> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(Error::bug("no TLS provider is installed: install one before a model is loaded"));
        }
        let client = Client::builder()
            .timeout(endpoint.timeout)
            // Headers hold secrets; they go nowhere else than to the host that was written.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))?;
        let (url, shown, signer) = match &endpoint.place {
            Place::Http(url) => (url.clone(), redact_url(url.as_str()), None),
            Place::Aws(target) => {
                let (url, signer) = Signer::new(target, clock.clone())?;
                (url, target.to_string(), Some(signer))
            }
        };
        let gate = Arc::new(Gate::new(endpoint.breaker, endpoint.rate));
        let mut hidden = Hidden::default();
        hidden.add_url(url.as_str());
        endpoint.headers.values().filter_map(|value| value.to_str().ok()).for_each(|v| hidden.add(&Secret::new(v)));
        Ok(Self { client, endpoint, info, url, shown, signer, gate, clock, hidden })
    }

    /// Where requests go.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Whether requests are signed; nothing is sent.
    ///
    /// # Errors
    /// There are no credentials to sign with.
    pub(crate) async fn can_sign(&self, now_us: i64) -> Result<bool> {
        let Some(signer) = &self.signer else { return Ok(false) };
        signer.sign(&mut Request::new(Method::POST, self.url.clone()), now_us).await?;
        Ok(true)
    }

    /// What stands before the endpoint.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    #[cfg(all(test, feature = "aws"))]
    pub(crate) fn sign_with(&mut self, credentials: aws::credentials::CredentialSource) {
        if let Some(signer) = &mut self.signer {
            signer.credentials = credentials;
        }
    }

    /// One answer per text, in order. `turn` is the one that was waited for at the gate, if any.
    pub(crate) async fn predict(
        &self,
        texts: &[&str],
        mut turn: Option<Turn>,
    ) -> Result<Vec<Result<Prediction, Failure>>> {
        let most = self.endpoint.codec.texts_max().unwrap_or(usize::MAX);
        let mut answers = Vec::with_capacity(texts.len());
        let mut to_ask: Vec<&[&str]> = texts.chunks(most).rev().collect();
        while let Some(part) = to_ask.pop() {
            match self.ask(part, turn.take()).await? {
                Outcome::Answers(some) => answers.extend(some),
                Outcome::Refused(_) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    to_ask.extend([second, first]);
                }
                Outcome::Refused(failure) => answers.push(Err(failure)),
            }
        }
        Ok(answers)
    }

    async fn ask(&self, texts: &[&str], turn: Option<Turn>) -> Result<Outcome> {
        let leave = self.gate.enter(turn).await.map_err(|refused| self.is_open(&refused))?;
        // A request that can't be made says nothing about the endpoint.
        let request = self.request(texts).await?;
        match self.exchange(request, texts.len()).await {
            Ok(outcome) => {
                leave.report(Fate::Answered, "");
                Ok(outcome)
            }
            Err(later) => {
                leave.report(later.fate, &later.error.to_string());
                Err(later.error)
            }
        }
    }

    async fn request(&self, texts: &[&str]) -> Result<Request> {
        let mut headers = self.endpoint.headers.clone();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        let mut request = self
            .client
            .post(self.url.clone())
            .headers(headers)
            .body(self.endpoint.codec.encode(&self.info, &self.endpoint.extra_body, texts))
            .build()
            .map_err(|e| Error::bug(format!("can't make a request for {}", self.shown)).caused_by(e.without_url()))?;
        if let Some(signer) = &self.signer {
            signer.sign(&mut request, self.clock.now_us()).await.map_err(|e| e.context(self.shown.clone()))?;
        }
        Ok(request)
    }

    async fn exchange(&self, request: Request, texts: usize) -> Result<Outcome, Later> {
        let response = self.client.execute(request).await.map_err(|e| self.unreachable(e))?;
        let status = response.status();
        if !status.is_success() {
            return self.refusal(status, response).await;
        }
        if response.headers().contains_key("x-amz-function-error") && self.signer.is_some() {
            let body = self.beginning(response).await;
            let message = format!("the function at {} failed: {}", self.shown, quoted(&said(&body)));
            return Ok(Outcome::Refused(Failure::new(FailureKind::Model, message)));
        }
        let Some(body) = self.body(response, ANSWER_BYTES_MAX).await? else {
            let message = format!("{} answered with more than {} MiB", self.shown, ANSWER_BYTES_MAX >> 20);
            return Err(Later { error: Error::retry(message), fate: Fate::Answered });
        };
        let decoded = self.endpoint.codec.decode(&self.info, texts, &body);
        let repeats = || matches!(self.hidden.hide(&String::from_utf8_lossy(&body)), Cow::Owned(_));
        let quiet = |failure: Failure| match repeats() {
            true => Failure { message: format!("{} {REPEATS}", self.shown), ..failure },
            false => failure,
        };
        match decoded {
            Ok(answers) => Ok(Outcome::Answers(answers.into_iter().map(|one| one.map_err(quiet)).collect())),
            // A page that says "maintenance", say; or a text that the endpoint stumbles over.
            Err(failure) => Err(Later { error: Error::retry(quiet(failure).message), fate: Fate::Answered }),
        }
    }

    async fn refusal(&self, status: StatusCode, response: Response) -> Result<Outcome, Later> {
        let headers = response.headers().clone();
        let wait = self.wait(&headers);
        let body = self.beginning(response).await;
        let name = self.signer.is_some().then(|| aws::error_name(&headers, &body)).flatten();
        let verdict = match &self.signer {
            Some(_) => of_aws(status, wait.is_some(), name.as_deref(), aws::original_status(&body)),
            None => of_http(status, wait.is_some()),
        };
        let mut message = format!("{} answered {status}", self.shown);
        if let Some(name) = name {
            message = format!("{message} ({})", shortened(&name));
        }
        if !body.trim().is_empty() {
            message = format!("{message}: {}", quoted(&said(&body)));
        }
        if status.is_redirection() {
            message.push_str(" (redirects are not followed: write the final address)");
        }
        match verdict {
            Verdict::Throttled | Verdict::Sick => {
                if let Some(wait) = wait {
                    self.gate.pause(wait);
                }
                if verdict == Verdict::Sick {
                    return Err(Later { error: Error::retry(message), fate: Fate::Failed });
                }
                self.gate.count_throttled();
                Err(Later { error: Error::unavailable(message), fate: Fate::Throttled })
            }
            Verdict::Expired => {
                if let Some(signer) = &self.signer {
                    signer.renew();
                }
                Err(Later { error: Error::unavailable(message), fate: Fate::Throttled })
            }
            Verdict::Refused => Ok(Outcome::Refused(Failure::new(FailureKind::Model, message))),
            // It lives, so its breaker stays closed.
            Verdict::Failed => Err(Later { error: Error::retry(message), fate: Fate::Answered }),
        }
    }

    /// How long the endpoint wants to be left alone.
    fn wait(&self, headers: &HeaderMap) -> Option<Duration> {
        retry_after::parse(headers.get(RETRY_AFTER)?.to_str().ok()?, self.clock.now_us())
    }

    /// The whole body; none where it is longer than `bytes_max`.
    async fn body(&self, mut response: Response, bytes_max: usize) -> Result<Option<Vec<u8>>, Later> {
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
        self.hidden.hide(&String::from_utf8_lossy(&body)).into_owned()
    }

    fn unreachable(&self, e: reqwest::Error) -> Later {
        // Not being let in within the time is a matter of the endpoint; taking too long for an answer may be one of the
        // text.
        let error = if e.is_connect() {
            Error::unavailable(format!("can't connect to {}", self.shown))
        } else if e.is_timeout() {
            Error::retry(format!("{} gave no answer within {:?}", self.shown, self.endpoint.timeout))
        } else {
            Error::retry(format!("the connection to {} broke", self.shown))
        };
        // The URL may hold a token.
        Later { error: error.caused_by(innermost(&e.without_url())), fate: Fate::Failed }
    }

    fn is_open(&self, refused: &Refused) -> Error {
        Error::unavailable(format!(
            "no request is sent to {} for a while, since too many failed; the last: {}",
            self.shown, refused.last_failure
        ))
    }
}

/// What is at the bottom of an error, such as "Connection refused": what is above it says only that something failed.
fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
