//! What a profile in the files of AWS says: where the first credentials come from, and which roles are taken on with
//! them. Sources: "Shared config and credentials files" and "Assume role credential provider" in the AWS SDKs and Tools
//! Reference Guide. The parser is that of the AWS SDK.

use std::path::PathBuf;

use aws_credential_types::Credentials;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_runtime::env_config::section::{EnvConfigSections, Profile};
use aws_runtime::env_config::source;
use aws_types::os_shim_internal::{Env, Fs};
use millstream_core::{Error, Result, Secret};

use super::answer::chained;
use super::environment::Environment;
use super::sso::Login;
use super::sts::Role;

/// What AWS allows for `duration_seconds`.
const DURATION_SECONDS: std::ops::RangeInclusive<u32> = 900..=43_200;

/// The profiles of both files.
pub(crate) struct Profiles {
    sections: EnvConfigSections,
    selected: String,
    files: [PathBuf; 2],
}

/// How to get the credentials of a profile.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) base: Base,
    /// Each is taken on with the credentials of the one before, the first one with those of `base`.
    pub(crate) roles: Vec<Role>,
}

/// Where the first credentials come from.
#[derive(Debug)]
pub(crate) enum Base {
    Keys(Credentials),
    Place(NamedPlace),
    WebIdentity { role: Role, token_file: String },
    Sso(Login),
    Process { command: Secret, profile: String },
}

/// The values of `credential_source`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedPlace {
    Environment,
    EcsContainer,
    Ec2InstanceMetadata,
}

impl Profiles {
    /// Reads `AWS_CONFIG_FILE` and `AWS_SHARED_CREDENTIALS_FILE`, else those in `~/.aws`. A file that is not there is
    /// an empty one.
    ///
    /// # Errors
    /// `Environment`: a file can't be read, or is not as AWS writes it.
    pub(crate) async fn read(environment: &Environment) -> Result<Self> {
        let path = |variable: &str, name: &str| match (environment.get(variable), environment.home()) {
            (Some(path), Some(home)) => {
                path.strip_prefix("~/").map_or_else(|| path.clone().into(), |rest| home.join(rest))
            }
            (Some(path), None) => path.into(),
            (None, home) => home.unwrap_or_else(|| "~".into()).join(".aws").join(name),
        };
        let files = [path("AWS_CONFIG_FILE", "config"), path("AWS_SHARED_CREDENTIALS_FILE", "credentials")];
        let mut to_read = EnvConfigFiles::builder();
        for (kind, file) in [EnvConfigFileKind::Config, EnvConfigFileKind::Credentials].into_iter().zip(&files) {
            if tokio::fs::try_exists(file).await.unwrap_or(true) {
                to_read = to_read.with_file(kind, file);
            }
        }
        let wrong = |e: &dyn std::error::Error| Error::environment("can't read the AWS profiles").caused_by(chained(e));
        let source = source::load(&Env::from_slice(&[]), &Fs::real(), &to_read.build()).await.map_err(|e| wrong(&e))?;
        let sections = EnvConfigSections::parse(source).map_err(|e| wrong(&e))?;
        let selected = environment.get("AWS_PROFILE").unwrap_or_else(|| "default".into());
        Ok(Self { sections, selected, files })
    }

    /// What messages call the selected profile.
    pub(crate) fn shown(&self) -> String {
        self.shown_as(&self.selected)
    }

    /// What is to be done for the selected profile; nothing where it says nothing of credentials.
    ///
    /// # Errors
    /// `Environment`: it is not there, contradicts itself, or asks for what is not served.
    pub(crate) fn plan(&self) -> Result<Option<Plan>> {
        let mut roles = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        let mut name = self.selected.as_str();
        let base = loop {
            let Some(profile) = self.sections.get_profile(name) else {
                return match seen.last() {
                    None if name == "default" => Ok(None),
                    None => Err(self.wrong(name, "does not exist: check AWS_PROFILE")),
                    Some(from) => {
                        Err(self.wrong(from, &format!("names `source_profile = {name}`, which does not exist")))
                    }
                };
            };
            if seen.contains(&name) {
                seen.push(name);
                return Err(
                    self.wrong(&self.selected, &format!("goes in a circle of source_profile: {}", seen.join(" → ")))
                );
            }
            seen.push(name);
            let is_source = seen.len() > 1;
            if is_source && let Some(keys) = self.keys(profile)? {
                break Some(keys);
            }
            let Some(role) = self.role(profile)? else { break self.base(profile)? };
            let source = self.source(profile)?;
            roles.push(role);
            match source {
                Source::Place(place) => break Some(Base::Place(place)),
                // A role whose own profile has the keys.
                Source::Profile(source) if source == name => break self.base(profile)?,
                Source::Profile(source) => name = source,
            }
        };
        roles.reverse();
        match base {
            Some(base) => Ok(Some(Plan { base, roles })),
            None if seen.len() == 1 && roles.is_empty() => Ok(None),
            None => Err(self.wrong(name, "is a source_profile, but has no credentials")),
        }
    }

    /// The role of a profile that takes one on with other credentials.
    fn role(&self, profile: &Profile) -> Result<Option<Role>> {
        let get = |key| profile.get(key).map(str::to_owned);
        let Some(arn) = get("role_arn") else { return Ok(None) };
        if profile.get("web_identity_token_file").is_some() {
            return Ok(None);
        }
        if profile.get("mfa_serial").is_some() {
            let why = "asks for a code (mfa_serial), which nobody can type here: use another role, or export";
            return Err(self.not_served(profile, why));
        }
        let duration_seconds = match profile.get("duration_seconds") {
            None => None,
            Some(text) => {
                let seconds = text.parse().ok().filter(|seconds| DURATION_SECONDS.contains(seconds));
                let why = format!("says `duration_seconds = {text}`: write a number from 900 to 43200");
                Some(seconds.ok_or_else(|| self.wrong(profile.name(), &why))?)
            }
        };
        let (session_name, external_id, region) = (get("role_session_name"), get("external_id"), get("region"));
        Ok(Some(Role { arn, session_name, external_id, duration_seconds, region }))
    }

    /// Whose credentials take the role of a profile on.
    fn source<'a>(&self, profile: &'a Profile) -> Result<Source<'a>> {
        let wrong = |why: &str| Err(self.wrong(profile.name(), why));
        match (profile.get("source_profile"), profile.get("credential_source")) {
            (Some(name), None) => Ok(Source::Profile(name)),
            (None, Some("Environment")) => Ok(Source::Place(NamedPlace::Environment)),
            (None, Some("EcsContainer")) => Ok(Source::Place(NamedPlace::EcsContainer)),
            (None, Some("Ec2InstanceMetadata")) => Ok(Source::Place(NamedPlace::Ec2InstanceMetadata)),
            (None, Some(other)) => wrong(&format!(
                "says `credential_source = {other}`: write Environment, EcsContainer or Ec2InstanceMetadata"
            )),
            (Some(_), Some(_)) => wrong("has both source_profile and credential_source: write one of them"),
            (None, None) => wrong("has a role_arn: write source_profile, credential_source or web_identity_token_file"),
        }
    }

    /// The credentials of a profile without those of another one; the order is that of the AWS SDK for Rust.
    fn base(&self, profile: &Profile) -> Result<Option<Base>> {
        let get = |key| profile.get(key).map(str::to_owned);
        if let Some(token_file) = get("web_identity_token_file") {
            let Some(arn) = get("role_arn") else {
                return Err(self.wrong(profile.name(), "has a web_identity_token_file: write a role_arn too"));
            };
            let role = Role { arn, session_name: get("role_session_name"), region: get("region"), ..Role::default() };
            return Ok(Some(Base::WebIdentity { role, token_file }));
        }
        if let Some(login) = self.login(profile)? {
            return Ok(Some(Base::Sso(login)));
        }
        if profile.get("login_session").is_some() {
            return Err(self.not_served(profile, "has a login_session, which is not read here: export"));
        }
        if let Some(command) = get("credential_process") {
            return Ok(Some(Base::Process { command: Secret::new(command), profile: profile.name().into() }));
        }
        self.keys(profile)
    }

    /// The sign-in of a profile.
    fn login(&self, profile: &Profile) -> Result<Option<Login>> {
        let session = profile.get("sso_session");
        if session.is_none() && profile.get("sso_start_url").is_none() {
            return Ok(None);
        }
        let section = match session {
            None => None,
            Some(name) => Some(self.sections.sso_session(name).ok_or_else(|| {
                self.wrong(
                    profile.name(),
                    &format!("names `sso_session = {name}`, but there is no [sso-session {name}]"),
                )
            })?),
        };
        let field = |key: &str| {
            let value = section.and_then(|section| section.get(key)).or_else(|| profile.get(key)).map(str::to_owned);
            value.ok_or_else(|| {
                self.wrong(profile.name(), &format!("signs in, but has no {key}: `aws configure sso` writes it"))
            })
        };
        Ok(Some(Login {
            profile: profile.name().into(),
            session: session.map(str::to_owned),
            start_url: field("sso_start_url")?,
            region: field("sso_region")?,
            account_id: field("sso_account_id")?,
            role_name: field("sso_role_name")?,
        }))
    }

    /// The access keys in a profile.
    fn keys(&self, profile: &Profile) -> Result<Option<Base>> {
        let only = |set: &str, missing: &str| Err(self.wrong(profile.name(), &format!("has {set}, but no {missing}")));
        let token = profile.get("aws_session_token").map(str::to_owned);
        match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
            (None, None) => Ok(None),
            (Some(_), None) => only("aws_access_key_id", "aws_secret_access_key"),
            (None, Some(_)) => only("aws_secret_access_key", "aws_access_key_id"),
            (Some(id), Some(secret)) => Ok(Some(Base::Keys(Credentials::new(id, secret, token, None, "profile")))),
        }
    }

    fn not_served(&self, profile: &Profile, why: &str) -> Error {
        let name = profile.name();
        self.wrong(
            name,
            &format!("{why} its credentials with `aws configure export-credentials --profile {name} --format env`"),
        )
    }

    fn wrong(&self, profile: &str, why: &str) -> Error {
        Error::environment(format!("{} {why}", self.shown_as(profile)))
    }

    fn shown_as(&self, profile: &str) -> String {
        format!("the AWS profile `{profile}` ({}, {})", self.files[0].display(), self.files[1].display())
    }
}

/// Whose credentials take a role on.
enum Source<'a> {
    Place(NamedPlace),
    Profile(&'a str),
}
