//! Credentials of a person who has signed in with `aws sso login`: the token that the CLI keeps is exchanged for those
//! of a role. Sources: "IAM Identity Center credential provider" in the AWS SDKs and Tools Reference Guide; the API
//! references of the SSO portal (2019-06-10) and of SSO OIDC (2019-06-10).
//!
//! The token is in `~/.aws/sso/cache/<SHA-1 of the session's name, or of the start URL>.json`. That of a session is
//! renewed as the CLI does it, and written back, because its refresh token may be good for one time only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use millstream_core::{Clock, Error, Result};
use reqwest::Client;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::super::dns_suffix;
use super::answer::{client, credentials, exchange};
use super::environment::Environment;
use crate::remote::protocol::shortened;

const TIMEOUT: Duration = Duration::from_secs(8);
/// A token is renewed so long before it ends.
const RENEW_BEFORE: TimeDelta = TimeDelta::minutes(5);

/// Who signs in where, and for which role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The profile that says so.
    pub(crate) profile: String,
    /// The `[sso-session]`; none in profiles of the older kind.
    pub(crate) session: Option<String>,
    pub(crate) start_url: String,
    pub(crate) region: String,
    pub(crate) account_id: String,
    pub(crate) role_name: String,
}

/// The service.
pub(crate) struct Sso {
    environment: Environment,
    client: Client,
    clock: Arc<dyn Clock>,
}

/// A token as the CLI keeps it, with all of its fields.
struct Token {
    access: String,
    ends_at: DateTime<Utc>,
    fields: Map<String, Value>,
}

impl Sso {
    /// # Errors
    /// `Environment`: the HTTP client can't be set up.
    pub(crate) fn new(environment: Environment, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { environment, client: client(false, TIMEOUT)?, clock })
    }

    /// The credentials of the role.
    ///
    /// # Errors
    /// `Environment`: nobody has signed in, that was too long ago, or the role is not given. `Retry`: the portal does
    /// not answer.
    pub(crate) async fn find(&self, login: &Login) -> Result<Credentials> {
        let token = self.token(login).await?;
        let mut url = self.url("SSO", "portal.sso", login, "federation/credentials")?;
        url.query_pairs_mut().append_pair("role_name", &login.role_name).append_pair("account_id", &login.account_id);
        let request = self.client.get(url).header("x-amz-sso_bearer_token", token);
        let (status, answer) = exchange("the SSO portal", request).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        if status.is_success() {
            let found = &answer["roleCredentials"];
            let field = |name: &str| found[name].as_str().map(str::to_owned);
            // Milliseconds.
            let expiry = found["expiration"].as_i64().and_then(DateTime::from_timestamp_millis);
            let (id, secret, expiry) = (field("accessKeyId"), field("secretAccessKey"), expiry.map(written));
            return credentials("the SSO portal", id, secret, field("sessionToken"), expiry);
        }
        let why = shortened(answer["message"].as_str().unwrap_or_default());
        match status.as_u16() {
            401 => Err(sign_in(login, "is not taken any more")),
            429 | 500.. => Err(Error::retry(format!("the SSO portal answered {status}: {why}"))),
            _ => {
                let role = format!("the role {} of account {}", login.role_name, login.account_id);
                let advice = "Check sso_role_name and sso_account_id";
                Err(Error::environment(format!("the SSO portal refuses {role} ({status}): {why}. {advice}")))
            }
        }
    }

    /// A token that holds, renewed where it is about to end.
    async fn token(&self, login: &Login) -> Result<String> {
        let home =
            self.environment.home().ok_or_else(|| Error::environment("HOME is not set: it holds the SSO token"))?;
        let path = cached_at(&home, login.session.as_deref().unwrap_or(&login.start_url));
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(sign_in(login, "is missing")),
            Err(e) => return Err(Error::environment(format!("can't read {}", path.display())).caused_by(e)),
        };
        let token = Token::parse(&text).ok_or_else(|| sign_in(login, "can't be read"))?;
        let now = DateTime::from_timestamp_micros(self.clock.now_us()).unwrap_or_default();
        if now + RENEW_BEFORE < token.ends_at {
            return Ok(token.access);
        }
        let renewed = match login.session {
            Some(_) => self.renew(login, &token, now).await,
            None => Ok(None),
        };
        match renewed {
            Ok(Some(renewed)) => {
                if let Err(error) = write(&path, &Value::from(renewed.fields).to_string()).await {
                    tracing::warn!(path = %path.display(), %error, "the renewed SSO token can't be written");
                }
                Ok(renewed.access)
            }
            _ if now < token.ends_at => Ok(token.access),
            Ok(None) => Err(sign_in(login, "has expired")),
            Err(error) => Err(error),
        }
    }

    /// A new token for the refresh token of the old one; none where a person has to sign in.
    async fn renew(&self, login: &Login, token: &Token, now: DateTime<Utc>) -> Result<Option<Token>> {
        let fields = ["clientId", "clientSecret", "refreshToken"].map(|name| token.field(name));
        let [Some(id), Some(secret), Some(refresh)] = fields else { return Ok(None) };
        let url = self.url("SSO_OIDC", "oidc", login, "token")?;
        let body =
            json!({ "clientId": id, "clientSecret": secret, "grantType": "refresh_token", "refreshToken": refresh });
        let (status, answer) = exchange("SSO OIDC", self.client.post(url).json(&body)).await?;
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(Error::retry(format!("SSO OIDC answered {status}")));
        }
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let seconds = answer["expiresIn"].as_i64().and_then(TimeDelta::try_seconds);
        let ends_at = seconds.and_then(|seconds| now.checked_add_signed(seconds));
        let (true, Some(access), Some(ends_at)) = (status.is_success(), answer["accessToken"].as_str(), ends_at) else {
            return Ok(None);
        };
        let mut fields = token.fields.clone();
        fields.insert("accessToken".into(), access.into());
        fields.insert("expiresAt".into(), written(ends_at).into());
        if let Some(refresh) = answer.get("refreshToken").filter(|refresh| refresh.is_string()) {
            fields.insert("refreshToken".into(), refresh.clone());
        }
        Ok(Some(Token { access: access.into(), ends_at, fields }))
    }

    fn url(&self, service: &str, host: &str, login: &Login, path: &str) -> Result<Url> {
        let region = &login.region;
        let base = self.environment.endpoint_url(service);
        let base = base.unwrap_or_else(|| format!("https://{host}.{region}.{}", dns_suffix(region)));
        let url = format!("{}/{path}", base.trim_end_matches('/'));
        Url::parse(&url).map_err(|e| Error::environment(format!("the address for signing in is `{url}`: {e}")))
    }
}

impl Token {
    fn parse(text: &str) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_str(text).ok()?;
        // Older versions of the CLI wrote `2020-06-17T10:02:08UTC`.
        let ends_at = fields.get("expiresAt")?.as_str()?.replace("UTC", "Z");
        let ends_at = DateTime::parse_from_rfc3339(&ends_at).ok()?.to_utc();
        let access = fields.get("accessToken")?.as_str()?.to_owned();
        Some(Self { access, ends_at, fields })
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str()
    }
}

/// Where the CLI keeps the token of a session, or of a start URL.
fn cached_at(home: &Path, name: &str) -> PathBuf {
    let digest: String = Sha1::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    home.join(".aws/sso/cache").join(digest).with_extension("json")
}

/// As AWS writes times.
fn written(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Replaces a file that only its owner may read: other programs see the old one or the new one.
async fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&beside).await?;
    file.write_all(text.as_bytes()).await?;
    file.sync_all().await?;
    tokio::fs::rename(&beside, path).await
}

fn sign_in(login: &Login, why: &str) -> Error {
    Error::environment(format!("the SSO token {why}: run `aws sso login --profile {}`", login.profile))
}
