//! Publishes to RabbitMQ.

pub mod config;
mod connection;
pub mod sink;

pub use config::{AmqpQueue, AmqpSinkConfig, ExchangeType};
pub use sink::AmqpSink;
