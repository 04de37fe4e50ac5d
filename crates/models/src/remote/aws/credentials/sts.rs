//! Credentials for a role, from the Security Token Service. Source: the STS API reference, version 2011-06-15.

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use millstream_core::{Clock, Error, Result};
use reqwest::{Client, Request};
use url::Url;
use url::form_urlencoded::Serializer;

use super::super::dns_suffix;
use super::super::sign::sign;
use super::answer::{client, credentials, element, exchange, read};
use super::environment::Environment;
use crate::remote::protocol::shortened;

const TIMEOUT: Duration = Duration::from_secs(8);
const SESSION_NAME: &str = "millstream";

/// What STS says when the same request may work later; the token of a web identity is replaced by the platform.
const LATER: [&str; 6] = [
    "ExpiredTokenException",
    "IDPCommunicationError",
    "InvalidIdentityToken",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
];

/// A role to take on, and how.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) session_name: Option<String>,
    pub(crate) external_id: Option<String>,
    pub(crate) duration_seconds: Option<u32>,
    /// Of the STS endpoint; otherwise that of the model.
    pub(crate) region: Option<String>,
}

/// The service.
pub(crate) struct Sts {
    environment: Environment,
    client: Client,
    clock: Arc<dyn Clock>,
}

impl Sts {
    /// # Errors
    /// `Environment`: the HTTP client can't be set up.
    pub(crate) fn new(environment: Environment, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { environment, client: client(false, TIMEOUT)?, clock })
    }

    /// Credentials of `role` for whoever has the credentials `own`.
    ///
    /// # Errors
    /// `Environment`: STS refuses. `Retry`: it does not answer, or says that it may work later.
    pub(crate) async fn assume_role(&self, role: &Role, own: &Credentials, region: &str) -> Result<Credentials> {
        let mut request = self.request("AssumeRole", role, None, region)?;
        sign(&mut request, own, "sts", region, self.clock.now_us())?;
        self.answer(role, request).await
    }

    /// Credentials of `role` for whoever has the token in a file.
    ///
    /// # Errors
    /// As [`Self::assume_role`]; `Environment`: the file can't be read.
    pub(crate) async fn assume_role_with_web_identity(
        &self,
        role: &Role,
        token_file: &str,
        region: &str,
    ) -> Result<Credentials> {
        // Read anew each time: the platform replaces it.
        let token = read(token_file).await?;
        let request = self.request("AssumeRoleWithWebIdentity", role, Some(token.trim()), region)?;
        self.answer(role, request).await
    }

    fn request(&self, action: &str, role: &Role, token: Option<&str>, region: &str) -> Result<Request> {
        let url = address(&self.environment, region);
        let url = Url::parse(&url).map_err(|e| Error::environment(format!("the address of STS is `{url}`: {e}")))?;
        let mut form = Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", "2011-06-15");
        form.append_pair("RoleArn", &role.arn);
        form.append_pair("RoleSessionName", role.session_name.as_deref().unwrap_or(SESSION_NAME));
        let duration = role.duration_seconds.map(|seconds| seconds.to_string());
        let optional = [
            ("ExternalId", role.external_id.as_deref()),
            ("DurationSeconds", duration.as_deref()),
            ("WebIdentityToken", token),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        self.client
            .post(url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(form.finish())
            .build()
            .map_err(|e| Error::environment("can't make a request for STS").caused_by(e.without_url()))
    }

    async fn answer(&self, role: &Role, request: Request) -> Result<Credentials> {
        let request = reqwest::RequestBuilder::from_parts(self.client.clone(), request);
        let (status, xml) = exchange("STS", request).await?;
        let field = |name: &str| element(&xml, name).map(str::to_owned);
        if status.is_success() {
            let (id, secret) = (field("AccessKeyId"), field("SecretAccessKey"));
            return credentials("STS", id, secret, field("SessionToken"), field("Expiration"));
        }
        let code = element(&xml, "Code").unwrap_or_default();
        let why = element(&xml, "Message").unwrap_or_default();
        let message = format!("STS refuses the role {} ({status}): {}", role.arn, shortened(&format!("{code}: {why}")));
        if status.is_server_error() || status.as_u16() == 429 || LATER.contains(&code) {
            return Err(Error::retry(message));
        }
        Err(Error::environment(format!(
            "{message}. Check `role_arn`, the role's trust policy, and the credentials that take it on"
        )))
    }
}

/// The service of a region, unless the environment names another one.
fn address(environment: &Environment, region: &str) -> String {
    environment.endpoint_url("STS").unwrap_or_else(|| format!("https://sts.{region}.{}/", dns_suffix(region)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_that_of_the_region_unless_the_environment_names_another_one() {
        let of = |variables: &'static [(&str, &str)], region: &str| {
            let lookup = move |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            address(&Environment::new(lookup), region)
        };
        assert_eq!(of(&[], "eu-west-1"), "https://sts.eu-west-1.amazonaws.com/");
        assert_eq!(of(&[], "cn-north-1"), "https://sts.cn-north-1.amazonaws.com.cn/");
        assert_eq!(of(&[("AWS_ENDPOINT_URL", "http://a")], "x"), "http://a");
        assert_eq!(of(&[("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_STS", "http://b")], "x"), "http://b");
        let ignored = &[("AWS_ENDPOINT_URL", "http://a"), ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "True")];
        assert_eq!(of(ignored, "eu-west-1"), "https://sts.eu-west-1.amazonaws.com/");
    }
}
