//! Which format suits which source: a combination that would make every record a dead letter is refused here.
//!
//! | source | json | csv | text | raw | xml |
//! |---|---|---|---|---|---|
//! | `file` | lines | rows | lines | whole files | whole files |
//! | `http` | bodies are split | bodies are split | lines | whole bodies | whole bodies |
//! | `feed` | yes: an entry is a JSON object | no | the object's text | its bytes | no |
//! | `websocket` | yes | without a header | yes | yes | yes |
//! | `http_stream` | yes | without a header | yes | yes | yes |
//!
//! An `envelope` goes with json, and not with a feed.

use millstream_connectors::format::{self, DecodeConfig};
use millstream_connectors::source::SourceConfig;
use millstream_core::StreamSchema;

/// Why no record of this source could be decoded, and what to write instead; `None` where they can.
pub(super) fn refused(connector: &SourceConfig, decode: &DecodeConfig) -> Option<(String, String)> {
    match (connector, decode) {
        (SourceConfig::Feed(_), DecodeConfig::Csv(_) | DecodeConfig::Xml(_)) => Some((
            "a source of `type: feed` reads the documents itself and hands over their entries, so there is no document \
             left to decode"
                .into(),
            "leave `decode` out: the fields are in docs/decoding.md, and `schema` may choose among them".into(),
        )),
        (SourceConfig::Feed(_), _) if format::envelope(decode).is_some() => Some((
            "the entries of a feed are no change events of a database".into(),
            "leave `envelope` out".into(),
        )),
        (SourceConfig::Websocket(_) | SourceConfig::HttpStream(_), DecodeConfig::Csv(csv))
            if csv.dialect.header =>
        Some((
            format!(
                "a source of `type: {}` reads one row at a time, and none of them is a header that names the columns",
                connector.kind()
            ),
            "write `decode: { format: csv, header: false, columns: [first, second, …] }`".into(),
        )),
        (SourceConfig::HttpStream(_), _) if is_utf16(decode) => Some((
            "a source of `type: http_stream` cuts lines before it looks at characters, and in UTF-16 a line end is two \
             bytes"
                .into(),
            "leave `encoding` out, or name one in which a line end is one byte".into(),
        )),
        (
            SourceConfig::File(_)
            | SourceConfig::Http(_)
            | SourceConfig::Feed(_)
            | SourceConfig::Websocket(_)
            | SourceConfig::HttpStream(_),
            _,
        ) => None,
    }
}

/// The fields of a source's rows: as declared, or as the source or its format says by itself.
///
/// # Errors
/// What is declared does not fit, or nothing is and something must be; the message says what to write.
pub(super) fn fields(
    connector: &SourceConfig,
    decode: &DecodeConfig,
    declared: Option<&StreamSchema>,
) -> Result<StreamSchema, String> {
    match (connector, decode) {
        (SourceConfig::Feed(_), DecodeConfig::Json(_)) => format::feed::record_schema(declared),
        _ => format::effective_schema(decode, declared),
    }
}

fn is_utf16(decode: &DecodeConfig) -> bool {
    format::encoding(decode).is_some_and(format::TextEncoding::is_utf16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(kind: &str) -> SourceConfig {
        let json = match kind {
            "file" => serde_json::json!({"type": "file", "path": "x"}),
            "http" => serde_json::json!({"type": "http"}),
            "websocket" => serde_json::json!({"type": "websocket", "url": "wss://a.example/"}),
            _ => serde_json::json!({"type": kind, "url": "https://a.example/"}),
        };
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_combination_of_a_source_and_a_format_works_or_is_refused() {
        let formats = [
            (r#""json""#, &[][..]),
            (r#"{"format":"json","envelope":"debezium"}"#, &["feed"]),
            (r#""csv""#, &["feed", "websocket", "http_stream"]),
            (r#"{"format":"csv","header":false}"#, &["feed"]),
            (r#""text""#, &[]),
            (r#""raw""#, &[]),
            (r#"{"format":"xml","preset":"feed"}"#, &["feed"]),
            (r#"{"format":"xml","preset":"newsml-g2"}"#, &["feed"]),
            (r#"{"format":"xml","fields":{"a":"b"}}"#, &["feed"]),
        ];
        for (decode, wanted) in formats {
            let config: DecodeConfig = serde_json::from_str(decode).unwrap();
            let all = ["file", "http", "feed", "websocket", "http_stream"];
            let found: Vec<_> = all.into_iter().filter(|kind| refused(&source(kind), &config).is_some()).collect();
            assert_eq!(found, wanted, "{decode}");
        }
    }

    #[test]
    fn a_feed_has_its_fields_by_itself_and_a_schema_chooses_among_them() {
        let json = DecodeConfig::default();
        let all = fields(&source("feed"), &json, None).unwrap();
        assert_eq!(all, format::feed::entry_schema());
        let chosen = StreamSchema { fields: vec![all.field("title").unwrap().clone()] };
        assert_eq!(fields(&source("feed"), &json, Some(&chosen)), Ok(chosen.clone()));
        let mut unknown = chosen.clone();
        unknown.fields[0].name = "titel".into();
        assert!(fields(&source("feed"), &json, Some(&unknown)).unwrap_err().contains("no field `titel`"));
        assert!(fields(&source("http"), &json, None).is_err());
    }
}
