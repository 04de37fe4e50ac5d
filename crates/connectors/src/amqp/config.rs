//! What can be written under a sink of `type: amqp`.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use millstream_core::units::unencoded_user_info;
use millstream_core::{HumanDuration, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{ENCODE_PASSWORD, Problem, Problems};
use crate::format::EncodeConfig;
use crate::payload::{Body, Image};
use crate::template::{Place, SHORT_STRING_MAX, Template};

/// Publishes each row as one message to an exchange of RabbitMQ.
///
/// A row is delivered when the broker has confirmed it. A message carries `message_id` (folder/stream/partition/offset,
/// where folder is the identity of the data folder; the same whenever it is published again), `timestamp`,
/// `app_id: millstream`, `content_type` (`application/json`, or that of `encode`) and the headers `x-folder`,
/// `x-stream`, `x-partition` and `x-offset`. Delivery is at least once: consumers drop repeats by `message_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AmqpSinkConfig {
    /// `amqp://user:password@host:5672/vhost`, or `amqps://…` for TLS. The default vhost `/` is written `%2f`.
    pub url: Secret,
    /// The exchange; empty for the default exchange, whose routing keys are names of queues.
    pub exchange: String,
    /// The type of the exchange.
    #[serde(default)]
    pub exchange_type: ExchangeType,
    /// The routing key, as text with columns in braces: `"{sentiment.label}"`. A value that stands beside other text is
    /// one word of the key: a row whose value has a `.` or is empty there goes to the dead letter queue (`rejected`).
    #[serde(default)]
    pub routing_key: String,
    /// Declare the exchange (durable), and `queues`, when connecting. Set it to `false` where the broker is set up by
    /// others.
    #[serde(default = "yes")]
    pub declare: bool,
    /// Durable queues to declare and to bind to the exchange.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queues: Vec<AmqpQueue>,
    /// Refuse what no queue is bound for: such a row goes to the dead letter queue. With `false` the broker drops it.
    #[serde(default = "yes")]
    pub mandatory: bool,
    /// Messages survive a restart of the broker (in durable queues).
    #[serde(default = "yes")]
    pub persistent: bool,
    /// More message headers; the values are templates as in `routing_key`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How many messages may wait for the broker's confirmation at a time.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// How long to wait for the broker to confirm a message before connecting again.
    #[serde(default = "default_confirm_timeout")]
    pub confirm_timeout: HumanDuration,
    /// How long connecting may take.
    #[serde(default = "default_connect_timeout")]
    pub connect_timeout: HumanDuration,
    /// What the body of a message is: `json` (an object), `csv` (a line, with `header: false`), `text` (made from a
    /// template) or `raw` (the bytes of one column). Default: `json`.
    #[serde(default)]
    pub encode: EncodeConfig,
    /// What to publish of a change stream.
    #[serde(default)]
    pub image: Image,
}

/// The types of exchange that every broker has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeType {
    /// By pattern of the routing key.
    #[default]
    Topic,
    /// By equal routing key.
    Direct,
    /// To every queue.
    Fanout,
    /// By headers.
    Headers,
}

/// A queue to declare and bind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AmqpQueue {
    /// The queue's name.
    pub name: String,
    /// What to bind it for; `#` (everything) by default.
    #[serde(default = "everything")]
    pub routing_keys: Vec<String>,
}

fn yes() -> bool {
    true
}

fn everything() -> Vec<String> {
    vec!["#".into()]
}

fn default_max_in_flight() -> u32 {
    256
}

fn default_confirm_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn default_connect_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

impl AmqpSinkConfig {
    /// Publishes to `exchange` at `url`, with every other setting at its default.
    pub fn new(url: impl Into<String>, exchange: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            exchange: exchange.into(),
            exchange_type: ExchangeType::default(),
            routing_key: String::new(),
            declare: true,
            queues: Vec::new(),
            mandatory: true,
            persistent: true,
            headers: BTreeMap::new(),
            max_in_flight: default_max_in_flight(),
            confirm_timeout: default_confirm_timeout(),
            connect_timeout: default_connect_timeout(),
            encode: EncodeConfig::default(),
            image: Image::default(),
        }
    }

    /// The settings as the sink relies on them.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(super) fn checked(&self, schema: &SchemaRef) -> Result<AmqpSinkSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        // The parser's own message may repeat the URL, password and all.
        if unencoded_user_info(self.url.expose()) {
            problems.add("url", ENCODE_PASSWORD);
        } else if self.url.expose().parse::<AMQPUri>().is_err() {
            problems.add("url", "is no AMQP URL: write amqp://user:password@host:5672/vhost (the vhost `/` as %2f)");
        }
        if self.exchange.len() > SHORT_STRING_MAX {
            problems.add("exchange", format!("is longer than {SHORT_STRING_MAX} bytes"));
        }
        let routing_key = problems.check_template("routing_key", &self.routing_key, schema, Place::RoutingKey);
        let mut headers = Vec::new();
        for (name, text) in &self.headers {
            let template = problems.check_template(format!("headers.{name}"), text, schema, Place::MessageHeader);
            headers.extend(ShortString::try_new(name.as_str()).ok().zip(template));
            if name.is_empty() || name.len() > SHORT_STRING_MAX {
                problems.add(
                    format!("headers.{name}"),
                    format!("has a name that is not 1 to {SHORT_STRING_MAX} bytes long"),
                );
            } else if ["x-folder", "x-stream", "x-partition", "x-offset"].contains(&name.as_str()) {
                problems.add(format!("headers.{name}"), "is set by Millstream: take another name");
            }
        }
        for (i, queue) in self.queues.iter().enumerate() {
            if queue.name.is_empty() || queue.name.len() > SHORT_STRING_MAX {
                problems.add(format!("queues[{i}].name"), format!("is not 1 to {SHORT_STRING_MAX} bytes long"));
            }
            if queue.routing_keys.is_empty() && !self.exchange.is_empty() {
                problems.add(format!("queues[{i}].routing_keys"), "is empty: the queue would get nothing");
            }
            if queue.routing_keys.iter().any(|key| key.len() > SHORT_STRING_MAX) {
                problems.add(
                    format!("queues[{i}].routing_keys"),
                    format!("has a key longer than {SHORT_STRING_MAX} bytes"),
                );
            }
        }
        if !self.declare && !self.queues.is_empty() {
            problems.add("queues", "are only declared with `declare: true`");
        }
        problems.check_range("max_in_flight", self.max_in_flight, 1, 65_535);
        problems.check_not_zero("confirm_timeout", self.confirm_timeout);
        problems.check_not_zero("connect_timeout", self.connect_timeout);
        problems.check_encode(&self.encode, "amqp");
        if matches!(&self.encode, EncodeConfig::Csv(csv) if csv.header) {
            problems.add(
                "encode",
                "makes a message of each row, and none of them is a header: write `{ format: csv, header: false }`",
            );
        }
        let body = problems.check_body(&self.encode, self.image, schema, Place::Text);
        problems.check_image(self.image, schema);
        problems.finish(|| Some(AmqpSinkSpec { config: self.clone(), routing_key: routing_key?, headers, body: body? }))
    }
}

/// A sink to RabbitMQ whose settings were checked.
#[derive(Debug, Clone)]
pub struct AmqpSinkSpec {
    /// What was typed.
    pub(super) config: AmqpSinkConfig,
    pub(super) routing_key: Template,
    /// Beside those that say where a message comes from.
    pub(super) headers: Vec<(ShortString, Template)>,
    /// The body of each message.
    pub(super) body: Body,
}
