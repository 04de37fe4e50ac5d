//! The JSON Schema of the pipeline file, and its reference page, both from the types in `raw.rs` and in the connectors.

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::config::raw::RawPipeline;

/// The JSON Schema (draft 2020-12) of a pipeline file.
pub fn json_schema() -> Value {
    document().clone()
}

/// The same, made once.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<RawPipeline>();
        let mut document = schema.to_value();
        close(&mut document);
        document["title"] = json!("Millstream pipeline");
        document
    });
    &DOCUMENT
}

/// Makes every object with named keys refuse others, and puts keys that stand beside a `oneOf` into its branches.
fn close(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Object(map) => {
            distribute(map);
            if map.get("properties").is_some_and(Value::is_object) && !map.contains_key("additionalProperties") {
                map.remove("unevaluatedProperties");
                map.insert("additionalProperties".into(), Value::Bool(false));
            }
            for (key, value) in map.iter_mut() {
                // A default or an example is no schema.
                if !matches!(key.as_str(), "default" | "const" | "enum" | "examples") {
                    close(value);
                }
            }
        }
        _ => {}
    }
}

fn distribute(map: &mut Map<String, Value>) {
    let beside = map.get("properties").is_some_and(Value::is_object) && map.get("oneOf").is_some_and(Value::is_array);
    if !beside {
        return;
    }
    let shared = map.remove("properties").unwrap_or_default();
    let required = map.remove("required").and_then(|r| r.as_array().cloned()).unwrap_or_default();
    for key in ["type", "additionalProperties", "unevaluatedProperties"] {
        map.remove(key);
    }
    let Some(Value::Array(branches)) = map.get_mut("oneOf") else { return };
    for branch in branches.iter_mut().filter_map(Value::as_object_mut) {
        let properties = branch.entry("properties").or_insert_with(|| json!({}));
        if let (Some(own), Some(shared)) = (properties.as_object_mut(), shared.as_object()) {
            own.extend(shared.iter().map(|(k, v)| (k.clone(), v.clone())));
        }
        if let Some(own) = branch.entry("required").or_insert_with(|| json!([])).as_array_mut() {
            own.extend(required.iter().cloned());
        }
    }
}
