//! One place after the other, in the order of the AWS SDKs: environment, profile files, web identity (EKS), container
//! (ECS, EKS Pod Identity), instance metadata (EC2).

use std::sync::Arc;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use millstream_core::{Clock, Error, Result, ResultExt};

use super::Place;
use super::environment::Environment;
use super::metadata::{Container, InstanceMetadata};
use super::process;
use super::profile::{Base, NamedPlace, Plan, Profiles};
use super::sso::Sso;
use super::sts::{Role, Sts};

/// All of the usual places.
pub(crate) struct Search {
    environment: Environment,
    /// That of the model, for roles whose profile names none.
    region: String,
    container: Container,
    instance: InstanceMetadata,
    sts: Sts,
    sso: Sso,
}

impl Search {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// `Environment`: the HTTP client can't be set up.
    pub(crate) fn new(environment: Environment, region: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self {
            region: region.into(),
            container: Container::new(environment.clone())?,
            instance: InstanceMetadata::new(environment.clone())?,
            sts: Sts::new(environment.clone(), clock.clone())?,
            sso: Sso::new(environment.clone(), clock)?,
            environment,
        })
    }

    /// The files are read anew each time: a person may have changed them.
    async fn profile(&self) -> Result<Option<Credentials>> {
        let profiles = Profiles::read(&self.environment).await?;
        let Some(Plan { base, roles }) = profiles.plan()? else { return Ok(None) };
        let mut credentials = self.base(&base).await.doing(|| profiles.shown())?;
        for role in &roles {
            let region = role.region.as_deref().unwrap_or(&self.region);
            credentials = self.sts.assume_role(role, &credentials, region).await.doing(|| profiles.shown())?;
        }
        Ok(Some(credentials))
    }

    async fn base(&self, base: &Base) -> Result<Credentials> {
        match base {
            Base::Keys(credentials) => Ok(credentials.clone()),
            Base::Place(place) => {
                let found = match place {
                    NamedPlace::Environment => self.environment.keys()?,
                    NamedPlace::EcsContainer => self.container.find().await?,
                    NamedPlace::Ec2InstanceMetadata => self.instance.find().await?,
                };
                let none = || {
                    Error::environment(format!("`credential_source = {place:?}`, but there are no credentials there"))
                };
                found.ok_or_else(none)
            }
            Base::WebIdentity { role, token_file } => {
                let region = role.region.as_deref().unwrap_or(&self.region);
                self.sts.assume_role_with_web_identity(role, token_file, region).await
            }
            Base::Sso(login) => self.sso.find(login).await,
            Base::Process { command, profile } => process::run(command, profile).await,
        }
    }

    async fn web_identity(&self) -> Result<Option<Credentials>> {
        let variable = |name| self.environment.get(name);
        let (Some(token_file), Some(arn)) = (variable("AWS_WEB_IDENTITY_TOKEN_FILE"), variable("AWS_ROLE_ARN")) else {
            return Ok(None);
        };
        let role = Role { arn, session_name: variable("AWS_ROLE_SESSION_NAME"), ..Role::default() };
        self.sts.assume_role_with_web_identity(&role, &token_file, &self.region).await.map(Some)
    }
}

#[async_trait]
impl Place for Search {
    async fn find(&self) -> Result<Option<Credentials>> {
        if let Some(found) = self.environment.keys()? {
            return Ok(Some(found));
        }
        if let Some(found) = self.profile().await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.web_identity().await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.container.find().await? {
            return Ok(Some(found));
        }
        self.instance.find().await
    }
}
