//! Checks a tree against a JSON Schema and says everything that is wrong with it, in the words of the file.
//!
//! It reads the schemas that `schema.rs` makes, not any schema: unions are told apart by a constant key such as
//! `type`, by the kind of the value (text, map, list), or by the keys that are there. Keys that an object does not name
//! are errors. Where a text is expected and a variable gave a number or a bool, the text is taken.

mod values;

use serde_json::Value;

use crate::config::diagnostics::{Problem, Secrets, suggestion};
use crate::config::named::{NAMED_TYPES, SECRETS};
use crate::config::tree::{Content, Entry, Node, Place};
use millstream_core::names::nearest;
use values::{found, kind_name, matches, named_problem, names_of, or, scalar_problem};

/// What the check found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Everything that must not be shown.
    pub secrets: Secrets,
}

/// Checks `root` against `schema`, a document with `$defs`.
pub fn check(root: &mut Node, schema: &Value) -> Findings {
    let mut walk = Walk { document: schema, findings: Findings::default() };
    walk.visit(root, schema, &Spot { name: "the file", path: "", place: &root.place.clone() });
    walk.findings
}

/// Where the walk is, for messages.
#[derive(Clone, Copy)]
struct Spot<'a> {
    /// The key or item, as messages name it.
    name: &'a str,
    /// The way to it: `sources.wire`.
    path: &'a str,
    /// Where a missing key is reported: at the key that holds the map.
    place: &'a Place,
}

struct Walk<'a> {
    document: &'a Value,
    findings: Findings,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, node: &mut Node, schema: &'a Value, spot: &Spot<'_>) {
        let (schema, definition) = self.resolve(schema);
        if definition.is_some_and(|name| SECRETS.contains(&name)) || has_credentials(node) {
            self.hide(node);
        }
        if let Some((message, help)) = named_problem(node, definition, spot.name) {
            return self.error(&node.place, message, help);
        }
        if let Some(branches) = alternatives(schema) {
            return self.visit_union(node, schema, branches, spot);
        }
        if is_empty_section(node, schema) {
            node.content = Content::Map(Vec::new());
        }
        if !self.has_type(node, schema) {
            return self.wrong_type(node, schema, spot);
        }
        let typed = node.typed();
        match &mut node.content {
            Content::Map(_) => self.visit_map(node, schema, spot),
            Content::List(items) => self.visit_list(items, schema, spot, &node.place),
            Content::Scalar(scalar) => {
                let problem = scalar_problem(scalar, &typed, schema, definition, spot.name);
                if let Some((message, help)) = problem {
                    self.error(&node.place, message, help);
                }
            }
        }
    }

    fn error(&mut self, place: &Place, message: impl Into<String>, help: Option<String>) {
        self.findings.problems.push(Problem::error(place, message, help));
    }

    /// Follows references; the second value is the name of the last definition.
    fn resolve(&self, schema: &'a Value) -> (&'a Value, Option<&'a str>) {
        let (mut schema, mut definition) = (schema, None);
        loop {
            let next = match (schema.get("$ref").and_then(Value::as_str), schema.get("allOf").and_then(Value::as_array))
            {
                (Some(reference), _) => {
                    definition = reference.strip_prefix("#/$defs/");
                    definition.and_then(|name| self.document.get("$defs")?.get(name))
                }
                (None, Some(all)) if all.len() == 1 => all.first(),
                _ => None,
            };
            let Some(next) = next else { return (schema, definition) };
            schema = next;
        }
    }

    fn visit_map(&mut self, node: &mut Node, schema: &'a Value, spot: &Spot<'_>) {
        let Content::Map(entries) = &mut node.content else { return };
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|s| s.is_object());
        let open = properties.is_none() || schema.get("additionalProperties") == Some(&Value::Bool(true));
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let known: Vec<&str> = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str).collect();
        let present: Vec<String> = entries.iter().map(|e| e.key.clone()).collect();
        let missing: Vec<&str> = known.iter().copied().filter(|k| !present.iter().any(|p| p == k)).collect();
        for name in &required {
            let misspelt = others.is_none()
                && present
                    .iter()
                    .any(|p| !known.contains(&p.as_str()) && nearest(p, missing.iter().copied()) == Some(name));
            if !misspelt && !entries.iter().any(|e| e.key == **name) {
                let about = properties.and_then(|p| p.get(*name)).and_then(|p| self.description(p));
                let of = if spot.path.is_empty() { String::new() } else { format!(" in `{}`", spot.path) };
                self.error(
                    spot.place,
                    format!("missing key `{name}`{of}"),
                    about.map(|text| format!("`{name}`: {text}")),
                );
            }
        }
        for entry in entries.iter_mut() {
            let path = if spot.path.is_empty() { entry.key.clone() } else { format!("{}.{}", spot.path, entry.key) };
            match (properties.and_then(|p| p.get(&entry.key)), others) {
                (Some(property), _) => {
                    self.visit_property(entry, property, required.contains(&entry.key.as_str()), &path)
                }
                (None, Some(other)) => {
                    self.check_name(entry, schema);
                    self.visit_property(entry, other, true, &path);
                }
                (None, None) if open => {}
                (None, None) => {
                    // A mistyped key of a secret has a secret behind it.
                    let meant = nearest(&entry.key, missing.iter().copied());
                    self.hide_by_name(&mut entry.value, meant.filter(|key| looks_secret(key)).unwrap_or(&entry.key));
                    let help = moved(spot.path, &entry.key);
                    let help = help.or_else(|| suggestion(&entry.key, "there are", &missing));
                    self.error(&entry.place, format!("unknown key `{}`", entry.key), help);
                }
            }
        }
    }

    fn visit_property(&mut self, entry: &mut Entry, property: &'a Value, required: bool, path: &str) {
        if entry.value.is_null() && !required && !self.accepts_null(property) {
            let help = Some("give it a value, or remove the key".to_owned());
            return self.error(&entry.place, format!("nothing is written behind `{}`", entry.key), help);
        }
        let spot = Spot { name: &format!("`{}`", entry.key), path, place: &entry.place };
        self.visit(&mut entry.value, property, &spot);
    }

    fn accepts_null(&self, schema: &'a Value) -> bool {
        let (schema, _) = self.resolve(schema);
        let null = Value::String("null".into());
        match schema.get("type") {
            Some(Value::Array(types)) => types.contains(&null),
            Some(kind) => *kind == null || (kind == "object" && is_section(schema)),
            None => alternatives(schema).is_none_or(|all| all.iter().any(|s| self.accepts_null(s))),
        }
    }

    fn check_name(&mut self, entry: &Entry, schema: &Value) {
        let Some(names) = schema.get("propertyNames") else { return };
        let fits = names.get("pattern").and_then(Value::as_str).is_none_or(|p| matches(p, &entry.key));
        let short =
            names.get("maxLength").and_then(Value::as_u64).is_none_or(|max| entry.key.chars().count() as u64 <= max);
        if !fits || !short {
            let help = names.get("description").and_then(Value::as_str).map(|d| format!("write {d}"));
            self.error(&entry.place, format!("`{}` can't be a name", entry.key), help);
        }
    }

    fn visit_list(&mut self, items: &mut [Node], schema: &'a Value, spot: &Spot<'_>, place: &Place) {
        let min = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0);
        let max = schema.get("maxItems").and_then(Value::as_u64).unwrap_or(u64::MAX);
        let count = items.len() as u64;
        if count < min || count > max {
            let wanted = if min == max {
                format!("exactly {min}")
            } else if count < min {
                format!("at least {min}")
            } else {
                format!("at most {max}")
            };
            self.error(
                place,
                format!(
                    "{} must have {wanted} item{}, not {count}",
                    spot.name,
                    if wanted.ends_with(" 1") { "" } else { "s" }
                ),
                None,
            );
        }
        let Some(item_schema) = schema.get("items") else { return };
        for (i, item) in items.iter_mut().enumerate() {
            let name = format!("`{}[{i}]`", spot.name.trim_matches('`'));
            let path = format!("{}[{i}]", spot.path);
            let place = item.place.clone();
            self.visit(item, item_schema, &Spot { name: &name, path: &path, place: &place });
        }
    }

    fn visit_union(&mut self, node: &mut Node, schema: &'a Value, branches: &'a [Value], spot: &Spot<'_>) {
        if let Some(names) = names_of(branches) {
            return self.visit_choice(node, &names, spot);
        }
        let fitting: Vec<&'a Value> = branches.iter().filter(|b| self.has_type(node, self.resolve(b).0)).collect();
        match (fitting.as_slice(), &node.content) {
            ([], _) => self.wrong_type(node, schema, spot),
            ([only], _) => self.visit(node, only, spot),
            (several, Content::Map(_)) => self.visit_variant(node, several, spot),
            (several, _) => {
                // Several could be meant: the first that fits, else what the first one says.
                let fits = several.iter().find(|s| {
                    let mut trial = Walk { document: self.document, findings: Findings::default() };
                    trial.visit(&mut node.clone(), s, spot);
                    trial.findings.problems.is_empty()
                });
                self.visit(node, fits.unwrap_or(&several[0]), spot);
            }
        }
    }

    /// One of some fixed texts.
    fn visit_choice(&mut self, node: &mut Node, names: &[&str], spot: &Spot<'_>) {
        let Some(text) = node.text().filter(|text| !names.contains(text)) else {
            if node.text().is_none() {
                let message = format!("{} must be one of {}, not {}", spot.name, names.join(", "), found(node));
                self.error(&node.place, message, None);
            }
            return;
        };
        let help = nearest(text, names.iter().copied()).map(|name| format!("did you mean `{name}`?"));
        let message = format!("{} must be one of {}, not `{}`", spot.name, names.join(", "), node.typed());
        self.error(&node.place, message, help);
    }

    /// One of several kinds of map: by a key with a constant (`type: file`), or by the keys that are there.
    fn visit_variant(&mut self, node: &mut Node, variants: &[&'a Value], spot: &Spot<'_>) {
        let variants: Vec<&'a Value> = variants.iter().map(|v| self.resolve(v).0).collect();
        let Some(tag) = tag_of(&variants) else {
            let score = |v: &&'a Value| {
                let has = |key: &str| node.get(key).is_some();
                let known = v
                    .get("properties")
                    .and_then(Value::as_object)
                    .into_iter()
                    .flatten()
                    .filter(|(k, _)| has(k))
                    .count();
                let missing = required(v).filter(|key| !has(key)).count();
                known as i64 * 2 - missing as i64
            };
            // `max_by_key` takes the last of several; the first is the plainer one.
            if let Some(best) = variants.iter().rev().max_by_key(|v| score(v)) {
                self.visit_map(node, best, spot);
            }
            return;
        };
        let names: Vec<&str> = variants.iter().filter_map(|v| constant(v, tag)).collect();
        let Some(value) = node.get(tag) else {
            if let Some(entry) = node.entries().iter().find(|e| nearest(&e.key, [tag]).is_some()) {
                let (place, message) = (entry.place.clone(), format!("unknown key `{}`", entry.key));
                self.hide_by_name(node, "");
                return self.error(&place, message, Some(format!("did you mean `{tag}`?")));
            }
            let of = if spot.path.is_empty() { String::new() } else { format!(" in `{}`", spot.path) };
            self.hide_by_name(node, "");
            return self.error(
                spot.place,
                format!("missing key `{tag}`{of}"),
                Some(format!("`{tag}` is one of {}", names.join(", "))),
            );
        };
        let chosen = value.text().and_then(|text| variants.iter().find(|v| constant(v, tag) == Some(text)));
        let Some(chosen) = chosen else {
            let help = value
                .text()
                .and_then(|t| nearest(t, names.iter().copied()))
                .map(|name| format!("did you mean `{name}`?"));
            let message = format!("`{tag}` must be one of {}, not {}", names.join(", "), found(value));
            let place = value.place.clone();
            self.hide_by_name(node, "");
            return self.error(&place, message, help);
        };
        let before = self.findings.problems.len();
        self.visit_map(node, chosen, spot);
        // A key of another variant: say whose it is, better than guessing at a typo.
        for problem in &mut self.findings.problems[before..] {
            let Some(key) = problem.message.strip_prefix("unknown key `").and_then(|m| m.strip_suffix('`')) else {
                continue;
            };
            let owner = variants.iter().find(|v| v.get("properties").is_some_and(|p| p.get(key).is_some()));
            let own = node.entries().iter().any(|e| e.key == key && e.place == problem.place);
            if let Some(owner) = owner.filter(|_| own) {
                problem.help = constant(owner, tag).map(|name| format!("it belongs to `{tag}: {name}`"));
            }
        }
    }

    /// True where a value of this kind can be what the schema describes.
    fn has_type(&self, node: &Node, schema: &'a Value) -> bool {
        if let Some(branches) = alternatives(schema) {
            return branches.iter().any(|b| self.has_type(node, self.resolve(b).0));
        }
        match schema.get("type") {
            Some(Value::String(kind)) => is_kind(node, kind),
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).any(|kind| is_kind(node, kind)),
            _ => schema.get("properties").is_none() || matches!(node.content, Content::Map(_)),
        }
    }

    fn wrong_type(&mut self, node: &mut Node, schema: &'a Value, spot: &Spot<'_>) {
        let wanted = self.wanted(schema);
        if let Content::Scalar(scalar) = &mut node.content
            && let Some(interpolated) = &scalar.interpolated
            && wanted.contains(&"a text")
        {
            // The value of a variable is a text unless something else was wanted.
            scalar.value = Value::String(interpolated.text.clone());
            return self.visit(node, schema, spot);
        }
        let secret = self.findings.secrets.places.contains(&node.place.bytes);
        let found = if secret { "this".to_owned() } else { found(node) };
        let written = matches!(&node.content, Content::Scalar(s) if !s.value.is_null()) && !secret;
        let help = match wanted.as_slice() {
            ["a text"] if written => Some(format!("put it in quotes: \"{}\"", node.typed())),
            ["a list"] if written => Some(format!("write [{}]", node.typed())),
            _ => None,
        };
        self.hide_by_name(node, spot.name.trim_matches('`'));
        let message = if node.is_null() {
            format!("nothing is written behind {}: it must be {}", spot.name, or(&wanted))
        } else {
            format!("{} must be {}, not {found}", spot.name, or(&wanted))
        };
        let is_help_for_files = wanted == ["a text"];
        let problem = Problem { is_help_for_files, ..Problem::error(&node.place, message, help) };
        self.findings.problems.push(problem);
    }

    fn wanted(&self, schema: &'a Value) -> Vec<&'static str> {
        let (schema, definition) = self.resolve(schema);
        if let Some(named) = NAMED_TYPES.iter().find(|n| Some(n.definition) == definition) {
            return vec![named.called];
        }
        let mut wanted: Vec<&'static str> = match (alternatives(schema), schema.get("type")) {
            (Some(branches), _) => branches.iter().flat_map(|b| self.wanted(b)).collect(),
            (None, Some(Value::String(kind))) => kind_name(kind).into_iter().collect(),
            (None, Some(Value::Array(kinds))) => kinds.iter().filter_map(|k| kind_name(k.as_str()?)).collect(),
            _ => vec!["a map"],
        };
        wanted.dedup();
        wanted
    }

    fn description(&self, property: &'a Value) -> Option<String> {
        let text = property.get("description").or_else(|| self.resolve(property).0.get("description"))?.as_str()?;
        // The first sentence.
        let text = text.split("\n\n").next()?.replace('\n', " ");
        Some(text.split_once(". ").map_or(text.as_str(), |(first, _)| first).trim_end_matches('.').to_owned())
    }

    /// Everything below `node` is secret.
    fn hide(&mut self, node: &mut Node) {
        let secrets = &mut self.findings.secrets;
        node.each_scalar(&mut |scalar, place| {
            secrets.places.push(place.bytes.clone());
            match &scalar.interpolated {
                Some(interpolated) => secrets.values.push(interpolated.text.clone()),
                None => secrets.values.push(scalar.typed.clone()),
            }
        });
    }

    /// Where the walk can't go on, secrets are known by their key only.
    fn hide_by_name(&mut self, node: &mut Node, key: &str) {
        if looks_secret(key) || has_credentials(node) {
            return self.hide(node);
        }
        match &mut node.content {
            Content::Map(entries) => entries.iter_mut().for_each(|e| self.hide_by_name(&mut e.value, &e.key)),
            Content::List(items) => items.iter_mut().for_each(|n| self.hide_by_name(n, key)),
            Content::Scalar(_) => {}
        }
    }
}

/// An address with a user or a password in it, `https://user:password@host`, or one of the web with a path or a query,
/// What is written instead of a key that there was once.
fn moved(path: &str, key: &str) -> Option<String> {
    let is_sink = path.strip_prefix("sinks.").is_some_and(|name| !name.contains('.'));
    let was_format = is_sink && ["format", "template"].contains(&key);
    was_format.then(|| "write `encode: json`, or `encode: { format: text, template: \"{id}\" }` and the like".into())
}

/// which hold a token often enough.
fn has_credentials(node: &Node) -> bool {
    let Content::Scalar(scalar) = &node.content else { return false };
    let text = scalar.interpolated.as_ref().map_or(scalar.typed.as_str(), |i| i.text.as_str());
    // Mistyped (`http//user:password@host`) it is no address, and holds a password all the same.
    let Some((scheme, rest)) = text.split_once("://").or_else(|| text.split_once("//")) else { return false };
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_web = ["http", "https", "ws", "wss"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    authority.contains('@') || is_web && behind.len() > 1 && !text.contains(char::is_whitespace)
}

fn looks_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    ["pass", "secret", "token", "key_id", "api_key", "apikey", "credential", "auth", "header", "subscribe", "body"]
        .iter()
        .any(|part| key.contains(part))
        || key.starts_with("url")
}

/// The branches of a union.
fn alternatives(schema: &Value) -> Option<&[Value]> {
    if schema.get("properties").is_some() {
        return None;
    }
    schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Value::as_array).map(Vec::as_slice)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn constant<'a>(variant: &'a Value, tag: &str) -> Option<&'a str> {
    variant.get("properties")?.get(tag)?.get("const")?.as_str()
}

/// The key that has a constant in every variant.
pub fn tag_of<'a>(variants: &[&'a Value]) -> Option<&'a str> {
    let properties = variants.first()?.get("properties")?.as_object()?;
    properties.keys().map(String::as_str).find(|key| variants.iter().all(|v| constant(v, key).is_some()))
}

/// A map of named entries, where nothing is required: it may be left empty.
fn is_section(schema: &Value) -> bool {
    required(schema).next().is_none()
        && schema.get("properties").is_none()
        && schema.get("additionalProperties").is_some()
}

fn is_empty_section(node: &Node, schema: &Value) -> bool {
    node.is_null() && schema.get("type").is_some_and(|t| t == "object") && is_section(schema)
}

fn is_kind(node: &Node, kind: &str) -> bool {
    match (&node.content, kind) {
        (Content::Map(_), "object") | (Content::List(_), "array") => true,
        (Content::Scalar(scalar), kind) => match &scalar.value {
            Value::Null => kind == "null",
            Value::Bool(_) => kind == "boolean",
            Value::Number(n) => kind == "number" || (kind == "integer" && !n.is_f64()),
            _ => kind == "string",
        },
        _ => false,
    }
}
