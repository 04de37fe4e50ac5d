//! Asking for the secrets of a pipeline file, where they are kept.

use std::cell::Cell;
use std::time::Duration;

use millstream_core::{Error, Result, Secret};
use millstream_models::secrets::{Managed, managed, printed};

use crate::config::secrets::{CommandSecret, ManagedSecret, SecretConfig};

const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// A larger file is no secret.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Asks for secrets.
pub struct Asker<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    /// Whether commands and services may be called.
    calls: bool,
    /// How often one of them did not answer: trying again may help.
    away: Cell<usize>,
}

impl<'a> Asker<'a> {
    /// Asks everywhere; variables are those of `env`.
    pub fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { env, calls: true, away: Cell::new(0) }
    }

    /// Reads variables and files only, unless `calls`.
    #[must_use]
    pub fn calling(self, calls: bool) -> Self {
        Self { calls, ..self }
    }

    /// How many commands and services have failed in a way that may pass, since this was asked last.
    pub fn take_away(&self) -> usize {
        self.away.take()
    }

    /// The secret; none where it may not be asked for.
    ///
    /// # Errors
    /// `Config`, `Environment`: it is not there. `Retry`: it may be later. Never what was read.
    pub fn ask(&self, secret: &SecretConfig) -> Result<Option<Secret>> {
        let text = match secret {
            SecretConfig::File(file) => {
                let path = file.path.display();
                let size = std::fs::metadata(&file.path).map(|meta| meta.len());
                let bytes = match size {
                    Ok(size) if size > FILE_BYTES_MAX => {
                        return Err(Error::config(format!("{path} is too large for one")));
                    }
                    _ => std::fs::read(&file.path).map_err(|e| Error::config(format!("{path} can't be read: {e}")))?,
                };
                text(bytes, &format!("{path}"))?
            }
            SecretConfig::Env(variable) => {
                let name = &variable.name;
                let value = (self.env)(name);
                value.ok_or_else(|| Error::config(format!("the environment variable `{name}` is not set")))?
            }
            SecretConfig::Command(_) | SecretConfig::AwsSecretsManager(_) if !self.calls => return Ok(None),
            SecretConfig::Command(command) => self.called(run(command))?,
            SecretConfig::AwsSecretsManager(secret) => self.called(of_aws(secret))?,
        };
        let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(Error::config("it is empty"));
        }
        Ok(Some(Secret::new(text)))
    }

    /// Waits on a thread of its own: a pipeline file is read by code that does not await.
    fn called(&self, call: impl Future<Output = Result<String>> + Send) -> Result<String> {
        let called = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(call)
            });
            waiting.join().unwrap_or_else(|_| Err(Error::bug("asking for a secret panicked")))
        });
        self.away.set(self.away.get() + usize::from(called.as_ref().is_err_and(Error::is_retry)));
        called
    }
}

async fn run(command: &CommandSecret) -> Result<String> {
    let timeout = command.timeout.map_or(COMMAND_TIMEOUT, |timeout| timeout.0);
    let bytes = printed(&command.command, &command.folder, timeout).await?;
    text(bytes, "what the command prints")
}

async fn of_aws(secret: &ManagedSecret) -> Result<String> {
    let ManagedSecret { id, field, version_stage, region, endpoint_url } = secret.clone();
    managed(&Managed { id, field, version_stage, region, endpoint_url }).await
}

fn text(bytes: Vec<u8>, what: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::config(format!("{what} is no text (UTF-8)")))
}
