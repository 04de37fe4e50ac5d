//! What a sink would send, without opening it: for `millstream try`.

use arrow::array::RecordBatch;
use millstream_core::json::RowWriter;
use millstream_core::{Error, Result};
use serde::Serialize;

use crate::sink::{Payload, SinkConfig};
use crate::template::{Place, Template};

/// One row as a sink would send it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Where to, in words. Of a URL only scheme, host, and what columns are filled into: the rest may be a secret.
    pub to: String,
    /// The body, the message or the line.
    pub body: String,
}

/// What the sink would send for the rows of `batch`, rows that it leaves out left out.
///
/// # Errors
/// A template does not fit the columns, which the check of the pipeline file should have found.
pub fn preview(config: &SinkConfig, batch: &RecordBatch) -> Result<Vec<Preview>> {
    let image = match config {
        SinkConfig::Amqp(config) => config.image,
        SinkConfig::Http(config) => config.image,
        SinkConfig::File(config) => config.image,
        SinkConfig::Stdout(config) => config.image,
    };
    let payload = Payload::of(batch, image)?;
    let writer = RowWriter::bind(&payload.batch)?;
    let bodies = (0..payload.rows.len()).map(|row| {
        let mut body = Vec::new();
        writer.write(row, &mut body);
        String::from_utf8_lossy(&body).into_owned()
    });
    let bodies: Vec<String> = match config {
        SinkConfig::Stdout(config) if config.template.is_some() => {
            rendered(config.template.as_deref().unwrap_or_default(), batch, &payload.rows, Place::Text)?
        }
        _ => bodies.collect(),
    };
    let to = destinations(config, batch, &payload.rows)?;
    Ok(to.into_iter().zip(bodies).map(|(to, body)| Preview { to, body }).collect())
}

fn destinations(config: &SinkConfig, batch: &RecordBatch, rows: &[u32]) -> Result<Vec<String>> {
    Ok(match config {
        SinkConfig::Amqp(config) => {
            let keys = rendered(&config.routing_key, batch, rows, Place::RoutingKey)?;
            keys.iter().map(|key| format!("exchange `{}`, routing key `{key}`", config.exchange)).collect()
        }
        SinkConfig::Http(config) => {
            let url = config.url.expose();
            let method = match config.method {
                crate::http::HttpMethod::Post => "POST",
                crate::http::HttpMethod::Put => "PUT",
                crate::http::HttpMethod::Patch => "PATCH",
            };
            let host = host(url.split('{').next().unwrap_or_default());
            let template = Template::parse(url, batch.schema_ref(), Place::Url).map_err(Error::config)?;
            let bound = template.bind(batch)?;
            // Filled-in columns are not secret; what stands around them may be.
            let path = |&row: &u32| match bound.render_hidden(row as usize) {
                Ok(path) => format!("{method} {host}/{path}"),
                Err(why) => format!("nowhere: `url` {why}"),
            };
            rows.iter().map(path).collect()
        }
        SinkConfig::File(config) => {
            let folder = config.folder.clone();
            rows.iter().map(|_| format!("a file in {folder}")).collect()
        }
        SinkConfig::Stdout(_) => rows.iter().map(|_| "standard output".to_owned()).collect(),
    })
}

/// Scheme and host, without user, password and path.
fn host(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

fn rendered(template: &str, batch: &RecordBatch, rows: &[u32], place: Place) -> Result<Vec<String>> {
    let template = Template::parse(template, batch.schema_ref(), place).map_err(Error::config)?;
    let bound = template.bind(batch)?;
    let text = |&row: &u32| bound.render(row as usize).unwrap_or_else(|why| format!("none: it {why}"));
    Ok(rows.iter().map(text).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn rows() -> RecordBatch {
        let ids = Arc::new(Int64Array::from(vec![7, 8])) as _;
        let names = Arc::new(StringArray::from(vec!["ann", "bo"])) as _;
        RecordBatch::try_from_iter([("id", ids), ("name", names)]).unwrap()
    }

    fn of(yaml: serde_json::Value) -> Vec<Preview> {
        preview(&serde_json::from_value(yaml).unwrap(), &rows()).unwrap()
    }

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        let url = "https://me:pw@host.example/token/x/{id}";
        let sent = of(serde_json::json!({ "type": "http", "url": url, "method": "PUT" }));
        assert_eq!(sent[1].to, "PUT https://host.example/***8");
        assert_eq!(sent[1].body, r#"{"id":8,"name":"bo"}"#);
        let sent = of(serde_json::json!({ "type": "http", "url": "https://host.example/{id}?key=secret" }));
        assert_eq!(sent[0].to, "POST https://host.example/***7***");
        let sent = of(serde_json::json!({ "type": "http", "url": "https://host.example/hook?key=secret" }));
        assert_eq!(sent[0].to, "POST https://host.example/***");
    }

    #[test]
    fn routing_keys_and_lines_are_rendered() {
        let amqp = serde_json::json!({ "type": "amqp", "url": "amqp://h", "exchange": "e", "routing_key": "a.{name}" });
        let sent = of(amqp);
        assert_eq!(sent[0].to, "exchange `e`, routing key `a.ann`");
        let sent = of(serde_json::json!({ "type": "stdout", "format": "text", "template": "{id}: {name}" }));
        assert_eq!(sent.iter().map(|s| s.body.as_str()).collect::<Vec<_>>(), ["7: ann", "8: bo"]);
    }
}
