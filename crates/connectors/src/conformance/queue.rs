//! A queue of RabbitMQ, for sinks. Between it and the sink is a stretch of wire that can be cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use lapin::options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use millstream_core::{AnySink, Sink};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::open_sink;
use super::sinks::{Arrived, Target};
use crate::payload::tests::row_schema;

/// A queue behind an exchange of its own.
pub(super) struct Queue {
    _connection: Connection,
    channel: Channel,
    name: String,
    url: String,
    wire: Arc<Wire>,
    taken: Mutex<Vec<Arrived>>,
}

#[derive(Default)]
struct Wire {
    cut: Notify,
    refuses_next: AtomicBool,
}

impl Wire {
    /// Leads from a new port to the broker.
    async fn lead_to(self: Arc<Self>, broker: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if self.refuses_next.swap(false, Ordering::SeqCst) {
                    continue;
                }
                let (wire, broker) = (self.clone(), broker.clone());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(broker).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = wire.cut.notified() => {}
                    }
                });
            }
        });
        port
    }
}

#[async_trait]
impl Target for Queue {
    async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let url = std::env::var("MILLSTREAM_TEST_AMQP_URL");
        let url = url::Url::parse(url.as_deref().unwrap_or("amqp://guest:guest@127.0.0.1:5672/%2f")).unwrap();
        let broker = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5672));
        let wire = Arc::new(Wire::default());
        let mut through = url.clone();
        through.set_host(Some("127.0.0.1")).unwrap();
        through.set_port(Some(wire.clone().lead_to(broker).await)).unwrap();
        let needs = "scripts/rabbitmq starts a broker";
        let connection = Connection::connect(url.as_str(), ConnectionProperties::default()).await.expect(needs);
        let channel = connection.create_channel().await.unwrap();
        let name = format!("millstream-suite-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Both are gone with this connection.
        let exchange = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
        let queue = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let (at, all) = (name.as_str(), FieldTable::default);
        channel.exchange_declare(at.into(), ExchangeKind::Topic, exchange, all()).await.unwrap();
        channel.queue_declare(at.into(), queue, all()).await.unwrap();
        channel.queue_bind(at.into(), at.into(), "#".into(), QueueBindOptions::default(), all()).await.unwrap();
        Self { _connection: connection, channel, name, url: through.into(), wire, taken: Mutex::default() }
    }

    fn open(&self) -> Box<dyn Sink> {
        let settings = json!({ "type": "amqp", "url": self.url, "exchange": self.name, "declare": false });
        match open_sink(settings, &row_schema()) {
            AnySink::Direct(sink) => sink,
            AnySink::Staged(_) => panic!("an AMQP sink delivers at once"),
        }
    }

    fn fail_next(&self) {
        self.wire.refuses_next.store(true, Ordering::SeqCst);
        self.wire.cut.notify_waiters();
    }

    async fn arrived(&self) -> Vec<Arrived> {
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.channel.basic_get(self.name.as_str().into(), options).await.unwrap() {
            let row: Value = serde_json::from_slice(&message.data).unwrap();
            let name = message.properties.message_id().as_ref().map(ToString::to_string);
            self.taken.lock().push(Arrived { id: row["id"].as_i64().unwrap(), name });
        }
        self.taken.lock().clone()
    }
}
