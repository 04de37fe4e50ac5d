//! The settings of endpoints, as written in the pipeline file, and what they come to. Touches no network and no
//! credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::units::{redact_url, unencoded_user_info, url_without_credentials};
use millstream_core::{Error, HumanDuration, Result, Secret};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use url::Url;

use super::breaker::BreakerConfig;
use super::fallback::FallbackConfig;
use super::protocol::{Answer, Chat, Codec, Protocol, Template, TensorConfig, request_url};
use super::rate::Rate;
use super::{Endpoint, Place, aws};
use crate::config::{check_labels_differ, short_digest};
use crate::{ModelInfo, Reads, Task};

/// The most requests that may be under way at an endpoint.
const CONCURRENCY_MAX: usize = 1024;

/// The settings of a model behind an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "snake_case")]
pub struct EndpointConfig {
    /// Endpoints only: the shape of requests and answers. Default: `json`; of `sagemaker://`: `sagemaker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// `protocol: kserve` and `openai`: the model's name at the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Endpoints only: headers sent with every request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// Endpoints only: the most requests under way at once. Default: 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
    /// Endpoints only: how long one request may take. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// Endpoints only: the most requests in a second, a minute or an hour: `50/s`, `600/m`, `10000/h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Endpoints only: when an endpoint that fails is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<BreakerConfig>,
    /// Endpoints only: what answers where the endpoint can't: the name of another model, or a value such as
    /// `{ label: neutral }`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackConfig>,
    /// `sagemaker://` and `lambda://`: the AWS region. Default: that of the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// `sagemaker://` and `lambda://`: another address of the API, such as a VPC endpoint.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_url")]
    pub endpoint_url: Option<String>,
    /// `protocol: kserve`: names and shape of the tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<TensorConfig>,
    /// `protocol: openai` with `text-classification`: what the model is told before the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Endpoints only: further fields for the body of each request; `null` takes a field away. Not for `template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra_body: Option<HiddenJson>,
    /// `protocol: template`: the request, with `"{{inputs}}"` for the list of texts, or `{{input}}` for one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<HiddenJson>,
    /// `protocol: template`: a JSON pointer to the items in the answer: `/predictions`, `/results/*/output`. Default:
    /// the answer itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A JSON object that may hold a secret, and is not printed.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct HiddenJson(pub Map<String, Value>);

impl fmt::Debug for HiddenJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for HiddenJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

fn serialize_url<S: Serializer>(url: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    url.as_deref().map(redact_url).serialize(serializer)
}

/// True where `source` names an endpoint.
pub(crate) fn is_endpoint(source: &str) -> bool {
    ["http://", "https://", "sagemaker://", "lambda://"].iter().any(|scheme| source.starts_with(scheme))
}

impl EndpointConfig {
    /// The first setting that is written, for a model that takes none of them.
    pub fn first_set(&self) -> Option<&'static str> {
        let set = [
            ("protocol", self.protocol.is_some()),
            ("model_name", self.model_name.is_some()),
            ("headers", !self.headers.is_empty()),
            ("concurrency", self.concurrency.is_some()),
            ("timeout", self.timeout.is_some()),
            ("rate", self.rate.is_some()),
            ("circuit_breaker", self.circuit_breaker.is_some()),
            ("fallback", self.fallback.is_some()),
            ("region", self.region.is_some()),
            ("endpoint_url", self.endpoint_url.is_some()),
            ("tensors", self.tensors.is_some()),
            ("instructions", self.instructions.is_some()),
            ("extra_body", self.extra_body.is_some()),
            ("request", self.request.is_some()),
            ("answer", self.answer.is_some()),
        ];
        set.iter().find(|(_, is_set)| *is_set).map(|(key, _)| *key)
    }

    /// What `source` and these settings come to, and what the model behind them is.
    ///
    /// # Errors
    /// `Config`: what is wrong, and what to write instead.
    pub(crate) fn resolve(&self, source: &str, task: Task, labels: &[String]) -> Result<(Endpoint, ModelInfo)> {
        let target = aws::Target::parse(source)?;
        let protocol = self.protocol.unwrap_or(match &target {
            Some(aws::Target { service: aws::Service::Sagemaker, .. }) => Protocol::Sagemaker,
            _ => Protocol::Json,
        });
        self.check_keys(protocol, target.is_some(), task)?;
        let place = match target {
            Some(target) => Place::Aws(self.aws_target(target, source)?),
            None => {
                if unencoded_user_info(source) {
                    return Err(Error::config(
                        "the endpoint's address has a character in its user or password that must be encoded: encode the password (`@` as %40, `/` as %2F)",
                    ));
                }
                let url = Url::parse(source)
                    .map_err(|e| Error::config(format!("`{}` is no URL: {e}", redact_url(source))))?;
                Place::Http(request_url(&url, protocol, self.model_name.as_deref(), task)?)
            }
        };
        let endpoint = Endpoint {
            place,
            codec: self.codec(protocol, task)?,
            extra_body: self.extra_body.clone().map(|extra| extra.0).unwrap_or_default(),
            headers: headers(&self.headers)?,
            concurrency: self.checked_concurrency()?,
            timeout: self.checked_timeout()?,
            breaker: self.checked_breaker()?,
            rate: self.rate,
        };
        check_labels(task, labels)?;
        let info = self.info(&endpoint.place, protocol, task, labels);
        if let Some(FallbackConfig::Value(value)) = &self.fallback {
            super::fallback::fixed(&info, value)?;
        }
        Ok((endpoint, info))
    }

    /// Every setting belongs to a protocol or a kind of source.
    fn check_keys(&self, protocol: Protocol, is_aws: bool, task: Task) -> Result<()> {
        use Protocol::{Kserve, Openai, Tei, Template as Own};
        if is_aws && matches!(protocol, Openai | Tei) {
            let name = protocol.as_str();
            return Err(Error::setting(
                "protocol",
                format!(
                    "`protocol: {name}` is for http:// and https://: write json, sagemaker, kserve or template, the body that the container or function takes"
                ),
            ));
        }
        let only = |key: &str, is_set: bool, fits: bool, whose: &str| match is_set && !fits {
            true => Err(Error::setting(key, format!("`{key}` is for {whose}"))),
            false => Ok(()),
        };
        let is_chat = protocol == Openai && task == Task::TextClassification;
        let names = "`protocol: kserve` and `protocol: openai`";
        only("model_name", self.model_name.is_some(), matches!(protocol, Kserve | Openai) && !is_aws, names)?;
        only("region", self.region.is_some(), is_aws, "`sagemaker://` and `lambda://`")?;
        only(
            "endpoint_url",
            self.endpoint_url.is_some(),
            is_aws,
            "`sagemaker://` and `lambda://`: write the address as `source`",
        )?;
        only("tensors", self.tensors.is_some(), protocol == Kserve, "`protocol: kserve`")?;
        let chat = "`protocol: openai` with `task: text-classification`";
        only("instructions", self.instructions.is_some(), is_chat, chat)?;
        only("request", self.request.is_some(), protocol == Own, "`protocol: template`")?;
        only("answer", self.answer.is_some(), protocol == Own, "`protocol: template`")?;
        let own = "the other protocols: write its fields into `request`";
        only("extra_body", self.extra_body.is_some(), protocol != Own, own)
    }

    fn codec(&self, protocol: Protocol, task: Task) -> Result<Codec> {
        Ok(match protocol {
            Protocol::Json => Codec::Json,
            Protocol::Sagemaker => Codec::Sagemaker,
            Protocol::Tei => Codec::Tei,
            Protocol::Kserve => {
                let tensors = self.tensors.clone().unwrap_or_default();
                if !(1..=2).contains(&tensors.rank) {
                    return Err(Error::setting(
                        "tensors.rank",
                        format!("`tensors.rank` is {}: write 1 or 2", tensors.rank),
                    ));
                }
                Codec::Kserve(tensors)
            }
            Protocol::Openai => {
                let model = self.model_name.clone().ok_or_else(|| {
                    Error::setting(
                        "model_name",
                        "`model_name` is missing: `protocol: openai` needs the model's name at the server",
                    )
                })?;
                match task {
                    Task::Embedding => Codec::OpenaiEmbeddings(model),
                    Task::TextClassification | Task::TabularClassification | Task::TabularRegression => {
                        Codec::OpenaiChat(Chat { model, instructions: self.instructions.clone() })
                    }
                }
            }
            Protocol::Template => {
                let request = self.request.clone().ok_or_else(|| {
                    Error::setting("request", 
                        "`request` is missing: `protocol: template` needs one, such as `request: { texts: \"{{inputs}}\" }`",
                    )
                })?;
                let answer = Answer::parse(self.answer.as_deref().unwrap_or_default())?;
                Codec::Template(Template::new(Value::Object(request.0), answer)?)
            }
        })
    }

    fn aws_target(&self, mut target: aws::Target, source: &str) -> Result<aws::Target> {
        if !cfg!(feature = "aws") {
            return Err(Error::config(format!(
                "`{source}` needs the cargo feature `aws`, which this build of Millstream lacks"
            )));
        }
        if let Some(region) = &self.region {
            if target.region.as_ref().is_some_and(|of_arn| of_arn != region) {
                return Err(Error::setting(
                    "region",
                    format!("`region` is {region}, but the function is elsewhere: leave it out"),
                ));
            }
            if region.is_empty() || !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
                return Err(Error::setting("region", format!("`region` is `{region}`: write one such as eu-west-1")));
            }
            target.region = Some(region.clone());
        }
        if let Some(url) = &self.endpoint_url {
            let wrong =
                |why: &str| Error::setting("endpoint_url", format!("`endpoint_url` is `{}`: {why}", redact_url(url)));
            let parsed = Url::parse(url).map_err(|e| wrong(&e.to_string()))?;
            let is_plain = parsed.query().is_none() && parsed.username().is_empty() && parsed.password().is_none();
            if !matches!(parsed.scheme(), "http" | "https") || !is_plain {
                return Err(wrong("write http:// or https:// and a host"));
            }
            target.endpoint_url = Some(parsed);
        }
        Ok(target)
    }

    fn checked_concurrency(&self) -> Result<usize> {
        let concurrency = self.concurrency.unwrap_or(8);
        if !(1..=CONCURRENCY_MAX).contains(&concurrency) {
            return Err(Error::setting(
                "concurrency",
                format!("`concurrency` is {concurrency}: write 1 to {CONCURRENCY_MAX}"),
            ));
        }
        Ok(concurrency)
    }

    fn checked_timeout(&self) -> Result<Duration> {
        let timeout = self.timeout.map_or(Duration::from_secs(10), |t| t.0);
        if timeout.is_zero() {
            return Err(Error::setting("timeout", "`timeout` is zero: write how long a request may take, such as 10s"));
        }
        Ok(timeout)
    }

    fn checked_breaker(&self) -> Result<BreakerConfig> {
        let breaker = self.circuit_breaker.unwrap_or_default();
        if breaker.open_for.0.is_zero() {
            return Err(Error::setting(
                "circuit_breaker.open_for",
                "`circuit_breaker.open_for` is zero: write how long to leave the endpoint alone, or `failures: 0` to never do so",
            ));
        }
        Ok(breaker)
    }

    fn info(&self, place: &Place, protocol: Protocol, task: Task, labels: &[String]) -> ModelInfo {
        let labels: Vec<Arc<str>> = labels.iter().map(|l| l.as_str().into()).collect();
        let (address, host) = match place {
            Place::Http(url) => (url_without_credentials(url.as_str()), url.host_str().unwrap_or_default()),
            Place::Aws(target) => (target.to_string(), target.name.as_str()),
        };
        let mut parts = vec![address, protocol.as_str().into(), task.as_str().into(), labels.join("\n")];
        // Whatever else decides what the model is asked, and how its answer is read.
        parts.extend(self.model_name.clone());
        parts.extend(self.region.clone());
        parts.extend(self.instructions.clone());
        parts.extend(self.answer.clone());
        parts.extend(self.tensors.as_ref().map(|tensors| format!("{tensors:?}")));
        for json in [&self.extra_body, &self.request].into_iter().flatten() {
            parts.push(Value::Object(json.0.clone()).to_string());
        }
        ModelInfo {
            name: self.model_name.as_deref().unwrap_or(host).into(),
            digest: short_digest(parts.join("\0").as_bytes()),
            task,
            labels,
            multi_label: false,
            dimensions: None,
            reads: Reads::Text,
        }
    }
}

/// The headers of the pipeline file.
fn headers(written: &BTreeMap<String, Secret>) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in written {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::setting("headers", format!("`{name}` is no name for an HTTP header")))?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| {
            Error::setting(
                "headers",
                format!("the value of header `{name}` holds a character that HTTP does not allow"),
            )
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn check_labels(task: Task, labels: &[String]) -> Result<()> {
    let example = "write all of them, such as `labels: [negative, neutral, positive]`";
    match (task, labels.len()) {
        (Task::Embedding, 0) => return Ok(()),
        (Task::Embedding, _) => return Err(Error::setting("labels", "an embedding has no labels: leave out `labels`")),
        (Task::TextClassification, 0) => {
            return Err(Error::setting(
                "labels",
                format!("`labels` is missing: an endpoint can't be asked for them; {example}"),
            ));
        }
        (Task::TextClassification, 1) => {
            return Err(Error::setting("labels", format!("one label is nothing to choose from: {example}")));
        }
        _ => {}
    }
    check_labels_differ(labels)
}
