//! Templates of sinks, and values in them: what a value may not change, it does not change.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_connectors::template::{Place, Template};
use millstream_core::decode::{Decoder, RawBatch};

static DECODER: LazyLock<Arc<dyn Decoder>> = LazyLock::new(|| millstream_fuzz::decoders().swap_remove(0));

const PLACES: [Place; 7] = [
    Place::Text,
    Place::TerminalLine,
    Place::Url,
    Place::RoutingKey,
    Place::MessageHeader,
    Place::HttpHeader,
    Place::FileName,
];

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    let schema = DECODER.schema();
    let record = serde_json::json!({ "id": value, "tags": [value], "doc": { "a": value } }).to_string();
    let rows = DECODER.decode(&RawBatch::single(Bytes::from(record), "fuzz".into())).batch;
    if rows.num_rows() == 0 {
        return;
    }
    for place in PLACES {
        if let Ok(template) = Template::parse(text, &schema, place)
            && let Ok(bound) = template.bind(&rows)
        {
            let _ = bound.render(0);
        }
        let fixed = match place {
            Place::Url => "https://a.example/b/{id}/c?q={id}#f",
            _ => "a/{id}",
        };
        let Ok(template) = Template::parse(fixed, &schema, place) else { continue };
        let Ok(bound) = template.bind(&rows) else { continue };
        let Ok(rendered) = bound.render(0) else { continue };
        match place {
            Place::Url => {
                let path = rendered.strip_prefix("https://a.example/b/").expect("the same host");
                assert_eq!(path.split(['?', '#']).next().map(|path| path.split('/').count()), Some(2), "{rendered}");
                assert!(!rendered.contains(['\n', '\r', ' ']), "{rendered}");
            }
            Place::FileName => assert_eq!(rendered.split('/').count(), 2, "{rendered}"),
            Place::HttpHeader | Place::TerminalLine => assert!(!rendered.contains(['\n', '\r']), "{rendered}"),
            _ => {}
        }
    }
});
