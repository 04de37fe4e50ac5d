//! What a path finds in a document, as pieces of the document's text: nothing is copied.
//!
//! The whole document is read each time, also behind what was found: what is broken anywhere is no JSON. Where a name
//! stands twice in an object, the last one counts. What is nested more than 200 levels deep is taken for broken.

use jiter::Jiter;

use super::path::{Mode, Path, Position, Step, Subscript};

/// What keeps a path from being followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The text is no JSON.
    Malformed,
    /// A strict path, and no such member, item, object or array.
    Unlike,
}

/// Calls `found` with the text of each value that `path` leads to, in the order of the document; what it was called
/// with counts only where there is no trouble after all.
pub(super) fn find<'j>(path: &Path, document: &'j str, found: &mut dyn FnMut(&'j str)) -> Result<(), Trouble> {
    let document = document.trim_matches([' ', '\t', '\n', '\r']);
    let reads_all = match path.steps.first() {
        Some(Step::Member(_) | Step::EveryMember) => document.starts_with('{'),
        Some(Step::Items(_) | Step::EveryItem) => document.starts_with('['),
        None => false,
    };
    if !reads_all {
        check(document)?;
    }
    follow(document, &path.steps, path.mode, found)
}

/// An error where `document` is no JSON.
pub(super) fn check(document: &str) -> Result<(), Trouble> {
    let mut json = Jiter::new(document.as_bytes());
    json.next_skip().and_then(|()| json.finish()).map_err(|_| Trouble::Malformed)
}

fn follow<'j>(value: &'j str, steps: &[Step], mode: Mode, found: &mut dyn FnMut(&'j str)) -> Result<(), Trouble> {
    let Some((step, rest)) = steps.split_first() else {
        found(value);
        return Ok(());
    };
    let is_array = value.starts_with('[');
    match (step, mode) {
        (Step::Member(_) | Step::EveryMember, Mode::Lax) if is_array => items(value, &mut |_, item| {
            // One level: an array in the array stays closed.
            if item.starts_with('{') { members(item, step, rest, mode, found) } else { Ok(()) }
        })
        .map(drop),
        (Step::Member(_) | Step::EveryMember, _) if value.starts_with('{') => members(value, step, rest, mode, found),
        (Step::EveryItem, _) if is_array => items(value, &mut |_, item| follow(item, rest, mode, found)).map(drop),
        (Step::EveryItem, Mode::Lax) => follow(value, rest, mode, found),
        (Step::Items(list), _) if is_array => {
            let count = items(value, &mut |_, _| Ok(()))?;
            chosen(list, count, mode, &mut |from, to| {
                items(value, &mut |at, item| match (from..=to).contains(&at) {
                    true => follow(item, rest, mode, found),
                    false => Ok(()),
                })
                .map(drop)
            })
        }
        // What is no array is one with this item.
        (Step::Items(list), Mode::Lax) => chosen(list, 1, mode, &mut |_, _| follow(value, rest, mode, found)),
        (_, Mode::Lax) => Ok(()),
        (_, Mode::Strict) => Err(Trouble::Unlike),
    }
}

/// Goes on from the members of an object that `step` asks for.
fn members<'j>(
    object: &'j str,
    step: &Step,
    rest: &[Step],
    mode: Mode,
    found: &mut dyn FnMut(&'j str),
) -> Result<(), Trouble> {
    let mut json = Jiter::new(object.as_bytes());
    let mut last = None;
    let mut key = json.next_object().map_err(|_| Trouble::Malformed)?;
    while let Some(name) = key {
        let is_wanted = matches!(step, Step::Member(wanted) if wanted == name);
        let value = next_value(&mut json, object)?;
        match step {
            Step::Member(_) if is_wanted => last = Some(value),
            Step::Member(_) => {}
            _ => follow(value, rest, mode, found)?,
        }
        key = json.next_key().map_err(|_| Trouble::Malformed)?;
    }
    json.finish().map_err(|_| Trouble::Malformed)?;
    match (step, last, mode) {
        (_, Some(value), _) => follow(value, rest, mode, found),
        (Step::Member(_), None, Mode::Strict) => Err(Trouble::Unlike),
        _ => Ok(()),
    }
}

/// Calls `each` with the place and the text of each item of an array, and says how many there are.
fn items<'j>(array: &'j str, each: &mut dyn FnMut(usize, &'j str) -> Result<(), Trouble>) -> Result<usize, Trouble> {
    let mut json = Jiter::new(array.as_bytes());
    let mut count = 0;
    let mut next = json.next_array().map_err(|_| Trouble::Malformed)?;
    while next.is_some() {
        each(count, next_value(&mut json, array)?)?;
        count += 1;
        next = json.array_step().map_err(|_| Trouble::Malformed)?;
    }
    json.finish().map_err(|_| Trouble::Malformed)?;
    Ok(count)
}

/// The text of the value that comes next in `text`.
fn next_value<'j>(json: &mut Jiter<'j>, text: &'j str) -> Result<&'j str, Trouble> {
    let next = json.peek().map_err(|_| Trouble::Malformed)?;
    let start = json.current_index();
    json.known_skip(next).map_err(|_| Trouble::Malformed)?;
    text.get(start..json.current_index()).ok_or(Trouble::Malformed)
}

/// Calls `each` with the first and the last place of each subscript that an array of `count` items has.
fn chosen(
    list: &[Subscript],
    count: usize,
    mode: Mode,
    each: &mut dyn FnMut(usize, usize) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let place = |position| match position {
        Position::Start(before) => Some(before),
        Position::End(behind) => count.checked_sub(behind + 1),
    };
    for subscript in list {
        match (place(subscript.from), place(subscript.to), mode) {
            (Some(from), Some(to), _) if from <= to && to < count => each(from, to)?,
            (_, _, Mode::Strict) => return Err(Trouble::Unlike),
            // What there is of it.
            (from, Some(to), Mode::Lax) => {
                let (from, to) = (from.unwrap_or(0), to.min(count.saturating_sub(1)));
                if from <= to && from < count {
                    each(from, to)?;
                }
            }
            (_, None, Mode::Lax) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn all(path: &str, document: &str) -> Result<Vec<String>, Trouble> {
        let mut texts = Vec::new();
        find(&Path::read(path).unwrap(), document, &mut |text| texts.push(text.to_owned()))?;
        Ok(texts)
    }

    #[test]
    fn lax_opens_arrays_and_closes_values_into_arrays() {
        let document = r#" {"a": [{"b": 1}, {"b": [2, 3]}, [{"b": 4}], 5], "c": {"d": 1.50}, "c": {"d": 2e0}} "#;
        for (path, found) in [
            ("$.a.b", &["1", "[2, 3]"][..]),
            ("$.a[1].b[*]", &["2", "3"]),
            ("$.a[last]", &["5"]),
            ("$.a[0, 3].b", &["1"]),
            ("$.a[2 to 9]", &[r#"[{"b": 4}]"#, "5"]),
            ("$.a[last - 9 to 0].b", &["1"]),
            ("$.a[last - 9]", &[]),
            ("$.a[3 to 1]", &[]),
            // The last of two members with one name.
            ("$.c[0].d[last]", &["2e0"]),
            ("$.c.*", &["2e0"]),
            ("$.nope.b", &[]),
            ("$.c.d.e", &[]),
            ("$.c[1]", &[]),
        ] {
            assert_eq!(all(path, document).unwrap(), found, "{path}");
        }
    }

    #[test]
    fn strict_takes_nothing_for_something_else() {
        let document = r#"{"a": [{"b": 1}, {}], "n": 1}"#;
        for path in ["$.x", "$.a.b", "$.n[0]", "$.n[*]", "$.a[2]", "$.a[0 to 2]", "$.a[last - 2]", "$.a[*].b", "$.n.*"]
        {
            assert_eq!(all(&format!("strict {path}"), document), Err(Trouble::Unlike), "{path}");
        }
        assert_eq!(all("strict $.a[0].b", document).unwrap(), ["1"]);
        assert_eq!(all("strict $.a[1].*", document).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_broken_anywhere_is_no_json() {
        for document in
            ["", " ", "nope", "{\"a\": 1} x", "{\"a\": 1, \"b\": }", "[1, 2", "1 2", "\"\\ud800\"", "{\"a\"}"]
        {
            for path in ["$", "$.a", "$[0]", "$[*]", "$.*", "strict $.a", "strict $[0]"] {
                let trouble = all(path, document).unwrap_err();
                assert!(trouble == Trouble::Malformed || path.starts_with("strict"), "{path} in {document}");
            }
        }
    }

    /// The same, slowly, over a tree.
    fn reference(value: &Value, steps: &[Step], mode: Mode) -> Result<Vec<Value>, Trouble> {
        let Some((step, rest)) = steps.split_first() else { return Ok(vec![value.clone()]) };
        let next: Vec<Value> = match (step, value) {
            (Step::Member(_) | Step::EveryMember, Value::Array(items)) if mode == Mode::Lax => {
                let objects = items.iter().filter(|item| item.is_object());
                let found = objects.map(|object| reference(object, std::slice::from_ref(step), mode));
                found.collect::<Result<Vec<_>, _>>()?.concat()
            }
            (Step::Member(name), Value::Object(members)) => match members.get(name) {
                Some(value) => vec![value.clone()],
                None if mode == Mode::Lax => vec![],
                None => return Err(Trouble::Unlike),
            },
            (Step::EveryMember, Value::Object(members)) => members.values().cloned().collect(),
            (Step::Items(_) | Step::EveryItem, other) if mode == Mode::Lax && !other.is_array() => {
                return reference(&json!([other]), steps, mode);
            }
            (Step::EveryItem, Value::Array(items)) => items.clone(),
            (Step::Items(list), Value::Array(items)) => {
                let place = |position| match position {
                    Position::Start(before) => before as i64,
                    Position::End(behind) => items.len() as i64 - 1 - behind as i64,
                };
                let mut chosen = Vec::new();
                for subscript in list {
                    let (from, to) = (place(subscript.from), place(subscript.to));
                    if mode == Mode::Strict && (from < 0 || from > to || to >= items.len() as i64) {
                        return Err(Trouble::Unlike);
                    }
                    let within = (0..items.len()).filter(|&at| (from..=to).contains(&(at as i64)));
                    chosen.extend(within.map(|at| items[at].clone()));
                }
                chosen
            }
            _ if mode == Mode::Lax => vec![],
            _ => return Err(Trouble::Unlike),
        };
        let found = next.iter().map(|value| reference(value, rest, mode));
        Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[abü\"]{1,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn paths() -> impl Strategy<Value = Path> {
        let position = prop_oneof![(0..4_usize).prop_map(Position::Start), (0..4_usize).prop_map(Position::End)];
        let subscript = (position.clone(), position).prop_map(|(from, to)| Subscript { from, to });
        let step = prop_oneof![
            4 => "[abü\"]{1,2}".prop_map(Step::Member),
            1 => Just(Step::EveryMember),
            1 => Just(Step::EveryItem),
            2 => prop::collection::vec(subscript, 1..3).prop_map(Step::Items),
        ];
        let mode = prop_oneof![Just(Mode::Lax), Just(Mode::Strict)];
        (mode, prop::collection::vec(step, 0..5)).prop_map(|(mode, steps)| Path { mode, steps })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn any_path_in_any_document_finds_what_a_tree_finds(document in documents(), path in paths(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
            let text = text.unwrap();
            let mut found = Vec::new();
            let outcome = find(&path, &text, &mut |piece| found.push(serde_json::from_str::<Value>(piece).unwrap()));
            prop_assert_eq!(outcome.map(|()| found), reference(&document, &path.steps, path.mode));
        }

        #[test]
        fn no_text_makes_it_panic(
            path in "(lax |strict )?\\$([.\\[\\]a*0-9\"', ]|last|to){0,12}",
            document in "[\\[\\]{}:,\"a0-9.eE+\\\\ ntrueü-]{0,24}",
        ) {
            if let Ok(path) = Path::read(&path) {
                let outcome = find(&path, &document, &mut |_| {});
                let is_json = serde_json::from_str::<Box<serde_json::value::RawValue>>(&document).is_ok();
                prop_assert!(is_json || outcome.is_err(), "{:?} in {}", path, document);
            }
        }
    }
}
