//! The AMQP sink against a real RabbitMQ. `scripts/rabbitmq` starts one; `MILLSTREAM_TEST_AMQP_URL` names another.

// A test that can't go on says where: that is what `unwrap` does.
#![allow(clippy::unwrap_used)] // A test that can't go on says where.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use millstream_connectors::{SinkConfig, SinkContext};
use millstream_core::{AnySink, ErrorKind, FailureKind, ManualClock, Result, RowFailure, Sink, SinkBatch};
use serde_json::{Value, json};

const NEEDS: &str = "needs RabbitMQ: run scripts/test";

fn url() -> String {
    std::env::var("MILLSTREAM_TEST_AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
}

/// The broker as the test sees it, with an exchange and queues whose names no other test has.
struct Broker {
    _connection: Connection,
    channel: Channel,
    name: String,
}

impl Broker {
    async fn connect() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let connection = Connection::connect(&url(), ConnectionProperties::default()).await.expect(NEEDS);
        let channel = connection.create_channel().await.unwrap();
        let name = format!("millstream-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { _connection: connection, channel, name }
    }

    /// An exchange of the test's own with a queue of the same name for everything.
    fn sink(&self, schema: SchemaRef, more: Value) -> Box<dyn Sink> {
        let mut settings = json!({"url": url(), "exchange": self.name, "queues": [{"name": self.name}]});
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        named(&self.name, schema, settings)
    }

    async fn get(&self, queue: &str) -> Option<BasicGetMessage> {
        self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
    }

    /// The ids and bodies in the queue, in order.
    async fn take_all(&self) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        while let Some(message) = self.get(&self.name).await {
            let id = message.properties.message_id().clone().unwrap().to_string();
            all.push((id, serde_json::from_slice(&message.data).unwrap()));
        }
        all
    }

    async fn clean_up(self) {
        self.channel.queue_delete(self.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
        self.channel.exchange_delete(self.name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
}

fn sink(schema: SchemaRef, settings: Value) -> Box<dyn Sink> {
    named("queue", schema, settings)
}

/// A sink of this name, so that its connections can be told from those of other tests.
fn named(name: &str, schema: SchemaRef, mut settings: Value) -> Box<dyn Sink> {
    settings["type"] = "amqp".into();
    let config: SinkConfig = serde_json::from_value(settings).unwrap();
    let clock = Arc::new(ManualClock::new(1_714_564_810_000_000));
    let sink = config.settings().check(Path::new(""), &schema).unwrap();
    match sink.open(SinkContext { name: name.into(), clock, pipeline: "p".into() }).unwrap() {
        AnySink::Direct(sink) => sink,
        AnySink::Staged(_) => panic!("staged"),
    }
}

fn row_fields() -> Fields {
    let sentiment = Fields::from(vec![Field::new("label", DataType::Utf8, true)]);
    Fields::from(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("sentiment", DataType::Struct(sentiment), true),
    ])
}

fn row_schema() -> SchemaRef {
    Arc::new(Schema::new(row_fields()))
}

fn change_schema() -> SchemaRef {
    let time = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()));
    let key = Fields::from(vec![Field::new("id", DataType::Int64, false)]);
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, false),
        Field::new("ts", time, false),
        Field::new("key", DataType::Struct(key), false),
        Field::new("old", DataType::Struct(row_fields()), true),
        Field::new("new", DataType::Struct(row_fields()), true),
    ]))
}

fn batch(schema: &SchemaRef, first: u64, values: &[Value]) -> SinkBatch {
    let text: String = values.iter().map(|v| format!("{v}\n")).collect();
    let reader = ReaderBuilder::new(schema.clone()).with_batch_size(values.len()).build(text.as_bytes()).unwrap();
    let batches: Vec<RecordBatch> = reader.map(|b| b.unwrap()).collect();
    let offsets = (first..first + values.len() as u64).collect();
    let batch = batches.into_iter().next().unwrap();
    SinkBatch { folder: "f0".into(), stream: "news.changes".into(), partition: 3, offsets, batch }
}

fn ids(first: u64, count: u64) -> SinkBatch {
    let values: Vec<Value> = (first..first + count).map(|id| json!({"id": id})).collect();
    batch(&row_schema(), first, &values)
}

/// As a caller does it: again and again while the error says so. Gives the failures and the errors on the way.
async fn deliver_with_retries(sink: &mut dyn Sink, batch: &SinkBatch) -> (Vec<RowFailure>, Vec<String>) {
    let mut errors = Vec::new();
    for _ in 0..50 {
        match sink.deliver(batch).await {
            Ok(failures) => return (failures, errors),
            Err(e) if e.is_retry() => errors.push(e.to_string()),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{errors:?}");
}

async fn refused(sink: &mut dyn Sink, batch: &SinkBatch) -> millstream_core::Error {
    let result: Result<_> = sink.deliver(batch).await;
    result.unwrap_err()
}

/// Has the broker close every connection that this sink has.
fn cut_connections(connection_name: &str) -> usize {
    let list = rabbitmqctl(&["list_connections", "pid", "client_properties"]);
    let needle = format!("\"{connection_name}\"");
    let pids: Vec<&str> = list.lines().filter(|l| l.contains(&needle)).filter_map(|l| l.split('\t').next()).collect();
    for pid in &pids {
        rabbitmqctl(&["close_connection", pid, "cut by a test"]);
    }
    pids.len()
}

fn rabbitmqctl(arguments: &[&str]) -> String {
    let node = std::env::var("RABBITMQ_NODENAME").unwrap_or_else(|_| "rabbit@localhost".into());
    let output = Command::new("rabbitmqctl").args(["--quiet", "-n", &node]).args(arguments).output().expect(NEEDS);
    assert!(output.status.success(), "rabbitmqctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_change_arrives_whole_and_says_what_it_is() {
    let broker = Broker::connect().await;
    let more = json!({"routing_key": "news.{sentiment.label}", "headers": {"kind": "{op}/{key.id}"}});
    let mut sink = broker.sink(change_schema(), more);
    let new = json!({"id": 1, "text": "\"ü\"", "sentiment": {"label": "positive"}});
    let changes = [
        json!({"op": "insert", "ts": "2024-05-01T12:00:01.5Z", "key": {"id": 1}, "new": new}),
        json!({"op": "delete", "ts": "2024-05-01T12:00:02Z", "key": {"id": 1}, "old": new}),
    ];
    assert_eq!(sink.deliver(&batch(&change_schema(), 41, &changes)).await.unwrap(), []);
    let first = broker.get(&broker.name).await.unwrap();
    let properties = &first.properties;
    assert_eq!(first.routing_key.as_str(), "news.positive");
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "f0/news.changes/3/41");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "millstream");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.timestamp(), Some(1_714_564_801));
    let headers = properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["x-stream"], AMQPValue::LongString("news.changes".into()));
    assert_eq!(headers["x-partition"], AMQPValue::LongLongInt(3));
    assert_eq!(headers["x-offset"], AMQPValue::LongLongInt(41));
    assert_eq!(headers["kind"], AMQPValue::LongString("insert/1".into()));
    let body: Value = serde_json::from_slice(&first.data).unwrap();
    assert_eq!(
        body,
        json!({"op": "insert", "ts": "2024-05-01T12:00:01.500Z", "key": {"id": 1}, "old": null, "new": new})
    );
    let second = broker.get(&broker.name).await.unwrap();
    assert_eq!(second.routing_key.as_str(), "news.positive");
    assert_eq!(serde_json::from_slice::<Value>(&second.data).unwrap()["new"], Value::Null);
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_row_that_no_queue_takes_is_a_failure_of_this_row_only() {
    let broker = Broker::connect().await;
    let queues = json!([{"name": broker.name, "routing_keys": ["good.#"]}]);
    let mut sink =
        broker.sink(row_schema(), json!({"routing_key": "{text}.{id}", "queues": queues, "max_in_flight": 40}));
    let long = "x".repeat(300);
    let values: Vec<Value> = (0..100)
        .map(|id| json!({"id": id, "text": if id == 50 { long.as_str() } else if id % 10 == 3 { "bad" } else { "good" }}))
        .collect();
    let failures = sink.deliver(&batch(&row_schema(), 0, &values)).await.unwrap();
    let rows: Vec<u32> = failures.iter().map(|f| f.row).collect();
    assert_eq!(rows, [3, 13, 23, 33, 43, 50, 53, 63, 73, 83, 93]);
    assert_eq!(failures[0].failure.kind, FailureKind::Rejected);
    let message = &failures[0].failure.message;
    assert!(message.contains("312 NO_ROUTE") && message.contains("routing key `bad.3`"), "{message}");
    assert!(failures[5].failure.message.contains("255 bytes"), "{}", failures[5].failure.message);
    let delivered: Vec<i64> = broker.take_all().await.iter().map(|(_, body)| body["id"].as_i64().unwrap()).collect();
    assert_eq!(delivered, (0..100).filter(|id| !rows.contains(&(*id as u32))).collect::<Vec<_>>());
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_repeat_after_a_restart_carries_the_same_ids() {
    let broker = Broker::connect().await;
    for _ in 0..2 {
        // As a crash leaves it: delivered, but the caller's offset is not stored.
        let mut sink = broker.sink(row_schema(), json!({}));
        sink.deliver(&ids(0, 5)).await.unwrap();
    }
    let ids: Vec<String> = broker.take_all().await.into_iter().map(|(id, _)| id).collect();
    let once: Vec<String> = (0..5).map(|offset| format!("f0/news.changes/3/{offset}")).collect();
    assert_eq!(ids, [once.clone(), once].concat());
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_cut_connection_is_made_again_and_nothing_is_lost() {
    let broker = Broker::connect().await;
    let mut sink = broker.sink(row_schema(), json!({"max_in_flight": 10}));
    let cut_between = |count| (count..count + 25).collect::<Vec<u64>>();
    sink.deliver(&ids(0, 25)).await.unwrap();
    let connection_name = format!("millstream {}", broker.name);
    assert!(cut_connections(&connection_name) >= 1);
    let (failures, errors) = deliver_with_retries(sink.as_mut(), &ids(25, 25)).await;
    assert_eq!(failures, []);
    assert!(errors.iter().all(|e| !e.contains("guest:guest")), "{errors:?}");
    // And while messages are under way.
    let cutter = tokio::task::spawn_blocking(move || (0..3).map(|_| cut_connections(&connection_name)).sum::<usize>());
    let mut next = 50;
    while !cutter.is_finished() {
        deliver_with_retries(sink.as_mut(), &ids(next, 25)).await;
        next += 25;
    }
    assert!(cutter.await.unwrap() >= 1);
    let mut seen: Vec<u64> = broker.take_all().await.iter().map(|(_, body)| body["id"].as_u64().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, (0..next).step_by(25).flat_map(cut_between).collect::<Vec<_>>());
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn what_only_a_person_can_change_stops_the_sink_and_says_what_to_do() {
    let broker = Broker::connect().await;
    let name = broker.name.as_str();
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    broker.channel.exchange_declare(name.into(), ExchangeKind::Direct, options, FieldTable::default()).await.unwrap();
    let parsed = url::Url::parse(&url()).unwrap();
    let with = |change: &dyn Fn(&mut url::Url)| {
        let mut changed = parsed.clone();
        change(&mut changed);
        changed.to_string()
    };
    let no_such_vhost = with(&|u| u.set_path("/no-such-vhost"));
    let wrong_password = with(&|u| u.set_password(Some("hush")).unwrap());
    let missing = format!("{name}-missing");
    for (settings, part) in [
        (json!({"url": url(), "exchange": name}), "with other settings"),
        (json!({"url": url(), "exchange": missing, "declare": false}), "set `declare: true`"),
        (json!({"url": no_such_vhost, "exchange": name}), "check the vhost"),
        (json!({"url": wrong_password, "exchange": name}), "check user and password"),
    ] {
        let error = refused(sink(row_schema(), settings).as_mut(), &ids(0, 1)).await;
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains("hush") && !error.to_string().contains("guest:"), "{error}");
    }
    broker.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn an_exchange_that_vanishes_is_declared_again() {
    let broker = Broker::connect().await;
    let mut sink = broker.sink(row_schema(), json!({}));
    sink.deliver(&ids(0, 1)).await.unwrap();
    broker.channel.exchange_delete(broker.name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let (failures, errors) = deliver_with_retries(sink.as_mut(), &ids(1, 3)).await;
    assert_eq!(failures, []);
    assert!(errors.len() == 1 && errors[0].contains("404"), "{errors:?}");
    assert_eq!(broker.take_all().await.len(), 4);
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn the_default_exchange_and_the_broker_s_own_are_used_as_they_are() {
    let broker = Broker::connect().await;
    let mut direct = broker.sink(row_schema(), json!({"exchange": "", "routing_key": broker.name}));
    direct.deliver(&ids(0, 1)).await.unwrap();
    let mut own = broker.sink(row_schema(), json!({"exchange": "amq.topic", "routing_key": "a.b"}));
    own.deliver(&ids(1, 1)).await.unwrap();
    assert_eq!(broker.take_all().await.len(), 2);
    broker.channel.queue_delete(broker.name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_full_queue_that_refuses_is_tried_again() {
    let broker = Broker::connect().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(2));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let name = broker.name.as_str();
    broker.channel.queue_declare(name.into(), lapin::options::QueueDeclareOptions::durable(), arguments).await.unwrap();
    let mut sink = broker.sink(row_schema(), json!({"exchange": "", "routing_key": name, "queues": []}));
    let error = refused(sink.as_mut(), &ids(0, 5)).await;
    assert!(error.is_retry() && error.to_string().contains("a queue is full"), "{error}");
    broker.take_all().await;
    assert_eq!(sink.deliver(&ids(5, 1)).await.unwrap(), []);
    broker.channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// RabbitMQ takes messages up to 128 MiB by default.
#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn a_message_beyond_the_limit_of_the_broker_is_a_failure_of_this_row_only() {
    let broker = Broker::connect().await;
    let mut sink = broker.sink(row_schema(), json!({}));
    let large = "x".repeat(129 << 20);
    let batch = batch(&row_schema(), 0, &[json!({"id": 0}), json!({"id": 1, "text": large}), json!({"id": 2})]);
    let (failures, errors) = deliver_with_retries(sink.as_mut(), &batch).await;
    assert_eq!(failures.len(), 1);
    assert_eq!((failures[0].row, failures[0].failure.kind), (1, FailureKind::TooLarge));
    assert!(errors.len() == 1 && errors[0].contains("takes no message above 134217728 bytes"), "{errors:?}");
    let mut seen: Vec<u64> = broker.take_all().await.iter().map(|(_, body)| body["id"].as_u64().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [0, 2]);
    broker.clean_up().await;
}

#[tokio::test]
#[ignore = "needs RabbitMQ: run scripts/test"]
async fn ten_thousand_messages_arrive_once_and_in_order() {
    let broker = Broker::connect().await;
    let mut sink = broker.sink(row_schema(), json!({}));
    for first in (0..10_000).step_by(1_000) {
        assert_eq!(sink.deliver(&ids(first, 1_000)).await.unwrap(), []);
    }
    let seen: Vec<u64> = broker.take_all().await.iter().map(|(_, body)| body["id"].as_u64().unwrap()).collect();
    assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
    broker.clean_up().await;
}

#[tokio::test]
async fn a_broker_that_is_down_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut sink = sink(row_schema(), json!({"url": format!("amqp://user:hush@{address}/%2f"), "exchange": "x"}));
    let error = refused(sink.as_mut(), &ids(0, 1)).await;
    assert_eq!(error.kind(), ErrorKind::Retry);
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && !text.contains("hush"), "{text}");
}
