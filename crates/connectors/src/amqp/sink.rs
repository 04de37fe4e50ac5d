//! Publishes rows and waits for the broker's confirmations.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use async_trait::async_trait;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation, PublisherConfirm};
use millstream_core::{Clock, Encoded, Error, Failure, FailureKind, Result, RowFailure, Sink, SinkBatch};

use super::config::AmqpSinkSpec;
use super::connection::{Link, explain, message_size_limit};
use crate::context::SinkContext;
use crate::payload::{Progress, is_change_stream};
use crate::template::BoundTemplate;

/// The most that the headers of a message may hold. They go into one frame, which brokers limit to 128 KiB, and end the
/// connection over one that is larger.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Publishes each row to an exchange; see [`super::AmqpSinkConfig`].
///
/// Up to `max_in_flight` messages are published, then all of them must be confirmed before the next. Whatever goes
/// wrong with the connection, it is dropped, and the next attempt opens another.
pub struct AmqpSink {
    spec: AmqpSinkSpec,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    link: Option<Link>,
    progress: Progress,
    /// The broker's limit, once it has named it by refusing a message.
    message_bytes_max: usize,
}

impl std::fmt::Debug for AmqpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpSink")
            .field("name", &self.name)
            .field("exchange", &self.spec.config.exchange)
            .finish_non_exhaustive()
    }
}

/// A row ready to be published.
struct Message {
    /// Its row in the batch.
    row: u32,
    /// Where its body is in the bytes of the batch.
    body: Range<usize>,
    routing_key: ShortString,
    properties: BasicProperties,
}

impl AmqpSink {
    /// A sink with settings that were checked; connects with the first batch.
    pub fn new(spec: &AmqpSinkSpec, context: SinkContext) -> Self {
        Self {
            spec: spec.clone(),
            name: context.name,
            clock: context.clock,
            link: None,
            progress: Progress::default(),
            message_bytes_max: usize::MAX,
        }
    }

    /// The messages of the records `chosen`. Those that can't be messages become failures.
    fn messages(
        &self,
        batch: &SinkBatch,
        records: &Encoded,
        chosen: Range<usize>,
        failures: &mut Vec<RowFailure>,
    ) -> Result<Vec<Message>> {
        let routing_key = self.spec.routing_key.bind(&batch.batch)?;
        let headers = self.spec.headers.iter().map(|(name, text)| Ok((name, text.bind(&batch.batch)?)));
        let headers = headers.collect::<Result<Vec<_>>>()?;
        let moments = Moments::of(&batch.batch, self.clock.now_us());
        let mut messages = Vec::with_capacity(chosen.len());
        for i in chosen {
            let (row, body) = (records.rows[i], records.spans[i].clone());
            if body.len() > self.message_bytes_max {
                let message =
                    format!("the record has more bytes than the {} that RabbitMQ takes", self.message_bytes_max);
                failures.push(RowFailure { row, failure: Failure::new(FailureKind::TooLarge, message) });
                continue;
            }
            let (key, table) = match envelope(batch, row as usize, &routing_key, &headers) {
                Ok(envelope) => envelope,
                Err(failure) => {
                    failures.push(RowFailure { row, failure });
                    continue;
                }
            };
            let properties = self.properties(batch.id(row as usize), moments.seconds(row as usize), table)?;
            messages.push(Message { row, body, routing_key: key, properties });
        }
        Ok(messages)
    }

    fn properties(&self, id: String, seconds: u64, headers: FieldTable) -> Result<BasicProperties> {
        let id =
            ShortString::try_new(id).map_err(|_| Error::config("the stream's name is too long for a message id"))?;
        // 1 is transient, 2 persistent.
        let delivery_mode = if self.spec.config.persistent { 2 } else { 1 };
        Ok(BasicProperties::default()
            .with_content_type(self.spec.body.media_type().into())
            .with_app_id("millstream".into())
            .with_message_id(id)
            .with_timestamp(seconds)
            .with_delivery_mode(delivery_mode)
            .with_headers(headers))
    }

    /// Publishes messages and waits until all are confirmed; gives those that the broker sent back.
    async fn publish(&mut self, messages: &[Message], text: &[u8]) -> Result<Vec<RowFailure>> {
        if !self.link.as_ref().is_some_and(Link::is_open) {
            self.link = None;
            self.link = Some(Link::open(&self.spec.config, &self.name).await?);
            tracing::info!(sink = %self.name, exchange = %self.spec.config.exchange, "connected to RabbitMQ");
        }
        // Taken, so that whatever happens in between (an error, or this future being dropped) the channel is not used
        // again: confirmations that nobody waits for would be mixed up with those of the next messages.
        let Some(link) = self.link.take() else { return Err(Error::bug("no link")) };
        let timeout = self.spec.config.confirm_timeout;
        let published = tokio::time::timeout(timeout.0, self.publish_on(&link, messages, text)).await;
        match published {
            Ok(Ok(returned)) => {
                self.link = Some(link);
                returned_rows(messages, returned)
            }
            Ok(Err(Trouble::Nack)) => Err(Error::retry(
                "RabbitMQ did not store a message: a queue is full or its node is down; see `rabbitmqctl list_queues`",
            )),
            Ok(Err(Trouble::Lapin(e))) => {
                if let Some(limit) = message_size_limit(&e) {
                    self.message_bytes_max = limit;
                    return Err(Error::retry(format!(
                        "RabbitMQ takes no message above {limit} bytes; the row is put aside"
                    )));
                }
                Err(explain(&e, &self.spec.config))
            }
            Err(_) => Err(Error::retry(format!(
                "RabbitMQ did not confirm within {timeout} (`confirm_timeout`): it may be blocking publishers because \
                 memory or disk is short; see `rabbitmqctl status`"
            ))),
        }
    }

    async fn publish_on(
        &self,
        link: &Link,
        messages: &[Message],
        text: &[u8],
    ) -> Result<Vec<BasicReturnMessage>, Trouble> {
        let options = BasicPublishOptions { mandatory: self.spec.config.mandatory, immediate: false };
        let mut confirms = Vec::with_capacity(messages.len());
        let mut trouble = None;
        for message in messages {
            let (exchange, key) = (self.spec.config.exchange.as_str().into(), message.routing_key.clone());
            let body = &text[message.body.clone()];
            match link.channel.basic_publish(exchange, key, options, body, message.properties.clone()).await {
                Ok(confirm) => confirms.push(confirm),
                Err(e) => {
                    trouble = Some(e);
                    break;
                }
            }
        }
        match trouble {
            None => wait(confirms).await,
            // That the channel is closed is all that this error says; why, the messages before it were told.
            Some(e) => match wait(confirms).await {
                Err(Trouble::Lapin(reason)) => Err(Trouble::Lapin(reason)),
                _ => Err(Trouble::Lapin(e)),
            },
        }
    }
}

enum Trouble {
    Nack,
    Lapin(lapin::Error),
}

/// Waits for all confirmations, in order; gives the messages that were sent back.
async fn wait(confirms: Vec<PublisherConfirm>) -> Result<Vec<BasicReturnMessage>, Trouble> {
    let mut returned = Vec::new();
    let mut nack = false;
    for confirm in confirms {
        let confirmation = confirm.await.map_err(Trouble::Lapin)?;
        nack |= !matches!(confirmation, Confirmation::Ack(_));
        returned.extend(confirmation.take_message());
    }
    if nack { Err(Trouble::Nack) } else { Ok(returned) }
}

/// Which rows were sent back, and why. A returned message may come with the confirmation of another one, so it is
/// known by its `message_id` alone.
fn returned_rows(messages: &[Message], returned: Vec<BasicReturnMessage>) -> Result<Vec<RowFailure>> {
    if returned.is_empty() {
        return Ok(Vec::new());
    }
    let rows: HashMap<_, _> = messages.iter().map(|m| (m.properties.message_id().clone(), m)).collect();
    returned
        .into_iter()
        .map(|back| {
            let message = rows
                .get(back.delivery.properties.message_id())
                .ok_or_else(|| Error::retry("RabbitMQ sent back a message that was not published here"))?;
            let text = format!(
                "RabbitMQ sent it back: {} {} (exchange `{}`, routing key `{}`): bind a queue, or set `mandatory: false`",
                back.reply_code, back.reply_text, back.delivery.exchange, back.delivery.routing_key
            );
            Ok(RowFailure { row: message.row, failure: Failure::new(FailureKind::Rejected, text) })
        })
        .collect()
}

/// Routing key and headers of a row.
fn envelope(
    batch: &SinkBatch,
    row: usize,
    routing_key: &BoundTemplate<'_>,
    headers: &[(&ShortString, BoundTemplate<'_>)],
) -> std::result::Result<(ShortString, FieldTable), Failure> {
    let rejected = |what: &str, why: String| Failure::new(FailureKind::Rejected, format!("{what} {why}"));
    let key = routing_key.render(row);
    let key = key.and_then(|key| ShortString::try_new(key).map_err(|_| "is no short string".into()));
    let key = key.map_err(|why| rejected("the routing key", why))?;
    let mut table = provenance(batch, row);
    let mut bytes = 0;
    for (name, template) in headers {
        let value = template.render(row).map_err(|why| rejected(&format!("the header `{name}`"), why))?;
        bytes += name.as_str().len() + value.len();
        table.insert((*name).clone(), AMQPValue::LongString(value.into()));
    }
    if bytes > HEADER_BYTES_MAX {
        let message = format!("the headers are larger than {HEADER_BYTES_MAX} bytes: put long values into the body");
        return Err(Failure::new(FailureKind::TooLarge, message));
    }
    Ok((key, table))
}

/// Where a message comes from, as headers.
fn provenance(batch: &SinkBatch, row: usize) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-folder".into(), AMQPValue::LongString(batch.folder.as_bytes().into()));
    table.insert("x-stream".into(), AMQPValue::LongString(batch.stream.as_bytes().into()));
    table.insert("x-partition".into(), AMQPValue::LongLongInt(i64::from(batch.partition)));
    table.insert("x-offset".into(), AMQPValue::LongLongInt(batch.offsets[row] as i64));
    table
}

/// When rows were made: the time of the change, so that a repeat carries the same; of other streams, now.
struct Moments<'a> {
    changes: Option<&'a arrow::array::TimestampMicrosecondArray>,
    now_us: i64,
}

impl<'a> Moments<'a> {
    fn of(batch: &'a RecordBatch, now_us: i64) -> Self {
        let changes = if is_change_stream(batch.schema_ref()) {
            batch.column(1).as_primitive_opt::<TimestampMicrosecondType>()
        } else {
            None
        };
        Self { changes, now_us }
    }

    /// In seconds, as AMQP has it.
    fn seconds(&self, row: usize) -> u64 {
        let us = self.changes.filter(|c| c.is_valid(row)).map_or(self.now_us, |c| c.value(row));
        u64::try_from(us / 1_000_000).unwrap_or_default()
    }
}

#[async_trait]
impl Sink for AmqpSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        self.progress.resume(batch);
        let mut records = self.spec.body.encode(&batch.batch)?;
        while self.progress.done < records.len() {
            let start = self.progress.done;
            let end = records.len().min(start + self.spec.config.max_in_flight as usize);
            let mut failures = Vec::new();
            let messages = self.messages(batch, &records, start..end, &mut failures)?;
            failures.extend(self.publish(&messages, &records.data).await?);
            self.progress.failures.extend(failures);
            self.progress.done = end;
        }
        Ok(self.progress.finish(std::mem::take(&mut records.failures)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::amqp::AmqpSinkConfig;
    use crate::payload::tests::{context, row_schema, rows};

    /// Without a broker: what would be published.
    #[test]
    fn a_message_is_what_the_format_makes_of_its_row_and_says_so() {
        let of = |encode: serde_json::Value| {
            let settings = json!({"url": "amqp://h", "exchange": "e", "routing_key": "{id}", "encode": encode});
            let config: AmqpSinkConfig = serde_json::from_value(settings).unwrap();
            let sink = AmqpSink::new(&config.checked(&row_schema()).unwrap(), context());
            let values = [json!({"id": 1, "headline": "a"}), json!({"id": 2}), json!({"id": 3, "headline": "b\nc"})];
            let batch = rows(7, &values);
            let records = sink.spec.body.encode(&batch.batch).unwrap();
            let mut failures = records.failures.clone();
            let messages = sink.messages(&batch, &records, 0..records.len(), &mut failures).unwrap();
            let sent: Vec<_> = messages
                .iter()
                .map(|m| {
                    let body = String::from_utf8(records.data[m.body.clone()].to_vec()).unwrap();
                    let id = m.properties.message_id().as_ref().unwrap().to_string();
                    assert_eq!(m.routing_key.to_string(), (m.row + 1).to_string());
                    (id, body)
                })
                .collect();
            let kind = messages[0].properties.content_type().as_ref().unwrap().to_string();
            (kind, sent, failures.into_iter().map(|f| f.row).collect::<Vec<_>>())
        };
        let sent = |all: &[(u64, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(offset, body)| (format!("f0/wire/0/{offset}"), (*body).to_owned())).collect()
        };
        let raw = of(json!({"format": "raw", "column": "headline"}));
        assert_eq!(raw, ("application/octet-stream".into(), sent(&[(7, "a"), (9, "b\nc")]), vec![1]));
        let text = of(json!({"format": "text", "template": "{id}: {headline}"}));
        let lines = sent(&[(7, "1: a"), (8, "2: null"), (9, "3: b\nc")]);
        assert_eq!(text, ("text/plain; charset=utf-8".into(), lines, vec![]));
        let csv = of(json!({"format": "csv", "header": false}));
        let cells = sent(&[(7, "1,a,,"), (8, "2,,,"), (9, "3,\"b\nc\",,")]);
        assert_eq!(csv, ("text/csv".into(), cells, vec![]));
        assert_eq!(of(json!("json")).0, "application/json");
    }
}
