//! Secrets that are kept elsewhere: what a program prints, and AWS Secrets Manager. They are here because the search
//! for credentials and the signatures of AWS are.

use std::path::Path;
use std::time::Duration;

use millstream_core::Result;

/// A secret in AWS Secrets Manager.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managed {
    /// Its name or ARN.
    pub id: String,
    /// The field of the JSON in it; otherwise all of it.
    pub field: Option<String>,
    /// Which of its versions; otherwise `AWSCURRENT`.
    pub version_stage: Option<String>,
    /// Where; otherwise that of the ARN or of the environment.
    pub region: Option<String>,
    /// Another address of the service.
    pub endpoint_url: Option<String>,
}

/// The value of a secret in AWS Secrets Manager.
///
/// # Errors
/// `Config`: there is no such secret, or none that this may read. `Environment`: there are no credentials. `Retry`: the
/// service does not answer, or says that it may work later.
#[cfg(feature = "aws")]
pub async fn managed(secret: &Managed) -> Result<String> {
    crate::remote::aws::secrets_manager::value(secret).await
}

/// What a program prints; its standard error goes where this process's goes. It begins in `folder`.
///
/// # Errors
/// `Config`: there is no program. `Retry`: it can't be started, fails, or takes longer than `timeout`.
#[cfg(feature = "aws")]
pub async fn printed(command: &[String], folder: &Path, timeout: Duration) -> Result<Vec<u8>> {
    use millstream_core::Error;
    let (program, arguments) =
        command.split_first().ok_or_else(|| Error::config("`command` is empty: write a program and its arguments"))?;
    let mut running = tokio::process::Command::new(program);
    running.args(arguments);
    if !folder.as_os_str().is_empty() {
        running.current_dir(folder);
    }
    crate::remote::aws::credentials::process::output(running, &format!("`{program}`"), timeout).await
}

/// # Errors
/// `Config`: always.
#[cfg(not(feature = "aws"))]
pub async fn managed(_: &Managed) -> Result<String> {
    Err(unable())
}

/// # Errors
/// `Config`: always.
#[cfg(not(feature = "aws"))]
pub async fn printed(_: &[String], _: &Path, _: Duration) -> Result<Vec<u8>> {
    Err(unable())
}

#[cfg(not(feature = "aws"))]
fn unable() -> millstream_core::Error {
    millstream_core::Error::config("this build of Millstream can't do that: build it with the cargo feature `aws`")
}
