//! Publishes to RabbitMQ.

pub mod config;
mod connection;
pub mod sink;

pub use config::{AmqpQueue, AmqpSinkConfig, ExchangeType};
pub(crate) use connection::probe;
pub use sink::AmqpSink;
