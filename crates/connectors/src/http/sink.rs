//! Sends rows as requests, in order.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::json::RowWriter;
use millstream_core::{Clock, Error, Failure, FailureKind, Result, RowFailure, Sink, SinkBatch};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::config::{HttpFormat, HttpMethod, HttpSinkConfig};
use crate::sink::{Payload, Progress, SinkContext};
use crate::source::request_headers;
use crate::template::Template;

/// How much of an answer's body goes into a message.
const ANSWER_BYTES_MAX: usize = 300;

/// Sends rows to a web service; see [`HttpSinkConfig`].
pub struct HttpSink {
    config: HttpSinkConfig,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    url: Template,
    headers: HeaderMap,
    client: Option<Client>,
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
    /// Of each payload row; one for all where the URL holds no column.
    urls: Vec<String>,
}

/// What the service says of a request.
enum Answer {
    Accepted,
    Refused(Failure),
}

impl HttpSink {
    /// A sink with settings that were checked; connects with the first batch.
    ///
    /// # Errors
    /// `Config`: the URL names an unknown column, or a header can't be sent.
    pub fn new(config: HttpSinkConfig, context: SinkContext) -> Result<Self> {
        let url = Template::parse(config.url.expose(), &context.schema);
        Ok(Self {
            url: url.map_err(|message| Error::config(format!("`url` {message}")))?,
            headers: request_headers(&config.headers, config.bearer_token.as_ref())?,
            name: context.name,
            clock: context.clock,
            config,
            client: None,
            progress: Progress::default(),
        })
    }

    fn client(&mut self) -> Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = Client::builder()
            .timeout(self.config.timeout.0)
            .default_headers(self.headers.clone())
            .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
            // Followed, a redirect would turn a POST into a GET.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::environment("set up HTTP client").caused_by(e))?;
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
            vec![self.url.sample()]
        } else {
            let bound = self.url.bind(&batch.batch)?;
            let render = |&row: &u32| {
                let mut url = String::new();
                bound.render_with(row as usize, &mut url, percent_encode);
                url
            };
            payload.rows.iter().map(render).collect()
        };
        Ok(Encoded { text, bodies, urls })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// `Retry`: the answer, or its absence, says nothing about the rows.
    async fn send(&self, client: &Client, request: Request) -> Result<Answer> {
        let Ok(url) = Url::parse(&request.url) else {
            return Ok(Answer::Refused(Failure::new(FailureKind::Rejected, "with this row's values `url` is no URL")));
        };
        let method = match self.config.method {
            HttpMethod::Post => Method::POST,
            HttpMethod::Put => Method::PUT,
            HttpMethod::Patch => Method::PATCH,
        };
        // Path and query may hold a token.
        let target = format!("{method} {}", url.origin().ascii_serialization());
        match client.request(method, url).headers(request.headers).body(request.body).send().await {
            Ok(response) => self.judge(response, &target).await,
            Err(e) if e.is_builder() => Ok(Answer::Refused(Failure::new(
                FailureKind::Rejected,
                format!("{target}: {}", reasons(&e.without_url())),
            ))),
            Err(e) => Err(Error::retry(format!("{target}: {}", reasons(&e.without_url())))),
        }
    }

    async fn judge(&self, response: Response, target: &str) -> Result<Answer> {
        let status = response.status();
        if status.is_success() {
            // Read to its end, the connection can be used again; what it says does not matter any more.
            let _ = beginning(response).await;
            return Ok(Answer::Accepted);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let location = response.headers().get(reqwest::header::LOCATION).is_some();
        let said = beginning(response).await;
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
        headers.insert("idempotency-key", header(&idempotency_key(batch, &offsets))?);
        headers.insert("x-millstream-stream", header(&batch.stream)?);
        headers.insert("x-millstream-partition", HeaderValue::from(batch.partition));
        headers.insert("x-millstream-offsets", header(&offset_ranges(&offsets))?);
        let url = self.urls.get(rows.start).or(self.urls.first()).cloned().unwrap_or_default();
        Ok(Request { url, headers, body })
    }
}

fn header(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| Error::bug("a stream's name can't be a header"))
}

/// `stream/partition/offset`, or `stream/partition/first-last` of several rows.
fn idempotency_key(batch: &SinkBatch, offsets: &[u64]) -> String {
    match offsets {
        [first, .., last] => format!("{}/{}/{first}-{last}", batch.stream, batch.partition),
        [one] => format!("{}/{}/{one}", batch.stream, batch.partition),
        [] => String::new(),
    }
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

/// The first part of an answer's body, in one line; empty where it can't be read.
async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - bytes.len())]),
            _ => break,
        }
    }
    let text: String = String::from_utf8_lossy(&bytes).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().to_owned()
}

/// The error and its causes: the outermost alone says only "error sending request".
fn reasons(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        text = format!("{text}: {e}");
        cause = e.source();
    }
    text
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

/// Everything but the unreserved characters of RFC 3986, section 2.3.
fn percent_encode(value: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in value.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(HEX[(byte >> 4) as usize] as char);
            out.push(HEX[(byte & 15) as usize] as char);
        }
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        self.progress.resume(batch);
        let client = self.client()?;
        let payload = Payload::of(&batch.batch, self.config.image)?;
        let encoded = self.encode(batch, &payload)?;
        while self.progress.done < payload.rows.len() {
            let start = self.progress.done;
            // Halves of refused requests, the first on top.
            let whole = start..encoded.request_end(start, self.config.rows_max());
            let mut pending = Vec::from([whole]);
            while let Some(rows) = pending.pop() {
                let request = encoded.request(batch, &payload, rows.clone(), self.config.format)?;
                match self.send(&client, request).await? {
                    Answer::Refused(_) if rows.len() > 1 => {
                        let middle = rows.start + rows.len() / 2;
                        pending.push(middle..rows.end);
                        pending.push(rows.start..middle);
                        continue;
                    }
                    Answer::Refused(failure) => {
                        self.progress.failures.push(RowFailure { row: payload.rows[rows.start], failure });
                    }
                    Answer::Accepted => {}
                }
                self.progress.done = rows.end;
            }
        }
        Ok(self.progress.finish())
    }
}

#[cfg(test)]
mod tests;
