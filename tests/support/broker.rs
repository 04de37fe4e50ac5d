//! A real RabbitMQ as a consumer sees it. `scripts/rabbitmq` starts one; `MILLSTREAM_TEST_AMQP_URL` names another.

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde_json::Value;

use super::http::block_on;

/// A broker, with a name for an exchange and a queue that no other test has.
pub struct Broker {
    /// The name.
    pub name: String,
    connection: Connection,
    channel: Channel,
}

/// A message's id and body.
pub type Message = (String, Value);

impl Broker {
    /// The address.
    pub fn url() -> String {
        std::env::var("MILLSTREAM_TEST_AMQP_URL").unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".into())
    }

    /// Connects.
    pub fn connect() -> Self {
        block_on(async {
            let connected = Connection::connect(&Self::url(), ConnectionProperties::default()).await;
            let connection = connected.expect("needs RabbitMQ: run scripts/test");
            let channel = connection.create_channel().await.unwrap();
            let name = format!("millstream-test-crash-{}", std::process::id());
            Self { name, connection, channel }
        })
    }

    /// Takes everything out of the queue, in order.
    pub fn take_all(&self) -> Vec<Message> {
        block_on(async {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let name = || self.name.as_str().into();
            let queue = self.channel.queue_declare(name(), passive, FieldTable::default()).await.unwrap();
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consumer =
                self.channel.basic_consume(name(), "test".into(), options, FieldTable::default()).await.unwrap();
            let message = |delivery: Result<lapin::message::Delivery, lapin::Error>| {
                let delivery = delivery.unwrap();
                let id = delivery.properties.message_id().clone().expect("a message id").to_string();
                (id, serde_json::from_slice(&delivery.data).unwrap())
            };
            consumer.take(queue.message_count() as usize).map(message).collect().await
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        block_on(async {
            // A channel of its own: the other is closed where a call has failed.
            if let Ok(channel) = self.connection.create_channel().await {
                let _ = channel.queue_delete(self.name.as_str().into(), QueueDeleteOptions::default()).await;
                let _ = channel.exchange_delete(self.name.as_str().into(), ExchangeDeleteOptions::default()).await;
            }
        });
    }
}
