//! Credentials from where the program runs: the container agent, the metadata of an EC2 instance, and STS for a pod
//! with a web identity.
//!
//! Sources: "Container credential provider", "IMDS credential provider" and "Assume role with web identity" in the AWS
//! SDKs and Tools Reference Guide; the STS API reference, version 2011-06-15.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, Result as Provided, future};
use chrono::DateTime;
use millstream_core::{Error, Result};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use url::Url;
use url::form_urlencoded::Serializer;

use super::credentials::Environment;

/// These places are on the same machine: whoever does not answer at once is not there.
const NEAR_TIMEOUT: Duration = Duration::from_secs(2);
const STS_TIMEOUT: Duration = Duration::from_secs(8);
/// The hosts that may be asked without TLS: the agents of ECS and EKS.
const AGENT_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];

/// The agent beside a container on ECS, or of EKS Pod Identity.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    environment: Environment,
    client: Client,
}

/// The metadata service of EC2, version 2.
#[derive(Debug, Clone)]
pub(crate) struct InstanceMetadata {
    environment: Environment,
    client: Client,
}

/// `AssumeRoleWithWebIdentity`: the token of a Kubernetes service account for a role.
#[derive(Debug, Clone)]
pub(crate) struct WebIdentity {
    environment: Environment,
    client: Client,
    sts: String,
}

/// A client for this machine: never through a proxy.
fn near_client() -> Result<Client> {
    Client::builder()
        .no_proxy()
        .timeout(NEAR_TIMEOUT)
        .build()
        .map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))
}

impl Container {
    pub(crate) fn new(environment: Environment) -> Result<Self> {
        Ok(Self { environment, client: near_client()? })
    }

    async fn load(&self) -> Provided {
        let variable = |name| self.environment.get(name);
        let url = match (
            variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => format!("http://169.254.170.2{path}"),
            (None, Some(url)) => url,
            (None, None) => return Err(CredentialsError::not_loaded("no container agent")),
        };
        let url = allowed(&url)?;
        let mut request = self.client.get(url);
        let token = match variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            // Read anew each time: the platform replaces it.
            Some(path) => Some(read(&path).await?),
            None => variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = token {
            request = request.header("Authorization", token.trim());
        }
        from_json(&text(request).await?)
    }
}

/// The token goes only to where nobody else listens.
fn allowed(url: &str) -> std::result::Result<Url, CredentialsError> {
    let wrong =
        |why: &str| CredentialsError::invalid_configuration(format!("AWS_CONTAINER_CREDENTIALS_FULL_URI {why}"));
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
        Ok(Self { environment, client: near_client()? })
    }

    async fn load(&self) -> Provided {
        if self.environment.get("AWS_EC2_METADATA_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true")) {
            return Err(CredentialsError::not_loaded("instance metadata is switched off"));
        }
        let base = self.environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let base = base.unwrap_or_else(|| "http://169.254.169.254".into());
        let base = base.trim_end_matches('/');
        let ask_token =
            self.client.put(format!("{base}/latest/api/token")).header("X-aws-ec2-metadata-token-ttl-seconds", "21600");
        // Whatever goes wrong here: this is no instance of EC2, or one that does not want to be asked.
        let token = text(ask_token).await.map_err(|_| CredentialsError::not_loaded("no instance metadata"))?;
        let get = |path: String| {
            self.client
                .get(format!("{base}/latest/meta-data/iam/security-credentials/{path}"))
                .header("X-aws-ec2-metadata-token", &token)
        };
        let roles = text(get(String::new())).await?;
        let Some(role) = roles.lines().next().map(str::trim).filter(|role| !role.is_empty()) else {
            return Err(CredentialsError::not_loaded("the instance has no role"));
        };
        from_json(&text(get(role.into())).await?)
    }
}

impl WebIdentity {
    pub(crate) fn new(environment: Environment, region: &str) -> Result<Self> {
        let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let sts = environment.get("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| format!("https://sts.{region}.{suffix}/"));
        let client = Client::builder()
            .timeout(STS_TIMEOUT)
            .build()
            .map_err(|e| Error::environment("can't set up the HTTP client").caused_by(e))?;
        Ok(Self { environment, client, sts })
    }

    async fn load(&self) -> Provided {
        let variable = |name| self.environment.get(name);
        let (Some(file), Some(role)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) else {
            return Err(CredentialsError::not_loaded("no web identity"));
        };
        let token = read(&file).await?;
        let session = variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "millstream".into());
        let form = Serializer::new(String::new())
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleArn", &role)
            .append_pair("RoleSessionName", &session)
            .append_pair("WebIdentityToken", token.trim())
            .finish();
        let request =
            self.client.post(&self.sts).header("Content-Type", "application/x-www-form-urlencoded").body(form);
        let answer = text(request).await?;
        let field = |name: &str| element(&answer, name).map(str::to_owned);
        credentials(field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken"), field("Expiration"))
    }
}

/// The text of an XML element without children. The values here have no character that XML escapes.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.trim())
}

/// As the container agent and the instance metadata write them.
fn from_json(text: &str) -> Provided {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    credentials(field("AccessKeyId"), field("SecretAccessKey"), field("Token"), field("Expiration"))
}

fn credentials(
    id: Option<String>,
    secret: Option<String>,
    token: Option<String>,
    expiration: Option<String>,
) -> Provided {
    // What was answered may hold half a secret: it is not shown.
    let unusable = || CredentialsError::provider_error("the answer holds no credentials");
    let (Some(id), Some(secret)) = (id, secret) else { return Err(unusable()) };
    let expiry = match expiration {
        None => None,
        Some(text) => Some(SystemTime::from(DateTime::parse_from_rfc3339(&text).map_err(|_| unusable())?)),
    };
    Ok(Credentials::new(id, secret, token, expiry, "millstream"))
}

async fn read(path: &str) -> std::result::Result<String, CredentialsError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|e| CredentialsError::invalid_configuration(format!("can't read {path}: {e}")))
}

async fn text(request: RequestBuilder) -> std::result::Result<String, CredentialsError> {
    let failed = |e: reqwest::Error| CredentialsError::provider_error(e.without_url());
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let body = response.text().await.map_err(failed)?;
    if !status.is_success() {
        let why = element(&body, "Message").map(|why| format!(": {}", super::super::protocol::shortened(why)));
        return Err(CredentialsError::provider_error(format!("answered {status}{}", why.unwrap_or_default())));
    }
    Ok(body)
}

impl ProvideCredentials for Container {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl ProvideCredentials for InstanceMetadata {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

impl ProvideCredentials for WebIdentity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}
