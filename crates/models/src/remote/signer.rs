//! Signatures for endpoints on AWS, where this build can make them (cargo feature `aws`).

use std::sync::Arc;

use millstream_core::{Clock, Error, Result};
use reqwest::Request;
use url::Url;

use super::aws::Target;
#[cfg(feature = "aws")]
use super::aws::{
    Service,
    credentials::{CredentialSource, environment::Environment, search::Search},
    sign::sign,
};

/// Signs the requests to one model on AWS.
pub(crate) struct Signer {
    #[cfg(feature = "aws")]
    service: Service,
    #[cfg(feature = "aws")]
    region: String,
    #[cfg(feature = "aws")]
    pub(crate) credentials: CredentialSource,
}

#[cfg(feature = "aws")]
impl Signer {
    /// The signer of a model, and the address of its requests. No credentials are read yet.
    ///
    /// # Errors
    /// `Config`: no region is written, and none is in the environment.
    pub(crate) fn new(target: &Target, clock: Arc<dyn Clock>) -> Result<(Url, Self)> {
        let of_environment = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| std::env::var(name).ok());
        let region = target.region.clone().or_else(of_environment).filter(|region| !region.is_empty());
        let region = region.ok_or_else(|| {
            Error::setting("region", "`region` is missing: write one, such as eu-west-1, or set AWS_REGION")
        })?;
        let credentials = CredentialSource::of(Search::new(Environment::of_process(), &region, clock.clone())?, clock);
        Ok((target.url(&region)?, Self { service: target.service, region, credentials }))
    }

    /// Adds the signature to a request.
    ///
    /// # Errors
    /// `Environment`: there are no credentials. `Retry`: they can't be had now.
    pub(crate) async fn sign(&self, request: &mut Request, now_us: i64) -> Result<()> {
        let credentials = self.credentials.get().await?;
        sign(request, &credentials, self.service.signing_name(), &self.region, now_us)
    }

    /// Gets new credentials for the next request.
    pub(crate) fn renew(&self) {
        self.credentials.forget();
    }
}

#[cfg(not(feature = "aws"))]
impl Signer {
    /// # Errors
    /// `Config`: always.
    pub(crate) fn new(_: &Target, _: Arc<dyn Clock>) -> Result<(Url, Self)> {
        Err(Error::config("this build of Millstream can't sign for AWS: build it with the cargo feature `aws`"))
    }

    pub(crate) async fn sign(&self, _: &mut Request, _: i64) -> Result<()> {
        Ok(())
    }

    pub(crate) fn renew(&self) {}
}
