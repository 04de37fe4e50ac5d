//! Templates of sinks, and values in them: what a value may not change, it does not change.

#![no_main]

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_connectors::template::{Place, Template};
use millstream_core::decode::{Decoder, RawBatch};

static DECODER: LazyLock<Arc<dyn Decoder>> = LazyLock::new(|| millstream_fuzz::decoders().swap_remove(0));

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    let schema = DECODER.schema();
    let _ = Template::parse(text, &schema).map(|template| format!("{template:?}"));

    let record = serde_json::json!({ "id": value, "tags": [value], "doc": { "a": value } }).to_string();
    let rows = DECODER.decode(&RawBatch::single(Bytes::from(record), "fuzz".into())).batch;
    if rows.num_rows() == 0 {
        return;
    }
    for whole in ["https://a.example/b/{id}/c?q={id}#f", text] {
        let Ok(template) = Template::parse(whole, &schema) else { continue };
        let Ok(bound) = template.bind(&rows) else { continue };
        for place in [Place::Text, Place::Url, Place::ShortString] {
            let rendered = bound.render_for(place, 0);
            if let (Ok(url), Place::Url, true) = (rendered, place, whole != text) {
                let path = url.strip_prefix("https://a.example/b/").expect("the same host");
                assert_eq!(path.split(['?', '#']).next().map(|path| path.split('/').count()), Some(2), "{url}");
                assert!(!url.contains(['\n', '\r', ' ']), "{url}");
            }
        }
    }
});
