//! Signs requests (SigV4), with `aws-sigv4`.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign as signature};
use aws_sigv4::sign::v4;
use millstream_core::{Error, Result};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};

/// Adds the signature's headers to a request whose body is in memory; `service` is its name in a signature's scope.
///
/// # Errors
/// `Bug`: the request can't be signed; its headers were checked before.
pub(crate) fn sign(
    request: &mut Request,
    credentials: &Credentials,
    service: &str,
    region: &str,
    now_us: i64,
) -> Result<()> {
    let can_t = |e: Box<dyn std::error::Error + Send + Sync>| Error::bug("can't sign a request").caused_by(e);
    let identity = credentials.clone().into();
    let time = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(now_us).unwrap_or(0));
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|e| can_t(e.into()))?
        .into();
    let body = request.body().and_then(|body| body.as_bytes()).unwrap_or_default();
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        // A value of other bytes goes unsigned; AWS asks only for those of its own.
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let (method, url) = (request.method().as_str(), request.url().as_str());
    let signable = SignableRequest::new(method, url, headers.into_iter(), SignableBody::Bytes(body))
        .map_err(|e| can_t(e.into()))?;
    let (instructions, _) = signature(signable, &params).map_err(|e| can_t(e.into()))?.into_parts();
    let (new_headers, _) = instructions.into_parts();
    for header in new_headers {
        let mut value = HeaderValue::from_str(header.value()).map_err(|e| can_t(e.into()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(HeaderName::from_static(header.name()), value);
    }
    Ok(())
}
