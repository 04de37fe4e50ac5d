//! Where AWS credentials come from, in the order of the AWS SDKs: environment, profile files, web identity (EKS),
//! container (ECS, EKS Pod Identity), instance metadata (EC2).
//!
//! Environment and profiles are read by `aws-config`. The others are a few requests each, which `metadata` makes with
//! our own HTTP client, so that no second one, with its own TLS, is built in. Profiles that need AWS to take on a role
//! or to sign in (`role_arn`, SSO) are therefore not served: export credentials for them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use millstream_core::{Clock, Error, Result};

use super::metadata::{Container, InstanceMetadata, WebIdentity};

/// Temporary credentials are replaced so long before they end.
const RENEW_BEFORE: Duration = Duration::from_secs(5 * 60);
/// How long all of the places together may take.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The message of `aws-config` would not say so.
const NOT_SERVED: &str = " (a profile with role_arn, SSO or credential_process is not served: export its credentials with \
`aws configure export-credentials --format env`)";

/// The environment, as a function from names to values; tests bring their own.
#[derive(Clone)]
pub(crate) struct Environment(Arc<Lookup>);

type Lookup = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Environment {
    /// That of the process.
    pub(crate) fn of_process() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }

    pub(crate) fn new(lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(lookup))
    }

    /// A variable that is set and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.trim().is_empty())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

/// Credentials, looked for when they are needed and kept until they are about to end.
pub(crate) struct CredentialSource {
    provider: Box<dyn ProvideCredentials>,
    clock: Arc<dyn Clock>,
    /// A Tokio mutex: whoever comes while they are looked for waits for the same ones.
    known: tokio::sync::Mutex<Option<Credentials>>,
}

impl CredentialSource {
    /// The usual places. Nothing is read yet.
    ///
    /// # Errors
    /// `Environment`: the HTTP client can't be set up.
    pub(crate) fn standard(region: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let environment = Environment::of_process();
        let container = Container::new(environment.clone())?;
        let instance = InstanceMetadata::new(environment.clone())?;
        // The places that a profile may name are ours: those of `aws-config` would want an HTTP client of its own.
        let profile = ProfileFileCredentialsProvider::builder()
            .with_custom_provider("EcsContainer", container.clone())
            .with_custom_provider("Ec2InstanceMetadata", instance.clone())
            .build();
        let chain = CredentialsProviderChain::first_try("Environment", EnvironmentVariableCredentialsProvider::new())
            .or_else("Profile", profile)
            .or_else("WebIdentity", WebIdentity::new(environment, region)?)
            .or_else("Container", container)
            .or_else("InstanceMetadata", instance);
        Ok(Self::of(chain, clock))
    }

    pub(crate) fn of(provider: impl ProvideCredentials + 'static, clock: Arc<dyn Clock>) -> Self {
        Self { provider: Box::new(provider), clock, known: tokio::sync::Mutex::new(None) }
    }

    /// Credentials that are good for a while.
    ///
    /// # Errors
    /// `Environment`: there are none. `Retry`: the place that has them did not answer.
    pub(crate) async fn get(&self) -> Result<Credentials> {
        let mut known = self.known.lock().await;
        if let Some(credentials) = known.as_ref().filter(|credentials| self.is_good(credentials)) {
            return Ok(credentials.clone());
        }
        let found = tokio::time::timeout(SEARCH_TIMEOUT, self.provider.provide_credentials()).await;
        let credentials = match found {
            Ok(found) => found.map_err(explained)?,
            Err(_) => return Err(Error::retry(format!("found no AWS credentials within {SEARCH_TIMEOUT:?}"))),
        };
        *known = Some(credentials.clone());
        Ok(credentials)
    }

    /// AWS does not take them any more.
    pub(crate) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    fn is_good(&self, credentials: &Credentials) -> bool {
        let Some(expiry) = credentials.expiry() else { return true };
        let expiry = expiry.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = Duration::from_micros(u64::try_from(self.clock.now_us()).unwrap_or(0));
        now + RENEW_BEFORE < expiry
    }
}

fn explained(error: CredentialsError) -> Error {
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Error::environment(
            "there are no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile (AWS_PROFILE), or run where a role is attached",
        ),
        CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
            Error::retry(format!("can't get AWS credentials{NOT_SERVED}")).caused_by(chained(&error))
        }
        _ => Error::environment(format!("can't use the AWS credentials that are set up{NOT_SERVED}"))
            .caused_by(chained(&error)),
    }
}

/// The message with its causes; the credentials themselves are in none of them.
fn chained(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}
