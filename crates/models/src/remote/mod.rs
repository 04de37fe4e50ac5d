//! Models behind an HTTP endpoint.
//!
//! `shape` knows what requests and answers look like and does no I/O; `client` sends them. Calling again after an error
//! of kind `Retry` is left to the caller (the `predict` step), which knows how long the record may still wait.

pub mod client;
pub mod shape;

use std::time::Duration;

use millstream_core::Result;
use reqwest::header::HeaderMap;
use url::Url;

pub(crate) use client::Remote;

use crate::{BatchConfig, ModelHandle, ModelInfo, Protocol, queue};

/// Where an endpoint is, and how to call it.
pub struct Endpoint {
    /// The address that requests are posted to.
    pub url: Url,
    /// The shape of requests and answers.
    pub protocol: Protocol,
    /// Sent with every request; values are marked as sensitive.
    pub headers: HeaderMap,
    /// The most requests under way at once.
    pub concurrency: usize,
    /// How long one request may take, the answer's body included.
    pub timeout: Duration,
}

/// Puts a queue in front of an endpoint; nothing is called yet.
pub(crate) fn load(info: ModelInfo, batch: BatchConfig, endpoint: Endpoint) -> Result<ModelHandle> {
    let concurrency = endpoint.concurrency;
    let remote = Remote::new(endpoint, info.clone())?;
    queue::spawn_remote(info, batch, concurrency, remote)
}

#[cfg(test)]
mod tests;
