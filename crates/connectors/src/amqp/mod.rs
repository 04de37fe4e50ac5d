//! Publishes to RabbitMQ.

pub mod config;
mod connection;
pub mod sink;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::{AnySink, Result};

use crate::check::Problem;
use crate::connector::{SinkConnector, SinkSettings};
use crate::context::SinkContext;
use crate::preview::{self, Preview};

pub use config::{AmqpQueue, AmqpSinkConfig, AmqpSinkSpec, ExchangeType};
pub use sink::AmqpSink;

impl SinkSettings for AmqpSinkConfig {
    fn kind(&self) -> &'static str {
        "amqp"
    }

    fn check(&self, _: &Path, schema: &SchemaRef) -> Result<Arc<dyn SinkConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked(schema)?))
    }
}

#[async_trait]
impl SinkConnector for AmqpSinkSpec {
    async fn probe(&self) -> Result<String> {
        connection::probe(&self.config).await
    }

    fn preview(&self, batch: &RecordBatch) -> Result<Vec<Preview>> {
        let routing_key = self.routing_key.bind(batch)?;
        preview::each(batch, &self.body, |row| {
            let key = routing_key.render(row).map_err(|why| format!("the routing key {why}"))?;
            Ok(format!("exchange `{}`, routing key `{key}`", self.config.exchange))
        })
    }

    fn open(&self, context: SinkContext) -> Result<AnySink> {
        Ok(AnySink::Direct(Box::new(AmqpSink::new(self, context))))
    }
}
