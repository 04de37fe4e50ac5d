//! The reference page of the pipeline file, `docs/pipeline-file.md`, rendered from the JSON Schema.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::named::{FIELD_TYPE, SECRET, SECRET_VALUE};
use crate::config::schema::document;
use crate::config::strict::tag_of;

const INTRODUCTION: &str = "\
# The pipeline file

<!-- Made from the JSON Schema by a test; `UPDATE_DOCS=1 cargo test -p millstream config` writes it again. -->

A pipeline is one YAML file. `millstream validate FILE` says everything that is wrong with it at once, with line, column
and what to write instead, and touches no network; `millstream schema` prints its JSON Schema, so that editors complete
it:

```yaml
# yaml-language-server: $schema=./pipeline.schema.json
```

* **Names** of entries are a lower-case letter, then letters, digits and `_`. Sources, transforms and tables need
  different names, because SQL and `from:` refer to them. The change stream of the table `news` is `news.changes`.
* **Variables**: `${NAME}` is replaced by the environment variable `NAME`, `${NAME:-text}` by `text` where it is not set
  or empty. They are replaced after the YAML was read, so a value can't add keys. A value that is nothing but one
  variable, without quotes, may be a number or `true`. `$$` is a dollar sign. `--env-file FILE` brings variables from a
  file, and `--set PATH=VALUE` a value for one run.
* **Durations** are a number and a unit: `500ms`, `30s`, `10m`, `1h`, `30d`. **Sizes** are bytes or a number and a unit:
  `512KiB`, `64MiB`, `1GiB`.
* **Secrets** (passwords, tokens, URLs with credentials) are never printed. Write a variable, or `${secret:NAME}` and below
  `secrets:` where `NAME` is kept: a file, a variable, what a command prints, AWS Secrets Manager. A secret is asked for
  when the file is read and a value refers to it. `validate` reads files and variables, but calls no command and no
  service; `validate --connect` does.
* **Paths** of files start from the folder of the pipeline file, or from the working directory where that comes by
  standard input (`-`).
* YAML anchors and aliases work. Merge keys (`<<`), tags and several documents in one file do not.
";

/// The page.
pub fn markdown() -> String {
    let page = Page { document: document() };
    let mut out = INTRODUCTION.to_owned();
    let root = page.document;
    let required = names(root, "required");
    for (name, section) in properties(root) {
        let needed = if required.contains(&name.as_str()) { " (required)" } else { "" };
        let _ = write!(out, "\n## `{name}`{needed}\n");
        if let Some(text) = text_of(section) {
            let _ = write!(out, "\n{text}\n");
        }
        let entry = page.resolve(section);
        let entry = entry.get("additionalProperties").filter(|e| e.is_object()).map_or(entry, |e| page.resolve(e));
        if let Some(variants) = entry.get("oneOf").and_then(Value::as_array) {
            page.variants(&mut out, name, variants);
        } else if entry.get("properties").is_some() {
            page.table(&mut out, entry, &|_| true);
        }
    }
    out
}

/// What there is to know about one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyDoc {
    /// The key, with those above it: `backoff.initial`.
    pub key: String,
    /// What may stand behind it, in a few words.
    pub value: String,
    /// Whether it must be there.
    pub required: bool,
    /// What holds where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// What it is for.
    pub text: String,
}

/// A type of sources or sinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Connector {
    /// `source` or `sink`.
    pub direction: &'static str,
    /// The value of `type`.
    pub name: String,
    /// What it is, in a sentence or two.
    pub text: String,
    /// Its keys: its own, and those that all of its direction have.
    pub options: Vec<KeyDoc>,
}

/// Every type of sources, then of sinks, in the order of the page.
pub fn connectors() -> Vec<Connector> {
    let page = Page { document: document() };
    let of = |direction: &'static str, section: &str| {
        let entries = page.resolve(&page.document["properties"][section]);
        let entry = page.resolve(&entries["additionalProperties"]);
        let variants: Vec<&Value> = branches(entry).map(|v| page.resolve(v)).collect();
        let describe = |variant: &&Value| Connector {
            direction,
            name: variant["properties"]["type"]["const"].as_str().unwrap_or_default().to_owned(),
            text: plain_text_of(variant).unwrap_or_default().replace('\n', " "),
            options: page.keys(variant, &|key| key != "type"),
        };
        variants.iter().map(describe).collect::<Vec<_>>()
    };
    [of("source", "sources"), of("sink", "sinks")].concat()
}

struct Page<'a> {
    document: &'a Value,
}

impl<'a> Page<'a> {
    /// Entries told apart by `type`: first the keys that all have, then each type's own.
    fn variants(&self, out: &mut String, section: &str, variants: &'a [Value]) {
        let variants: Vec<&Value> = variants.iter().map(|v| self.resolve(v)).collect();
        let tag = tag_of(&variants).unwrap_or("type");
        let common = |key: &str| {
            let mut schemas = variants.iter().map(|v| v["properties"].get(key));
            let first = schemas.next().flatten();
            first.is_some() && schemas.all(|s| s == first)
        };
        if properties(variants[0]).any(|(key, _)| common(key)) {
            let _ = write!(out, "\nKeys of every entry:\n");
            self.table(out, variants[0], &common);
        }
        for variant in &variants {
            let kind = variant["properties"][tag]["const"].as_str().unwrap_or_default();
            let _ = write!(out, "\n### {section}: `{tag}: {kind}`\n");
            if let Some(text) = text_of(variant) {
                let _ = write!(out, "\n{text}\n");
            }
            if properties(variant).any(|(key, _)| key != tag && !common(key)) {
                self.table(out, variant, &|key| key != tag && !common(key));
            }
        }
    }

    fn table(&self, out: &mut String, object: &'a Value, wanted: &dyn Fn(&str) -> bool) {
        out.push_str("\n| key | value | |\n|---|---|---|\n");
        for KeyDoc { key, value, required, default, text } in self.keys(object, wanted) {
            let needed = if required { "**Required.** " } else { "" };
            let default = default.map_or(String::new(), |default| format!(" Default: `{default}`."));
            let text = text.replace('|', "\\|");
            let _ = writeln!(out, "| `{key}` | {value} | {needed}{text}{default} |");
        }
    }

    fn keys(&self, object: &'a Value, wanted: &dyn Fn(&str) -> bool) -> Vec<KeyDoc> {
        let mut keys = Vec::new();
        self.add_keys(&mut keys, object, "", wanted, 0);
        keys
    }

    fn add_keys(
        &self,
        keys: &mut Vec<KeyDoc>,
        object: &'a Value,
        prefix: &str,
        wanted: &dyn Fn(&str) -> bool,
        depth: usize,
    ) {
        let required = names(object, "required");
        for (key, schema) in properties(object).filter(|(key, _)| wanted(key)) {
            let path = format!("{prefix}{key}");
            let text = plain_text_of(schema).or_else(|| plain_text_of(self.resolve(schema))).unwrap_or_default();
            let default = match schema.get("default").map(|d| (d, d.to_string())) {
                Some((Value::String(text), _)) if !text.is_empty() => Some(text.clone()),
                Some((Value::Bool(_) | Value::Number(_), text)) => Some(text),
                _ => None,
            };
            keys.push(KeyDoc {
                key: path.clone(),
                value: self.kind(schema),
                required: required.contains(&key.as_str()),
                default,
                text: text.replace('\n', " "),
            });
            if depth < 3
                && let Some((nested, list)) = self.nested(schema)
            {
                self.add_keys(keys, nested, &format!("{path}{list}."), &|_| true, depth + 1);
            }
        }
    }

    /// The map with keys of its own that a value may be, or may be a list of.
    fn nested(&self, schema: &'a Value) -> Option<(&'a Value, &'static str)> {
        // The only type that is made of itself.
        if definition(schema) == Some(FIELD_TYPE) {
            return None;
        }
        let schema = self.resolve(schema);
        if schema.get("properties").is_some() {
            return Some((schema, ""));
        }
        if let Some(items) = schema.get("items") {
            return self.nested(items).map(|(nested, _)| (nested, "[]"));
        }
        if let Some(other) = schema.get("additionalProperties").filter(|s| s.is_object()) {
            return self.nested(other).map(|(nested, _)| (nested, ".NAME"));
        }
        branches(schema).find_map(|branch| self.nested(branch))
    }

    /// The kind of a value in a few words.
    fn kind(&self, schema: &'a Value) -> String {
        match definition(schema) {
            Some("Duration") => return "duration".into(),
            Some("ByteSize") => return "size".into(),
            Some(SECRET) => return "secret".into(),
            Some(SECRET_VALUE) => return "anything, secret".into(),
            Some(FIELD_TYPE) => return "type".into(),
            _ => {}
        }
        if is_option(schema) {
            return or(branches(schema).filter(|b| b["type"] != "null").map(|b| self.kind(b)).collect());
        }
        let schema = self.resolve(schema);
        if let Some(value) = schema.get("const").and_then(Value::as_str) {
            return format!("`{value}`");
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            return or(values.iter().filter_map(Value::as_str).map(|v| format!("`{v}`")).collect());
        }
        let kinds: Vec<String> = branches(schema).map(|b| self.kind(b)).collect();
        if !kinds.is_empty() {
            return or(kinds);
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).filter(|k| *k != "null").collect(),
            _ => return "anything".into(),
        };
        or(kinds.into_iter().map(|kind| self.plain_kind(kind, schema)).collect())
    }

    fn plain_kind(&self, kind: &str, schema: &'a Value) -> String {
        match (kind, schema.get("items"), schema.get("additionalProperties").filter(|s| s.is_object())) {
            ("array", Some(items), _) => format!("list of {}", self.kind(items)),
            ("object", _, Some(other)) => format!("map of names to {}", self.kind(other)),
            ("array", ..) => "list".into(),
            ("object", ..) => "map".into(),
            ("string", ..) => "text".into(),
            ("integer", ..) => "whole number".into(),
            ("boolean", ..) => "`true` or `false`".into(),
            (other, ..) => other.to_owned(),
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        loop {
            let next = match definition(schema) {
                Some(name) => self.document.get("$defs").and_then(|defs| defs.get(name)),
                None => branches(schema)
                    .find(|b| b["type"] != "null")
                    .filter(|_| branches(schema).count() == 2 && is_option(schema)),
            };
            match next {
                Some(next) => schema = next,
                None => return schema,
            }
        }
    }
}

/// The name of the definition that a schema refers to.
fn definition(schema: &Value) -> Option<&str> {
    schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix("#/$defs/"))
}

/// True for "this or null".
fn is_option(schema: &Value) -> bool {
    branches(schema).any(|b| b["type"] == "null")
}

fn branches(schema: &Value) -> impl Iterator<Item = &Value> {
    schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array).into_iter().flatten()
}

fn properties(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn names<'v>(object: &'v Value, key: &str) -> Vec<&'v str> {
    object.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn text_of(schema: &Value) -> Option<String> {
    plain_text_of(schema).map(|text| text.replace('|', "\\|"))
}

fn plain_text_of(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str)
}

fn or(mut kinds: Vec<String>) -> String {
    kinds.dedup();
    match kinds.len() {
        0 => "anything".into(),
        1 => kinds.remove(0),
        n => format!("{} or {}", kinds[..n - 1].join(", "), kinds[n - 1]),
    }
}
