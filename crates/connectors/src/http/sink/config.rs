//! What can be written under a sink of `type: http`.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use millstream_core::units::unencoded_user_info;
use millstream_core::{HumanDuration, Secret};
use reqwest::Method;
use reqwest::header::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{ENCODE_PASSWORD, Problem, Problems};
use crate::format::EncodeConfig;
use crate::payload::{Body, Image};
use crate::template::{Place, Template};

/// Sends rows to a web service, in order, one request at a time.
///
/// A row is delivered when its request was answered with a 2xx status. 408, 425, 429, 5xx, a refused connection and a
/// time-out are tried again for ever (a `Retry-After` is honoured), and so are 401, 403 and redirects, because they say
/// nothing about the row; any other status refuses the row, which goes to the dead letter queue. Where a request of
/// several rows is refused, it is halved until the rows at fault are found. The header `Idempotency-Key` is
/// `folder/stream/partition/offset` (of several rows: `first-last`), where `folder` is the identity of the data folder,
/// and `X-Millstream-Folder`, `-Stream`, `-Partition` and `-Offsets` (`5-9,12`) name every row, so that the service can
/// drop a repeat.
///
/// A service that takes a request only in part can say so of each row: `{"errors": true, "items": […]}` (Elasticsearch,
/// OpenSearch), `FailedRecordCount` and the like (Kinesis, Firehose, EventBridge), `rejected` (Millstream),
/// `insertErrors` (BigQuery), or status 207 with a list of objects that have a `status`. Of such an answer the refused
/// rows go to the dead letter queue, and those that say `try again` (429, 5xx, throttled) are sent again, alone.
///
/// Values in the URL are percent-encoded, and none of them can change host or depth of the path: a row whose value
/// would make a part of the path empty, `.` or `..` (however often the other side decodes it), or brings a control
/// character or a `\\` into it, goes to the dead letter queue (`rejected`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// Where to send to; columns in braces, behind the host, are filled in, percent-encoded:
    /// `https://host/items/{id}`.
    pub url: Secret,
    /// The request method.
    #[serde(default)]
    pub method: HttpMethod,
    /// Headers of each request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Sent as `Authorization: Bearer …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// What a row is in the body of a request: `json` (an object), `csv`, `text` (a line made from a template) or `raw`
    /// (the bytes of one column). Default: `json`.
    #[serde(default)]
    pub encode: EncodeConfig,
    /// How the rows of a request make its body. Default: `array` of `json`, `lines` of `csv` and `text`, `single` of
    /// `raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framing: Option<HttpFraming>,
    /// How many rows go into a request. With `framing: single` it is one.
    #[serde(default)]
    pub batch: HttpBatchConfig,
    /// How long a request may take, its answer included.
    #[serde(default = "default_timeout")]
    pub timeout: HumanDuration,
    /// The longest wait that a `Retry-After` of the service is granted.
    #[serde(default = "default_retry_after_max")]
    pub retry_after_max: HumanDuration,
    /// What to send of a change stream.
    #[serde(default)]
    pub image: Image,
    /// Whether an answer of success is read for rows that the service did not take.
    #[serde(default)]
    pub partial_failures: PartialFailures,
    /// Connect to no address of this machine or of a private network, whatever the name of the host leads to; and
    /// through no proxy, which would look up names itself.
    #[serde(default)]
    pub deny_private: bool,
}

/// What an answer of success may say of single rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartialFailures {
    /// Rows that the answer names as not taken are dead letters, or are sent again.
    #[default]
    Read,
    /// A status of success means all rows, whatever the answer says.
    Ignore,
}

/// A request method.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// `POST`
    #[default]
    Post,
    /// `PUT`
    Put,
    /// `PATCH`
    Patch,
}

impl From<HttpMethod> for Method {
    fn from(method: HttpMethod) -> Self {
        match method {
            HttpMethod::Post => Self::POST,
            HttpMethod::Put => Self::PUT,
            HttpMethod::Patch => Self::PATCH,
        }
    }
}

/// How the rows of a request make its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpFraming {
    /// One JSON array of them, `application/json`.
    Array,
    /// A line each; of JSON, that is `application/x-ndjson`. CSV begins with its header.
    Lines,
    /// Each row is a request of its own.
    Single,
}

/// How rows are put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct HttpBatchConfig {
    /// The most rows in a request.
    #[serde(default = "default_batch_max")]
    pub max: u32,
}

impl Default for HttpBatchConfig {
    fn default() -> Self {
        Self { max: default_batch_max() }
    }
}

fn default_batch_max() -> u32 {
    100
}

fn default_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

fn default_retry_after_max() -> HumanDuration {
    HumanDuration(Duration::from_secs(60))
}

impl HttpSinkConfig {
    /// Posts to `url`, with every other setting at its default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            method: HttpMethod::default(),
            headers: BTreeMap::new(),
            bearer_token: None,
            encode: EncodeConfig::default(),
            framing: None,
            batch: HttpBatchConfig::default(),
            timeout: default_timeout(),
            retry_after_max: default_retry_after_max(),
            image: Image::default(),
            partial_failures: PartialFailures::default(),
            deny_private: false,
        }
    }

    /// The settings as the sink relies on them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn checked(&self, schema: &SchemaRef) -> Result<HttpSinkSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        let url = self.check_url(schema, &mut problems);
        let headers = problems.check_headers(&self.headers, self.bearer_token.as_ref());
        problems.check_range("batch.max", self.batch.max, 1, 1_000);
        problems.check_not_zero("timeout", self.timeout);
        let framing = self.check_framing(&mut problems);
        problems.check_encode(&self.encode, "http");
        let place = if framing == HttpFraming::Lines { Place::Line } else { Place::Text };
        let body = problems.check_body(&self.encode, self.image, schema, place);
        problems.check_image(self.image, schema);
        problems.finish(|| Some(HttpSinkSpec { config: self.clone(), url: url?, headers, framing, body: body? }))
    }

    fn check_url(&self, schema: &SchemaRef, problems: &mut Problems) -> Option<Template> {
        let template = problems.check_template("url", self.url.expose(), schema, Place::Url)?;
        if unencoded_user_info(&template.sample()) {
            problems.add("url", ENCODE_PASSWORD);
        } else if !template.has_fixed_host() {
            problems.add("url", "has a column before the end of its host: a record must not choose where it is sent");
        } else {
            match url::Url::parse(&template.sample()) {
                // The text itself may hold a token, so it is not repeated.
                Err(e) => problems.add("url", format!("is no URL ({e}): write http:// or https:// and a host")),
                Ok(url) if !["http", "https"].contains(&url.scheme()) => {
                    problems.add("url", format!("begins with {}://: use http:// or https://", url.scheme()));
                }
                Ok(url) => problems.check_private("url", url.as_str(), self.deny_private),
            }
        }
        Some(template)
    }

    fn check_framing(&self, problems: &mut Problems) -> HttpFraming {
        let framing = self.framing.unwrap_or(match &self.encode {
            EncodeConfig::Json { .. } | EncodeConfig::Parquet => HttpFraming::Array,
            EncodeConfig::Csv(_) | EncodeConfig::Text { .. } => HttpFraming::Lines,
            EncodeConfig::Raw { .. } => HttpFraming::Single,
        });
        match (framing, &self.encode) {
            (HttpFraming::Array, EncodeConfig::Csv(_) | EncodeConfig::Text { .. } | EncodeConfig::Raw { .. }) => {
                problems.add("framing", "`array` is of JSON: write `encode: json`, or leave it out");
            }
            (HttpFraming::Lines, EncodeConfig::Raw { .. }) => {
                problems.add("framing", "`lines` can't tell raw bytes apart: write `single`, or leave it out");
            }
            _ => {}
        }
        framing
    }
}

/// A sink to a web service whose settings were checked.
#[derive(Debug, Clone)]
pub struct HttpSinkSpec {
    /// What was typed.
    pub(super) config: HttpSinkConfig,
    pub(super) url: Template,
    /// Of each request; their values are marked as sensitive.
    pub(super) headers: HeaderMap,
    pub(super) framing: HttpFraming,
    /// What a row is.
    pub(super) body: Body,
}

impl HttpSinkSpec {
    /// The most rows in a request.
    pub(super) fn rows_max(&self) -> usize {
        if self.framing == HttpFraming::Single { 1 } else { self.config.batch.max as usize }
    }
}
