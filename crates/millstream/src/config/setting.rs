//! Values that the command line puts into a pipeline file (`--set sinks.queue.url=…`).
//!
//! What was typed is appended to the text of the file, a line each, so that everything behind (variables, positions in
//! SQL, secrets in excerpts) works on it as on the file; [`Extended`] knows which lines those are.

use std::str::FromStr;

use serde_json::Value;

use crate::config::diagnostics::{Diagnostics, Problem, suggestion};
use crate::config::schema;
use crate::config::tree::{Content, Entry, LineIndex, Node, Place, Scalar, Style, parse, plain_value};

/// The sections that hold entries by name. A path does not make an entry by the way.
const NAMED: [&str; 5] = ["sources", "models", "transforms", "tables", "sinks"];

/// One `--set PATH=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    typed: String,
    steps: Vec<String>,
    /// Where the value begins in `typed`.
    value: usize,
}

impl FromStr for Setting {
    type Err = String;

    /// Reads `PATH=VALUE`. Steps of the path are told apart by dots; `urls[1]` is an item of a list, and a step with
    /// dots in it stands in double quotes.
    fn from_str(typed: &str) -> Result<Self, String> {
        let mut steps = vec![String::new()];
        let (mut in_quotes, mut end) = (false, None);
        for (at, c) in typed.char_indices() {
            let step = steps.len() - 1;
            match c {
                '"' => in_quotes = !in_quotes,
                '.' | '[' if !in_quotes => steps.push(String::new()),
                ']' if !in_quotes => {}
                '=' if !in_quotes => {
                    end = Some(at);
                    break;
                }
                c => steps[step].push(c),
            }
        }
        let Some(end) = end else {
            return Err("write PATH=VALUE, such as `sinks.queue.url=amqp://broker`".into());
        };
        if steps.iter().any(String::is_empty) {
            return Err("a step of the path is empty: write it as in `sinks.queue.url=amqp://broker`".into());
        }
        Ok(Self { typed: typed.to_owned(), steps, value: end + 1 })
    }
}

impl Setting {
    /// What a message calls the place: the option without its value, which may be a secret.
    fn shown(&self) -> String {
        format!("--set {}", self.path())
    }

    fn path(&self) -> &str {
        &self.typed[..self.value - 1]
    }

    /// How a value that looks like a number, a list or a map is written as text: the shell takes the outer quotes.
    fn quoting(&self) -> Option<String> {
        let typed = &self.typed[self.value..];
        let is_other = !plain_value(typed).is_string() || typed.starts_with(['{', '[']);
        is_other.then(|| format!("as text it is written in two kinds of quotes: --set '{}=\"…\"'", self.path()))
    }
}

/// The text of a file and the settings behind it.
pub struct Extended<'a> {
    /// The text, a line end, and then what was typed, each with a line end.
    pub text: String,
    settings: &'a [Setting],
    /// The byte and the line (from 1) where each setting begins.
    begins: Vec<(usize, usize)>,
}

impl<'a> Extended<'a> {
    /// Puts `settings` behind `file`.
    pub fn new(file: &str, settings: &'a [Setting]) -> Self {
        let mut text = file.to_owned();
        let mut begins = Vec::new();
        for setting in settings {
            text.push('\n');
            begins.push((text.len(), text.matches('\n').count() + 1));
            text.push_str(&setting.typed);
        }
        Self { text, settings, begins }
    }

    /// Puts every value where its path leads.
    pub fn apply(&self, root: &mut Node) -> Vec<Problem> {
        let lines = LineIndex::new(&self.text);
        let mut problems = Vec::new();
        for (setting, &(begin, _)) in self.settings.iter().zip(&self.begins) {
            let place = |from: usize, to: usize| Place { at: lines.position(from), bytes: from..to };
            let path = place(begin, begin + setting.value - 1);
            let value = self.value(setting, begin, &lines);
            if let Err(problem) = put(root, &setting.steps, value, &path) {
                problems.push(problem);
            }
        }
        problems
    }

    /// A value that begins as a list, a map or a text in quotes does is read as YAML; anything else is what it is.
    fn value(&self, setting: &Setting, begin: usize, lines: &LineIndex<'_>) -> Node {
        let typed = &setting.typed[setting.value..];
        let from = begin + setting.value;
        if typed.starts_with(['{', '[', '"', '\''])
            && let (Some(mut node), errors) = parse(typed)
            && errors.is_empty()
        {
            shift(&mut node, from, lines);
            return node;
        }
        let place = Place { at: lines.position(from), bytes: from..from + typed.len() };
        let value = plain_value(typed);
        let scalar = Scalar { value, typed: typed.to_owned(), style: Style::Plain, interpolated: None };
        Node { content: Content::Scalar(scalar), place }
    }

    /// Names `--set PATH` as the place of what is wrong with a setting.
    pub fn rename(&self, mut diagnostics: Diagnostics) -> Diagnostics {
        for diagnostic in &mut diagnostics.0 {
            let of = self.settings.iter().zip(&self.begins).rev().find(|(_, (_, line))| *line <= diagnostic.line);
            if let Some((setting, (_, line))) = of {
                let help = diagnostic.help.take().filter(|_| !diagnostic.is_help_for_files);
                diagnostic.help = help.or_else(|| setting.quoting());
                diagnostic.of_option(setting.shown(), diagnostic.line - line + 1);
            }
        }
        diagnostics
    }
}

fn shift(node: &mut Node, by: usize, lines: &LineIndex<'_>) {
    let moved = |place: &mut Place| {
        place.bytes = place.bytes.start + by..place.bytes.end + by;
        place.at = lines.position(place.bytes.start);
    };
    moved(&mut node.place);
    match &mut node.content {
        Content::Scalar(_) => {}
        Content::List(items) => items.iter_mut().for_each(|item| shift(item, by, lines)),
        Content::Map(entries) => entries.iter_mut().for_each(|entry| {
            moved(&mut entry.place);
            shift(&mut entry.value, by, lines);
        }),
    }
}

/// Puts `value` at `steps` below `root`, and makes the maps on the way there.
fn put(root: &mut Node, steps: &[String], value: Node, path: &Place) -> Result<(), Problem> {
    let mut node = root;
    let (last, before) = steps.split_last().map_or((None, steps), |(last, before)| (Some(last), before));
    for (depth, step) in before.iter().enumerate() {
        node = enter(node, &steps[..depth], step, path)?;
    }
    let Some(last) = last else { return Ok(()) };
    let is_section = before.is_empty();
    match &mut open(node, before, path)?.content {
        Content::List(items) => {
            let index = index_of(items.len(), before, last, path)?;
            items[index] = value;
        }
        Content::Map(entries) => match entries.iter_mut().find(|entry| entry.key == *last) {
            Some(entry) => {
                entry.place = path.clone();
                entry.value = value;
            }
            None if is_section && !sections().contains(&last.as_str()) => return Err(unknown_section(last, path)),
            None => entries.push(Entry { key: last.clone(), place: path.clone(), value }),
        },
        Content::Scalar(_) => {}
    }
    Ok(())
}

fn enter<'n>(node: &'n mut Node, above: &[String], step: &String, path: &Place) -> Result<&'n mut Node, Problem> {
    match &mut open(node, above, path)?.content {
        Content::List(items) => {
            let index = index_of(items.len(), above, step, path)?;
            Ok(&mut items[index])
        }
        Content::Map(entries) => {
            let found = entries.iter().position(|entry| entry.key == *step);
            let index = match found {
                Some(index) => index,
                None if above.is_empty() && !sections().contains(&step.as_str()) => {
                    return Err(unknown_section(step, path));
                }
                None if above.len() == 1 && NAMED.contains(&above[0].as_str()) => {
                    let known: Vec<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
                    let help = suggestion(step, "there is", &known);
                    return Err(Problem::error(path, format!("there is no `{step}` in `{}`", above[0]), help));
                }
                None => {
                    let value = Node { content: Content::Map(Vec::new()), place: path.clone() };
                    entries.push(Entry { key: step.clone(), place: path.clone(), value });
                    entries.len() - 1
                }
            };
            Ok(&mut entries[index].value)
        }
        Content::Scalar(_) => Err(Problem::error(path, "the path leads nowhere", None)),
    }
}

/// The node as something with values in it: `key:` with nothing behind it becomes a map.
fn open<'n>(node: &'n mut Node, at: &[String], path: &Place) -> Result<&'n mut Node, Problem> {
    if node.is_null() {
        node.content = Content::Map(Vec::new());
    }
    if matches!(node.content, Content::Scalar(_)) {
        let at = at.join(".");
        let help = format!("set all of it: --set '{at}={{…}}'");
        let message = format!("`{at}` is a single value in the file, there is nothing in it to set");
        return Err(Problem::error(path, message, Some(help)));
    }
    Ok(node)
}

fn index_of(items: usize, above: &[String], step: &str, path: &Place) -> Result<usize, Problem> {
    let at = above.join(".");
    let index = step.parse::<usize>().ok().filter(|index| *index < items);
    let help = match items {
        0 => format!("it is empty: set all of it, --set '{at}=[…]'"),
        items => format!("it has items 0 to {}, or set all of it: --set '{at}=[…]'", items - 1),
    };
    index.ok_or_else(|| Problem::error(path, format!("`{at}` is a list without an item `{step}`"), Some(help)))
}

fn sections() -> Vec<&'static str> {
    let properties = schema::document().get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

fn unknown_section(step: &str, path: &Place) -> Problem {
    let help = suggestion(step, "a path begins with one of", &sections());
    Problem::error(path, format!("a pipeline file has no `{step}`"), help)
}
