//! Sends rows as requests, in order.

mod partial;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::json::RowWriter;
use millstream_core::terminal::is_unsafe;
use millstream_core::{Clock, Error, Failure, FailureKind, Hidden, Result, RowFailure, Sink, SinkBatch};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use self::partial::Item;
use super::config::{HttpFormat, HttpMethod, HttpSinkConfig, PartialFailures};
use crate::http_client::{Access, HttpClient, Outgoing, describe};
use crate::sink::{Payload, Progress, SinkContext};
use crate::source::request_headers;
use crate::template::{Place, Template};

/// How much of an answer's body is read for a message, and goes into it.
const READ_BYTES_MAX: usize = 8 << 10;
const ANSWER_CHARS_MAX: usize = 300;

/// The longest answer that is read for what it says of single rows.
const PARTIAL_BYTES_MAX: usize = 16 << 20;

/// Sends rows to a web service; see [`HttpSinkConfig`].
pub struct HttpSink {
    config: HttpSinkConfig,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    url: Template,
    headers: HeaderMap,
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

/// The rows of a batch as JSON, and where each goes.
struct Encoded {
    text: Vec<u8>,
    /// Of each payload row, its place in `text`.
    bodies: Vec<Range<usize>>,
    /// Of each payload row, or why it has none; one for all where the URL holds no column.
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
    ///
    /// # Errors
    /// `Config`: the URL names an unknown column, or a header can't be sent.
    pub fn new(config: HttpSinkConfig, context: SinkContext) -> Result<Self> {
        let url = Template::parse(config.url.expose(), &context.schema, Place::Url);
        let mut hidden = Hidden::default();
        hidden.add_url(config.url.expose());
        config.headers.values().chain(&config.bearer_token).for_each(|secret| hidden.add(secret));
        Ok(Self {
            url: url.map_err(|message| Error::config(format!("`url` {message}")))?,
            headers: request_headers(&config.headers, config.bearer_token.as_ref())?,
            hidden,
            name: context.name,
            clock: context.clock,
            config,
            client: None,
            progress: Progress::default(),
        })
    }

    fn client(&mut self) -> Result<HttpClient> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let access = Access { deny_private: self.config.deny_private, ..Access::default() };
        let client = HttpClient::new(self.headers.clone(), Some(self.config.timeout.0), access)?;
        Ok(self.client.insert(client).clone())
    }

    fn encode(&self, batch: &SinkBatch, payload: &Payload) -> Result<Encoded> {
        let writer = RowWriter::bind(&payload.batch)?;
        let (mut text, mut bodies) = (Vec::new(), Vec::with_capacity(payload.rows.len()));
        for row in 0..payload.rows.len() {
            let start = text.len();
            writer.write(row, &mut text);
            bodies.push(start..text.len());
        }
        let urls = if self.url.is_constant() {
            vec![Ok(self.url.sample())]
        } else {
            let bound = self.url.bind(&batch.batch)?;
            payload.rows.iter().map(|&row| bound.render(row as usize)).collect()
        };
        Ok(Encoded { text, bodies, urls })
    }

    /// The payload rows of the next request: what is left of the requests before, then rows of one URL.
    fn next_rows(&mut self, encoded: &Encoded) -> Option<Range<usize>> {
        let progress = &mut self.progress;
        if progress.pending.is_empty() && progress.done < encoded.bodies.len() {
            let end = encoded.request_end(progress.done, self.config.rows_max());
            progress.pending.push(progress.done..end);
            progress.done = end;
        }
        progress.pending.last().cloned()
    }

    /// Notes what became of `rows`.
    ///
    /// # Errors
    /// `Retry`: some of them are to be tried again.
    fn take(&mut self, answer: Answer, rows: Range<usize>, payload: &Payload) -> Result<()> {
        let items = match answer {
            Answer::Accepted => return Ok(()),
            Answer::Refused(_) if rows.len() > 1 => {
                // The first half on top.
                let middle = rows.start + rows.len() / 2;
                self.progress.pending.extend([middle..rows.end, rows.start..middle]);
                return Ok(());
            }
            Answer::Refused(failure) => vec![Item::Refused(failure)],
            Answer::Each(items) => items,
        };
        let mut again: Vec<Range<usize>> = Vec::new();
        let mut reason = None;
        for (i, item) in rows.zip(items) {
            match item {
                Item::Stored => {}
                Item::Refused(failure) => self.progress.failures.push(RowFailure { row: payload.rows[i], failure }),
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
        let method = match self.config.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Patch => Method::PATCH,
        };
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
        if status.is_success() && self.config.partial_failures == PartialFailures::Read && may_be_partial(&response) {
            return self.judge_each(response, target, rows, hidden).await;
        }
        if status.is_success() {
            // Read to its end, the connection can be used again; what it says does not matter any more.
            let _ = beginning(response, hidden).await;
            return Ok(Answer::Accepted);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned);
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
        if let Some(wait) = retry_after.and_then(|text| parse_retry_after(&text, self.clock.now_us())) {
            tokio::time::sleep(wait.min(self.config.retry_after_max.0)).await;
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

impl Encoded {
    /// The end of the request that begins at `start`: rows of one URL, not more than `max`.
    fn request_end(&self, start: usize, max: usize) -> usize {
        let end = self.bodies.len().min(start + max);
        match self.urls.get(start) {
            Some(url) if self.urls.len() > 1 => (start + 1..end).find(|&i| self.urls[i] != *url).unwrap_or(end),
            _ => end,
        }
    }

    /// The URL of a payload row, or why it has none.
    fn url(&self, row: usize) -> std::result::Result<&str, &str> {
        match self.urls.get(row).or(self.urls.first()) {
            Some(Ok(url)) => Ok(url),
            Some(Err(why)) => Err(why),
            None => Ok(""),
        }
    }

    fn request(&self, batch: &SinkBatch, payload: &Payload, rows: Range<usize>, format: HttpFormat) -> Result<Request> {
        let (before, between, after): (&[u8], &[u8], &[u8]) = match format {
            HttpFormat::JsonArray => (b"[", b",", b"]"),
            HttpFormat::Ndjson => (b"", b"\n", b"\n"),
            HttpFormat::Json => (b"", b"", b""),
        };
        let mut body = before.to_vec();
        for (i, place) in self.bodies[rows.clone()].iter().enumerate() {
            if i > 0 {
                body.extend_from_slice(between);
            }
            body.extend_from_slice(&self.text[place.clone()]);
        }
        body.extend_from_slice(after);
        let kind = if format == HttpFormat::Ndjson { "application/x-ndjson" } else { "application/json" };
        let offsets: Vec<u64> = payload.rows[rows.clone()].iter().map(|&row| batch.offsets[row as usize]).collect();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert("idempotency-key", header(&batch.id_of(&offsets))?);
        headers.insert("x-millstream-folder", header(&batch.folder)?);
        headers.insert("x-millstream-stream", header(&batch.stream)?);
        headers.insert("x-millstream-partition", HeaderValue::from(batch.partition));
        headers.insert("x-millstream-offsets", header(&offset_ranges(&offsets))?);
        let url = self.url(rows.start).unwrap_or_default().to_owned();
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

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn parse_retry_after(text: &str, now_us: i64) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = chrono::DateTime::parse_from_rfc2822(text.trim()).ok()?;
    let us = until.timestamp_micros().saturating_sub(now_us);
    Some(Duration::from_micros(u64::try_from(us).unwrap_or_default()))
}

#[async_trait]
impl Sink for HttpSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        self.progress.resume(batch);
        let client = self.client()?;
        let payload = Payload::of(&batch.batch, self.config.image)?;
        let encoded = self.encode(batch, &payload)?;
        while let Some(rows) = self.next_rows(&encoded) {
            let answer = match encoded.url(rows.start) {
                Err(why) => Answer::Each(rows.clone().map(|_| Item::Refused(unfit(why))).collect()),
                Ok(_) => {
                    let request = encoded.request(batch, &payload, rows.clone(), self.config.format)?;
                    self.send(&client, request, rows.len()).await?
                }
            };
            // Not before the answer: a retry sends the same rows under the same key.
            self.progress.pending.pop();
            self.take(answer, rows, &payload)?;
        }
        Ok(self.progress.finish())
    }
}

/// The refusal of a row whose values make no address.
fn unfit(why: &str) -> Failure {
    Failure::new(FailureKind::Rejected, format!("`url` {why}"))
}

#[cfg(test)]
mod tests;
