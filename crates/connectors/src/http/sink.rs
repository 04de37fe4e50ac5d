//! Posts records to a web service: sends rows as requests, in order.

pub mod config;
mod partial;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::terminal::is_unsafe;
use millstream_core::{
    AnySink, Clock, Encoded, Error, Failure, FailureKind, Hidden, Result, RowFailure, Sink, SinkBatch,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

pub use self::config::{HttpBatchConfig, HttpFraming, HttpMethod, HttpSinkConfig, HttpSinkSpec, PartialFailures};
use self::partial::Item;
use crate::check::Problem;
use crate::connector::{SinkConnector, SinkSettings};
use crate::context::SinkContext;
use crate::http_client::{Access, HttpClient, Outgoing, describe, retry_after};
use crate::payload::Progress;
use crate::preview::{self, Preview};
use crate::probe::reach;

/// How much of an answer's body is read for a message, and goes into it.
const READ_BYTES_MAX: usize = 8 << 10;
const ANSWER_CHARS_MAX: usize = 300;

/// The longest answer that is read for what it says of single rows.
const PARTIAL_BYTES_MAX: usize = 16 << 20;

impl SinkSettings for HttpSinkConfig {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn check(&self, _: &Path, schema: &SchemaRef) -> Result<Arc<dyn SinkConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked(schema)?))
    }
}

#[async_trait]
impl SinkConnector for HttpSinkSpec {
    async fn probe(&self) -> Result<String> {
        // The host does not depend on a row, so what stands for a column does not matter.
        reach(&self.url.sample(), self.config.deny_private).await
    }

    fn preview(&self, batch: &RecordBatch) -> Result<Vec<Preview>> {
        let url = self.url.bind(batch)?;
        let place = format!("{} {}", Method::from(self.config.method), origin(&self.url.sample()));
        preview::each(batch, &self.body, |row| {
            // Filled-in columns are not secret; what stands around them may be.
            url.render_hidden(row).map(|path| format!("{place}/{path}")).map_err(|why| format!("`url` {why}"))
        })
    }

    fn open(&self, context: SinkContext) -> Result<AnySink> {
        Ok(AnySink::Direct(Box::new(HttpSink::new(self, context))))
    }
}

/// Scheme and host, without user, password and path.
fn origin(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// Sends rows to a web service; see [`HttpSinkConfig`].
pub struct HttpSink {
    spec: HttpSinkSpec,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    /// What an answer may repeat of a request and no message says.
    hidden: Hidden,
    client: Option<HttpClient>,
    progress: Progress,
}

impl std::fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSink").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The records of a batch, and where each goes.
struct Addressed {
    records: Encoded,
    /// Of each record, or why it has none; one for all where the URL holds no column.
    urls: Vec<Result<String, String>>,
}

/// What the service says of a request.
enum Answer {
    Accepted,
    Refused(Failure),
    /// Of each row.
    Each(Vec<Item>),
}

impl HttpSink {
    /// A sink with settings that were checked; connects with the first batch.
    pub fn new(spec: &HttpSinkSpec, context: SinkContext) -> Self {
        let mut hidden = Hidden::default();
        hidden.add_url(spec.config.url.expose());
        spec.config.headers.values().chain(&spec.config.bearer_token).for_each(|secret| hidden.add(secret));
        Self {
            spec: spec.clone(),
            hidden,
            name: context.name,
            clock: context.clock,
            client: None,
            progress: Progress::default(),
        }
    }

    fn client(&mut self) -> Result<HttpClient> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let access = Access { deny_private: self.spec.config.deny_private, ..Access::default() };
        let client = HttpClient::new(self.spec.headers.clone(), Some(self.spec.config.timeout.0), access)?;
        Ok(self.client.insert(client).clone())
    }

    fn address(&self, batch: &SinkBatch) -> Result<Addressed> {
        let records = self.spec.body.encode(&batch.batch)?;
        let url = &self.spec.url;
        let urls = if url.is_constant() {
            vec![Ok(url.sample())]
        } else {
            let bound = url.bind(&batch.batch)?;
            records.rows.iter().map(|&row| bound.render(row as usize)).collect()
        };
        Ok(Addressed { records, urls })
    }

    /// The records of the next request: what is left of the requests before, then records of one URL.
    fn next_records(&mut self, addressed: &Addressed) -> Option<Range<usize>> {
        let progress = &mut self.progress;
        if progress.pending.is_empty() && progress.done < addressed.records.len() {
            let end = addressed.request_end(progress.done, self.spec.rows_max());
            progress.pending.push(progress.done..end);
            progress.done = end;
        }
        progress.pending.last().cloned()
    }

    /// Notes what became of the records `chosen`.
    ///
    /// # Errors
    /// `Retry`: some of them are to be tried again.
    fn take(&mut self, answer: Answer, chosen: Range<usize>, records: &Encoded) -> Result<()> {
        let items = match answer {
            Answer::Accepted => return Ok(()),
            Answer::Refused(_) if chosen.len() > 1 => {
                // The first half on top.
                let middle = chosen.start + chosen.len() / 2;
                self.progress.pending.extend([middle..chosen.end, chosen.start..middle]);
                return Ok(());
            }
            Answer::Refused(failure) => vec![Item::Refused(failure)],
            Answer::Each(items) => items,
        };
        let mut again: Vec<Range<usize>> = Vec::new();
        let mut reason = None;
        for (i, item) in chosen.zip(items) {
            match item {
                Item::Stored => {}
                Item::Refused(failure) => self.progress.failures.push(RowFailure { row: records.rows[i], failure }),
                Item::Again(why) => {
                    reason.get_or_insert(why);
                    match again.last_mut() {
                        Some(run) if run.end == i => run.end = i + 1,
                        _ => again.push(i..i + 1),
                    }
                }
            }
        }
        self.progress.pending.extend(again.into_iter().rev());
        match reason {
            None => Ok(()),
            Some(why) => {
                Err(Error::retry(format!("the service took a request only in part, the rest comes again: {why}")))
            }
        }
    }

    /// Sends one request of `rows` rows.
    ///
    /// # Errors
    /// `Retry`: the answer, or its absence, says nothing about the rows.
    async fn send(&self, client: &HttpClient, request: Request, rows: usize) -> Result<Answer> {
        let Ok(url) = Url::parse(&request.url) else {
            return Ok(Answer::Refused(unfit("is no URL with this row's values")));
        };
        let method = Method::from(self.spec.config.method);
        // Path and query may hold a token.
        let target = format!("{method} {}", url.origin().ascii_serialization());
        let what = Outgoing { method, headers: request.headers, body: Some(request.body) };
        // Redirects are not followed: the answer says so.
        match client.send_once(&url, &what, true).await {
            Ok(response) => {
                let mut hidden = self.hidden.clone();
                hidden.add_url(&request.url);
                self.judge(response, &target, rows, &hidden).await
            }
            Err(why) => Err(Error::retry(format!("{target}: {why}"))),
        }
    }

    async fn judge(&self, response: Response, target: &str, rows: usize, hidden: &Hidden) -> Result<Answer> {
        let status = response.status();
        if status.is_success()
            && self.spec.config.partial_failures == PartialFailures::Read
            && may_be_partial(&response)
        {
            return self.judge_each(response, target, rows, hidden).await;
        }
        if status.is_success() {
            // Read to its end, the connection can be used again; what it says does not matter any more.
            let _ = beginning(response, hidden).await;
            return Ok(Answer::Accepted);
        }
        let wait = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, &*self.clock));
        let location = response.headers().get(reqwest::header::LOCATION).is_some();
        let said = beginning(response, hidden).await;
        let message = format!("{target} answers {status}{}{said}", if said.is_empty() { "" } else { ": " });
        let again = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                "; check the credentials (`headers`, `bearer_token`) and the service"
            }
            _ if status.is_redirection() && location => {
                "; redirects are not followed: write the final address as `url`"
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => "",
            _ if status.is_server_error() || status.is_redirection() || status.is_informational() => "",
            StatusCode::PAYLOAD_TOO_LARGE => return Ok(Answer::Refused(Failure::new(FailureKind::TooLarge, message))),
            _ => return Ok(Answer::Refused(Failure::new(FailureKind::Rejected, message))),
        };
        if let Some(wait) = wait {
            tokio::time::sleep(wait.min(self.spec.config.retry_after_max.0)).await;
        }
        Err(Error::retry(format!("{message}{again}")))
    }
}

impl HttpSink {
    /// Reads what the answer says of each row.
    ///
    /// # Errors
    /// `Retry`: it broke off.
    async fn judge_each(&self, mut response: Response, target: &str, rows: usize, hidden: &Hidden) -> Result<Answer> {
        let status = response.status();
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= PARTIAL_BYTES_MAX => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Ok(Some(_)) => {
                    tracing::warn!(sink = %self.name, "{target}: the answer is too long to be read for partial failures");
                    return Ok(Answer::Accepted);
                }
                // Whether rows were refused is not known; the key tells the service that it is a repeat.
                Err(e) => return Err(Error::retry(format!("{target}: {}", describe(e)))),
            }
        }
        match partial::read(status, &body, rows) {
            Some(items) => Ok(Answer::Each(items.into_iter().map(|item| item.without(hidden)).collect())),
            None => Ok(Answer::Accepted),
        }
    }
}

/// True where an answer of success may speak of single rows.
fn may_be_partial(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    response.status() == StatusCode::MULTI_STATUS || kind.is_some_and(|kind| kind.to_ascii_lowercase().contains("json"))
}

struct Request {
    url: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Addressed {
    /// The end of the request that begins at `start`: records of one URL, not more than `max`.
    fn request_end(&self, start: usize, max: usize) -> usize {
        let end = self.records.len().min(start + max);
        match self.urls.get(start) {
            Some(url) if self.urls.len() > 1 => (start + 1..end).find(|&i| self.urls[i] != *url).unwrap_or(end),
            _ => end,
        }
    }

    /// The URL of a record, or why it has none.
    fn url(&self, i: usize) -> std::result::Result<&str, &str> {
        match self.urls.get(i).or(self.urls.first()) {
            Some(Ok(url)) => Ok(url),
            Some(Err(why)) => Err(why),
            None => Ok(""),
        }
    }

    fn request(&self, batch: &SinkBatch, chosen: Range<usize>, spec: &HttpSinkSpec) -> Result<Request> {
        let (before, between, after): (&[u8], &[u8], &[u8]) = match spec.framing {
            HttpFraming::Array => (b"[", b",", b"]"),
            HttpFraming::Lines => (spec.body.header(), b"\n", b"\n"),
            HttpFraming::Single => (spec.body.header(), b"", b""),
        };
        let mut body = before.to_vec();
        for i in chosen.clone() {
            if i > chosen.start {
                body.extend_from_slice(between);
            }
            body.extend_from_slice(self.records.record(i));
        }
        body.extend_from_slice(after);
        let kind = match (spec.framing, spec.body.media_type()) {
            (HttpFraming::Lines, "application/json") => "application/x-ndjson",
            (_, kind) => kind,
        };
        let rows = &self.records.rows[chosen.clone()];
        let offsets: Vec<u64> = rows.iter().map(|&row| batch.offsets[row as usize]).collect();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("idempotency-key", header(&batch.id_of(&offsets))?);
        headers.insert("x-millstream-folder", header(&batch.folder)?);
        headers.insert("x-millstream-stream", header(&batch.stream)?);
        headers.insert("x-millstream-partition", HeaderValue::from(batch.partition));
        headers.insert("x-millstream-offsets", header(&offset_ranges(&offsets))?);
        let url = self.url(chosen.start).unwrap_or_default().to_owned();
        Ok(Request { url, headers, body })
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Error::bug("a stream's name can't be a header"))
}

/// `5-9,12`
fn offset_ranges(offsets: &[u64]) -> String {
    let runs = offsets.chunk_by(|a, b| a + 1 == *b);
    let texts: Vec<String> = runs
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => run[0].to_string(),
        })
        .collect();
    texts.join(",")
}

/// The first part of an answer's body, in one line, without secrets; empty where it can't be read.
async fn beginning(mut response: Response, hidden: &Hidden) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < READ_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(READ_BYTES_MAX - bytes.len())]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    // Cut behind that: half of a secret would not be found.
    let text = hidden.hide(&text);
    let line = text.chars().map(|c| if c.is_control() || is_unsafe(c) { ' ' } else { c });
    line.take(ANSWER_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[async_trait]
impl Sink for HttpSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        self.progress.resume(batch);
        let client = self.client()?;
        let mut addressed = self.address(batch)?;
        while let Some(chosen) = self.next_records(&addressed) {
            let answer = match addressed.url(chosen.start) {
                Err(why) => Answer::Each(chosen.clone().map(|_| Item::Refused(unfit(why))).collect()),
                Ok(_) => {
                    let request = addressed.request(batch, chosen.clone(), &self.spec)?;
                    self.send(&client, request, chosen.len()).await?
                }
            };
            // Not before the answer: a retry sends the same rows under the same key.
            self.progress.pending.pop();
            self.take(answer, chosen, &addressed.records)?;
        }
        Ok(self.progress.finish(std::mem::take(&mut addressed.records.failures)))
    }
}

/// The refusal of a row whose values make no address.
fn unfit(why: &str) -> Failure {
    Failure::new(FailureKind::Rejected, format!("`url` {why}"))
}

#[cfg(test)]
mod tests;
