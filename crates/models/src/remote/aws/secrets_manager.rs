//! AWS Secrets Manager: `GetSecretValue`. Source: the API reference, version 2017-10-17 (JSON 1.1).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millstream_core::{Clock, Error, Result, ResultExt, SystemClock};
use reqwest::StatusCode;
use serde_json::{Value, json};
use url::Url;

use super::credentials::answer::{client, exchange};
use super::credentials::environment::Environment;
use super::credentials::search::Search;
use super::credentials::{CredentialSource, Place};
use super::sign::sign;
use super::{dns_suffix, error_name};
use crate::secrets::Managed;

const TIMEOUT: Duration = Duration::from_secs(15);
const SERVICE: &str = "secretsmanager";
/// What the service says when the same request may work later.
const LATER: [&str; 4] =
    ["ThrottlingException", "InternalServiceError", "ExpiredTokenException", "RequestLimitExceeded"];

/// The value of a secret.
///
/// # Errors
/// `Config`: there is no such secret, or none that this may read. `Environment`: there are no credentials. `Retry`: the
/// service does not answer, or says that it may work later.
pub(crate) async fn value(secret: &Managed) -> Result<String> {
    let environment = Environment::of_process();
    let region = region(secret, &environment)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let search = Search::new(environment.clone(), &region, clock.clone())?;
    value_with(secret, &environment, &region, search, clock).await
}

async fn value_with(
    secret: &Managed,
    environment: &Environment,
    region: &str,
    place: impl Place + 'static,
    clock: Arc<dyn Clock>,
) -> Result<String> {
    let credentials =
        CredentialSource::of(place, clock.clone()).get().await.doing(|| "find credentials for AWS".into())?;
    let of_environment = || environment.endpoint_url("SECRETS_MANAGER");
    let address = secret.endpoint_url.clone().or_else(of_environment);
    let address = address.unwrap_or_else(|| format!("https://{SERVICE}.{region}.{}/", dns_suffix(region)));
    let url = Url::parse(&address).map_err(|e| Error::config(format!("`{address}` is no address: {e}")))?;
    let client = client(false, TIMEOUT)?;
    let mut body = json!({ "SecretId": secret.id });
    if let Some(stage) = &secret.version_stage {
        body["VersionStage"] = stage.as_str().into();
    }
    let mut request = client
        .post(url)
        .header("Content-Type", "application/x-amz-json-1.1")
        .header("X-Amz-Target", "secretsmanager.GetSecretValue")
        .body(body.to_string())
        .build()
        .map_err(|e| Error::config("can't make a request for AWS Secrets Manager").caused_by(e.without_url()))?;
    sign(&mut request, &credentials, SERVICE, region, clock.now_us())?;
    let request = reqwest::RequestBuilder::from_parts(client, request);
    let (status, text) = exchange("AWS Secrets Manager", request).await?;
    if status != StatusCode::OK {
        return Err(refusal(status, &text));
    }
    read(secret, &text)
}

/// As it is written, else that in the ARN, else that of the environment.
fn region(secret: &Managed, environment: &Environment) -> Result<String> {
    // arn:aws:secretsmanager:eu-west-1:123456789012:secret:name
    let of_arn = secret.id.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2)).map(str::to_owned);
    let region = secret.region.clone().or(of_arn);
    let region = region.or_else(|| environment.get("AWS_REGION")).or_else(|| environment.get("AWS_DEFAULT_REGION"));
    let region = region.filter(|region| !region.is_empty());
    region.ok_or_else(|| Error::config("`region` is missing: write one, such as eu-west-1, or set AWS_REGION"))
}

fn refusal(status: StatusCode, text: &str) -> Error {
    let name = error_name(&reqwest::header::HeaderMap::new(), text).unwrap_or_else(|| status.to_string());
    let said: Value = serde_json::from_str(text).unwrap_or_default();
    let said = ["Message", "message"].iter().find_map(|key| said[*key].as_str()).unwrap_or_default();
    let message = format!("AWS Secrets Manager: {name}{}{said}", if said.is_empty() { "" } else { ": " });
    match LATER.contains(&name.as_str()) || status.is_server_error() {
        true => Error::retry(message),
        false => Error::config(message),
    }
}

/// The text in an answer, or a field of the JSON in it. What was answered is never shown.
fn read(secret: &Managed, text: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let binary = || STANDARD.decode(answer["SecretBinary"].as_str()?).ok().and_then(|b| String::from_utf8(b).ok());
    let value = answer["SecretString"].as_str().map(str::to_owned).or_else(binary);
    let value = value.ok_or_else(|| Error::config("AWS Secrets Manager: the secret holds no text"))?;
    let Some(field) = &secret.field else { return Ok(value) };
    let fields: Value = serde_json::from_str(&value).unwrap_or_default();
    match &fields[field.as_str()] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => {
            let known: Vec<&str> = fields.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
            let known =
                if known.is_empty() { "it is no JSON object".into() } else { format!("it has {}", known.join(", ")) };
            Err(Error::config(format!("AWS Secrets Manager: there is no text `{field}` in the secret; {known}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::ErrorKind;

    use super::*;

    fn secret(field: Option<&str>) -> Managed {
        Managed { id: "prod/y".into(), field: field.map(str::to_owned), ..Managed::default() }
    }

    #[test]
    fn the_text_a_field_of_it_or_its_bytes_are_read() {
        let json =
            json!({ "SecretString": "{\"user\":\"u\",\"password\":\"hush\",\"port\":5432,\"on\":true}" }).to_string();
        assert_eq!(read(&secret(Some("password")), &json).unwrap(), "hush");
        assert_eq!(read(&secret(Some("port")), &json).unwrap(), "5432");
        assert!(read(&secret(None), &json).unwrap().starts_with("{\"user\""));
        assert_eq!(read(&secret(None), "{\"SecretBinary\":\"aHVzaA==\"}").unwrap(), "hush");
        for (field, text) in
            [(Some("pass"), json.as_str()), (Some("on"), &json), (Some("a"), "{\"SecretString\":\"hush\"}")]
        {
            let said = read(&secret(field), text).unwrap_err().to_string();
            assert!(!said.contains("hush"), "{said}");
        }
        assert!(
            read(&secret(Some("pass")), &json).unwrap_err().to_string().contains("it has user, password, port, on")
        );
        assert!(read(&secret(None), "<html>").is_err());
    }

    #[test]
    fn a_refusal_is_final_unless_the_service_is_not_well() {
        let kind = |status: u16, text: &str| refusal(StatusCode::from_u16(status).unwrap(), text).kind();
        let missing = "{\"__type\":\"ResourceNotFoundException\",\"Message\":\"can't find it\"}";
        assert_eq!(kind(400, missing), ErrorKind::Config);
        let said = refusal(StatusCode::BAD_REQUEST, missing).to_string();
        assert!(said.contains("ResourceNotFoundException: can't find it"), "{said}");
        assert_eq!(kind(400, "{\"__type\":\"com.amazonaws#ThrottlingException\"}"), ErrorKind::Retry);
        assert_eq!(kind(500, "{\"__type\":\"InternalServiceError\"}"), ErrorKind::Retry);
        assert_eq!(kind(503, "<html>"), ErrorKind::Retry);
    }

    #[test]
    fn the_region_is_the_written_one_else_that_of_the_arn_or_the_environment() {
        let of = |secret: &Managed, variable: Option<&'static str>| {
            region(secret, &Environment::new(move |name| variable.filter(|_| name == "AWS_REGION").map(str::to_owned)))
        };
        let arn = Managed { id: "arn:aws:secretsmanager:eu-west-1:123456789012:secret:y".into(), ..Managed::default() };
        assert_eq!(of(&arn, Some("us-east-1")).unwrap(), "eu-west-1");
        assert_eq!(of(&Managed { region: Some("ap-south-1".into()), ..arn }, None).unwrap(), "ap-south-1");
        assert_eq!(of(&secret(None), Some("us-east-1")).unwrap(), "us-east-1");
        assert!(of(&secret(None), None).unwrap_err().to_string().contains("AWS_REGION"));
    }
}
