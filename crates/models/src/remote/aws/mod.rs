//! Models behind AWS APIs: SageMaker `InvokeEndpoint` and Lambda `Invoke`.
//!
//! Sources: the Smithy model of the SageMaker runtime (2017-05-13), the Lambda API reference (2015-03-31), and "AWS
//! Signature Version 4" in the AWS reference.
//!
//! | what AWS answers | meaning |
//! |---|---|
//! | `ThrottlingException`, `TooManyRequestsException`, `ModelNotReadyException`, … | try again later |
//! | `ServiceUnavailable`, `InternalFailure`, `InternalDependencyException`, other 5xx | the service is not well; try again |
//! | `ExpiredTokenException` | try again with new credentials |
//! | `ModelError` | what the container's own status means |
//! | `RequestTooLargeException`, `X-Amz-Function-Error` | a text is refused |
//! | `ValidationError`, `ResourceNotFoundException`, `AccessDeniedException`, … | every text fails |

#[cfg(feature = "aws")]
pub(crate) mod credentials;
#[cfg(feature = "aws")]
pub(crate) mod secrets_manager;
#[cfg(feature = "aws")]
pub(crate) mod sign;

use std::fmt;

use millstream_core::{Error, Result};
use reqwest::header::HeaderMap;
use serde_json::Value;
use url::Url;

/// An AWS API that runs models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Sagemaker,
    Lambda,
}

/// A model behind an AWS API.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) service: Service,
    /// The endpoint, or the function: name, `name:alias`, or ARN.
    pub(crate) name: String,
    /// As written; otherwise that of the environment.
    pub(crate) region: Option<String>,
    /// Another address of the API.
    pub(crate) endpoint_url: Option<Url>,
}

#[cfg(feature = "aws")]
impl Service {
    /// The name in a signature's scope.
    pub(crate) fn signing_name(self) -> &'static str {
        match self {
            Self::Sagemaker => "sagemaker",
            Self::Lambda => "lambda",
        }
    }

    fn host(self) -> &'static str {
        match self {
            Self::Sagemaker => "runtime.sagemaker",
            Self::Lambda => "lambda",
        }
    }
}

impl Target {
    /// Reads `sagemaker://endpoint` and `lambda://function`; none where it is neither.
    ///
    /// # Errors
    /// `Config`: there is no name, or one that AWS does not allow.
    pub(crate) fn parse(source: &str) -> Result<Option<Self>> {
        let (service, name) = match source.split_once("://") {
            Some(("sagemaker", name)) => (Service::Sagemaker, name),
            Some(("lambda", name)) => (Service::Lambda, name),
            _ => return Ok(None),
        };
        let is_known = |c: char| match service {
            Service::Sagemaker => c.is_ascii_alphanumeric() || c == '-',
            Service::Lambda => c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '$'),
        };
        if name.is_empty() || !name.chars().all(is_known) {
            let example = match service {
                Service::Sagemaker => "sagemaker://my-endpoint",
                Service::Lambda => "lambda://my-function, lambda://my-function:alias, or lambda:// and its ARN",
            };
            return Err(Error::config(format!("`{source}` names nothing on AWS: write {example}")));
        }
        // arn:aws:lambda:eu-west-1:123456789012:function:name
        let arn_region = name.strip_prefix("arn:").and_then(|arn| arn.split(':').nth(2));
        let region = arn_region.filter(|region| !region.is_empty()).map(str::to_owned);
        Ok(Some(Self { service, name: name.into(), region, endpoint_url: None }))
    }

    /// The address that requests are posted to.
    ///
    /// # Errors
    /// `Config`: `endpoint_url` can have no path, or the region is no name.
    #[cfg(feature = "aws")]
    pub(crate) fn url(&self, region: &str) -> Result<Url> {
        let mut url = match &self.endpoint_url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("https://{}.{region}.{}", self.service.host(), dns_suffix(region)))
                .map_err(|e| Error::setting("region", format!("`region` is `{region}`: {e}")))?,
        };
        if url.cannot_be_a_base() {
            return Err(Error::setting("endpoint_url", "`endpoint_url` can't be the start of an address"));
        }
        // Colons and dollars as the SDKs write them.
        let name = self.name.replace(':', "%3A").replace('$', "%24");
        let base = url.path().trim_end_matches('/');
        let path = match self.service {
            Service::Sagemaker => format!("{base}/endpoints/{name}/invocations"),
            Service::Lambda => format!("{base}/2015-03-31/functions/{name}/invocations"),
        };
        url.set_path(&path);
        Ok(url)
    }
}

/// What the names of a region's services end with.
#[cfg(feature = "aws")]
fn dns_suffix(region: &str) -> &'static str {
    if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" }
}

/// As it is written in the pipeline file.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.service {
            Service::Sagemaker => "sagemaker",
            Service::Lambda => "lambda",
        };
        write!(f, "{scheme}://{}", self.name)
    }
}

/// The name of an AWS error: `x-amzn-errortype: Name:http://…`, or `__type` or `code` in the body.
pub(crate) fn error_name(headers: &HeaderMap, body: &str) -> Option<String> {
    let header = headers.get("x-amzn-errortype").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from_body = || {
        let body: Value = serde_json::from_str(body).ok()?;
        ["__type", "code", "Code"].iter().find_map(|key| body.get(key)?.as_str().map(str::to_owned))
    };
    let name = header.or_else(from_body)?;
    let name = name.split(':').next().unwrap_or_default();
    Some(name.rsplit('#').next().unwrap_or_default().to_owned())
}

/// What the container of a SageMaker model has answered, where AWS answered `ModelError`.
pub(crate) fn original_status(body: &str) -> Option<u16> {
    let body: Value = serde_json::from_str(body).ok()?;
    body.get("OriginalStatusCode")?.as_u64().and_then(|status| u16::try_from(status).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "aws")]
    fn url(source: &str, region: &str) -> String {
        Target::parse(source).unwrap().unwrap().url(region).unwrap().to_string()
    }

    #[cfg(feature = "aws")]
    #[test]
    fn addresses_follow_the_api_and_the_region() {
        assert_eq!(
            url("sagemaker://tone-1", "eu-west-1"),
            "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/tone-1/invocations"
        );
        assert_eq!(
            url("sagemaker://tone", "cn-north-1"),
            "https://runtime.sagemaker.cn-north-1.amazonaws.com.cn/endpoints/tone/invocations"
        );
        assert_eq!(
            url("lambda://tone:live", "us-east-1"),
            "https://lambda.us-east-1.amazonaws.com/2015-03-31/functions/tone%3Alive/invocations"
        );
        let mut target = Target::parse("sagemaker://tone").unwrap().unwrap();
        target.endpoint_url = Some(Url::parse("http://localhost:4566/base/").unwrap());
        assert_eq!(target.url("x").unwrap().as_str(), "http://localhost:4566/base/endpoints/tone/invocations");
    }

    #[test]
    fn an_arn_brings_its_region_and_a_wrong_name_is_refused() {
        let target = Target::parse("lambda://arn:aws:lambda:ap-south-1:123456789012:function:tone").unwrap().unwrap();
        assert_eq!(target.region.as_deref(), Some("ap-south-1"));
        assert!(Target::parse("https://sagemaker").unwrap().is_none());
        for wrong in ["sagemaker://", "sagemaker://a/b", "sagemaker://a_b", "lambda://", "lambda://a b", "lambda://a?x"]
        {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn error_names_are_found_in_all_their_places() {
        let mut headers = HeaderMap::new();
        assert_eq!(
            error_name(&headers, "{\"__type\":\"com.amazon.coral#ThrottlingException\"}").unwrap(),
            "ThrottlingException"
        );
        assert_eq!(error_name(&headers, "{\"code\":\"ValidationError\"}").unwrap(), "ValidationError");
        assert_eq!(error_name(&headers, "<html>"), None);
        headers.insert("x-amzn-errortype", "ModelNotReadyException:http://internal.amazon.com/".parse().unwrap());
        assert_eq!(error_name(&headers, "{\"code\":\"x\"}").unwrap(), "ModelNotReadyException");
        assert_eq!(original_status("{\"OriginalStatusCode\":503}"), Some(503));
    }
}
