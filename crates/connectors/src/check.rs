//! What is wrong with a connector's settings, and the checks that several connectors share. Pure: they look at neither
//! disk nor network.

use std::path::Path;

use arrow::datatypes::Schema;
use millstream_core::units::unencoded_user_info;
use millstream_core::{ByteSize, HumanDuration};
use url::Url;

use crate::template::{Place, Template};

/// What to say of a URL whose user or password is not encoded.
pub(crate) const ENCODE_PASSWORD: &str = "has a character in its user or password that must be encoded: encode the \
    password (`@` as %40, `/` as %2F, `%` as %25, `#` as %23, `?` as %3F)";

/// No record may be larger than this, whatever the settings.
const MAX_RECORD_LIMIT: u64 = 1 << 30;

/// The largest record where the settings do not say: 16 MiB.
pub(crate) fn default_max_record() -> ByteSize {
    ByteSize(16 << 20)
}

/// Something that is wrong with some settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `urls[1]`, `backoff.max`.
    pub field: String,
    /// What, as the rest of a sentence that begins with the field.
    pub message: String,
}

/// Collects what is wrong with some settings.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem { field: field.into(), message: message.into() });
    }

    /// What the checks came to: the settings as `checked` has them, where nothing is wrong.
    ///
    /// # Errors
    /// Every problem, in the order found.
    pub(crate) fn finish<T>(mut self, checked: impl FnOnce() -> Option<T>) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() {
            match checked() {
                Some(checked) => return Ok(checked),
                // Whoever leaves something out has said why.
                None => self.add("type", "can't be used with these settings, and nothing says why: report this"),
            }
        }
        Err(self.0)
    }

    pub(crate) fn check_not_zero(&mut self, field: &str, value: HumanDuration) {
        if value.0.is_zero() {
            self.add(field, "is zero");
        }
    }

    pub(crate) fn check_range(&mut self, field: &str, value: u32, min: u32, max: u32) {
        if !(min..=max).contains(&value) {
            self.add(field, format!("is {value}: write {min} to {max}"));
        }
    }

    pub(crate) fn check_max_record(&mut self, value: ByteSize) {
        if value.0 == 0 {
            self.add("max_record", "is zero: no record would pass");
        } else if value.0 > MAX_RECORD_LIMIT {
            self.add("max_record", format!("is above {}: a record is held in memory", ByteSize(MAX_RECORD_LIMIT)));
        }
    }

    /// The address, where it is one.
    pub(crate) fn check_url(&mut self, field: impl Into<String>, text: &str, schemes: &[&str]) -> Option<Url> {
        let field = field.into();
        let schemes_text = schemes.iter().map(|s| format!("{s}://")).collect::<Vec<_>>().join(" or ");
        if unencoded_user_info(text) {
            self.add(field, ENCODE_PASSWORD);
            return None;
        }
        match Url::parse(text) {
            // The text itself may hold a token, so it is not repeated.
            Err(e) => self.add(field, format!("is no URL ({e}): write {schemes_text} and a host")),
            Ok(url) if !schemes.contains(&url.scheme()) => {
                self.add(
                    field,
                    format!("begins with {}://, which this source does not speak: use {schemes_text}", url.scheme()),
                );
            }
            Ok(url) => return Some(url),
        }
        None
    }

    /// The template, where it fits the columns.
    pub(crate) fn check_template(
        &mut self,
        field: impl Into<String>,
        text: &str,
        schema: &Schema,
        place: Place,
    ) -> Option<Template> {
        Template::parse(text, schema, place).map_err(|message| self.add(field, message)).ok()
    }
}

/// A path of a pipeline file, which starts from the folder of the file.
pub(crate) fn resolved(base: &Path, path: &str) -> String {
    if path.is_empty() || Path::new(path).is_absolute() || base.as_os_str().is_empty() {
        return path.to_owned();
    }
    let relative = path.strip_prefix("./").unwrap_or(path);
    base.join(relative).to_string_lossy().into_owned()
}
