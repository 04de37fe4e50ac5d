//! A look at an endpoint before anything is sent to it: does its host answer, are there credentials to sign with?

use std::time::Duration;

use millstream_core::{Clock, Error, Result, SystemClock};
use tokio::net::TcpStream;

use super::Endpoint;
use super::client::Remote;
use crate::ModelInfo;

/// How long it may take, in all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to the endpoint's host, and hangs up; what was found, in a few words. No request is made: it would cost
/// money, and a model might take it for one more.
///
/// # Errors
/// `Retry`: the host can't be reached now. Others a person has to mend: no region, no credentials.
pub(crate) async fn probe(endpoint: Endpoint, info: ModelInfo) -> Result<String> {
    let remote = Remote::new(endpoint, info)?;
    let look = async {
        let signed = remote.can_sign(SystemClock.now_us()).await?;
        let url = remote.url();
        let host = url.host_str().ok_or_else(|| Error::config("the model's address names no host"))?;
        let port = url.port_or_known_default().ok_or_else(|| Error::config("the model's address names no port"))?;
        let address = host.trim_start_matches('[').trim_end_matches(']');
        match TcpStream::connect((address, port)).await {
            Ok(_) => Ok(format!("{host}:{port} answers{}", if signed { ", credentials found" } else { "" })),
            Err(e) => Err(Error::retry(format!("{host}:{port} can't be reached")).caused_by(e)),
        }
    };
    let late = |_| Err(Error::retry(format!("no answer within {} s", TIMEOUT.as_secs())));
    tokio::time::timeout(TIMEOUT, look).await.unwrap_or_else(late)
}
