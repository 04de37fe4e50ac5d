//! Models behind an endpoint: any HTTP server, SageMaker, or a Lambda function.
//!
//! ```text
//! queue ─▶ gate (breaker, Retry-After, rate) ─▶ client ──encode──▶ endpoint
//!                                                 ▲       protocol/    │
//!                                                 └──────decode────────┘
//! ```
//!
//! `config` is what is written in the pipeline file, checked without the network; `protocol` knows what requests and
//! answers look like and does no I/O; `aws` adds addresses, errors and signatures; `client` sends. Calling again after
//! an error of kind `Retry` is left to the caller (the `predict` step), which knows how long the record may still wait.

pub(crate) mod aws;
pub mod breaker;
pub(crate) mod client;
pub mod config;
pub mod fallback;
pub mod gate;
pub(crate) mod probe;
pub mod protocol;
pub mod rate;
mod retry_after;
mod signer;
mod status;

use std::time::Duration;

use millstream_core::Result;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use url::Url;

pub(crate) use client::Remote;

use crate::{BatchConfig, ModelHandle, ModelInfo, queue};
use breaker::BreakerConfig;
use protocol::Codec;
use rate::Rate;

/// Where an endpoint is, and how to call it.
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    /// The shape of requests and answers.
    pub(crate) codec: Codec,
    /// Put into the body of every request.
    pub(crate) extra_body: Map<String, Value>,
    /// Sent with every request; values are marked as sensitive.
    pub(crate) headers: HeaderMap,
    /// The most requests under way at once.
    pub(crate) concurrency: usize,
    /// How long one request may take, the answer's body included.
    pub(crate) timeout: Duration,
    /// When it is left alone.
    pub(crate) breaker: BreakerConfig,
    /// How often it may be asked.
    pub(crate) rate: Option<Rate>,
}

/// Where requests go.
pub(crate) enum Place {
    Http(Url),
    /// Signed.
    Aws(aws::Target),
}

/// Puts a queue in front of an endpoint; nothing is called yet.
pub(crate) fn load(info: ModelInfo, mut batch: BatchConfig, endpoint: Endpoint) -> Result<ModelHandle> {
    let concurrency = endpoint.concurrency;
    // A batch is a request: a protocol that takes one text a time gets as many requests at once as are allowed.
    batch.max = batch.max.min(endpoint.codec.texts_max().unwrap_or(usize::MAX));
    let remote = Remote::new(endpoint, info.clone())?;
    queue::spawn_remote(info, batch, concurrency, remote)
}

#[cfg(test)]
mod tests;
