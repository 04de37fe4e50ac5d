//! Credentials from where the program runs: the container agent, and the metadata of an EC2 instance.
//!
//! Sources: "Container credential provider" and "IMDS credential provider" in the AWS SDKs and Tools Reference Guide.

use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use millstream_core::{Error, Result};
use reqwest::Client;
use url::Url;

use super::Place;
use super::answer::{client, from_json, read, text};
use super::environment::Environment;

/// These places are on the same machine: whoever does not answer at once is not there.
const NEAR_TIMEOUT: Duration = Duration::from_secs(2);
/// The hosts that may be asked without TLS: the agents of ECS and EKS.
const AGENT_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

const AGENT: &str = "the container agent";
const METADATA: &str = "the instance metadata";

/// The agent beside a container on ECS, or of EKS Pod Identity.
#[derive(Debug)]
pub(crate) struct Container {
    environment: Environment,
    client: Client,
}

/// The metadata service of EC2, version 2.
#[derive(Debug)]
pub(crate) struct InstanceMetadata {
    environment: Environment,
    client: Client,
}

impl Container {
    pub(crate) fn new(environment: Environment) -> Result<Self> {
        Ok(Self { environment, client: client(true, NEAR_TIMEOUT)? })
    }
}

#[async_trait]
impl Place for Container {
    async fn find(&self) -> Result<Option<Credentials>> {
        let variable = |name| self.environment.get(name);
        let url = match (
            variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => format!("http://169.254.170.2{path}"),
            (None, Some(url)) => url,
            (None, None) => return Ok(None),
        };
        let mut request = self.client.get(allowed(&url)?);
        let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            // Read anew each time: the platform replaces it.
            Some(path) => Some(read(&path).await?),
            None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = token {
            request = request.header("Authorization", token.trim());
        }
        from_json(AGENT, &text(AGENT, request).await?, "Token").map(Some)
    }
}

/// The token goes only to where nobody else listens.
fn allowed(url: &str) -> Result<Url> {
    let wrong = |why: &str| Error::environment(format!("AWS_CONTAINER_CREDENTIALS_FULL_URI {why}"));
    let url = Url::parse(url).map_err(|_| wrong("is no URL"))?;
    let host = url.host_str().unwrap_or_default();
    let is_loopback = host == "localhost" || host == "[::1]" || host.starts_with("127.");
    if url.scheme() == "https" || is_loopback || AGENT_HOSTS.contains(&host) {
        return Ok(url);
    }
    Err(wrong("must be https, or the address of this machine or of the container agent"))
}

impl InstanceMetadata {
    pub(crate) fn new(environment: Environment) -> Result<Self> {
        Ok(Self { environment, client: client(true, NEAR_TIMEOUT)? })
    }
}

#[async_trait]
impl Place for InstanceMetadata {
    async fn find(&self) -> Result<Option<Credentials>> {
        if self.environment.is_true("AWS_EC2_METADATA_DISABLED") {
            return Ok(None);
        }
        let base = self.environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let base = base.unwrap_or_else(|| "http://169.254.169.254".into());
        let base = base.trim_end_matches('/');
        let ask_token =
            self.client.put(format!("{base}/latest/api/token")).header("X-aws-ec2-metadata-token-ttl-seconds", "21600");
        // Whatever goes wrong here: this is no instance of EC2, or one that does not want to be asked.
        let Ok(token) = text(METADATA, ask_token).await else { return Ok(None) };
        let get = |path: &str| {
            self.client
                .get(format!("{base}/latest/meta-data/iam/security-credentials/{path}"))
                .header("X-aws-ec2-metadata-token", &token)
        };
        let roles = text(METADATA, get("")).await?;
        let Some(role) = roles.lines().next().map(str::trim).filter(|role| !role.is_empty()) else {
            return Ok(None);
        };
        from_json(METADATA, &text(METADATA, get(role)).await?, "Token").map(Some)
    }
}
