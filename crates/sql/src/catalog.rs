//! The functions that SQL may call, each with an example and its result.
//!
//! Names and signatures are DataFusion's own; examples stand in `catalog/examples.txt`, one a line, and a test runs
//! every one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Documentation;

use crate::error::SqlError;
use crate::functions::query_state;
use crate::spellings;

/// Where a function can be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    /// One value from the values of a row: in transforms, conditions and queries.
    Scalar,
    /// One value from many rows: in queries.
    Aggregate,
    /// One value for each row, from the rows around it (`OVER`): in queries.
    Window,
}

impl FunctionKind {
    /// The word for it: `scalar`, `aggregate` or `window`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Aggregate => "aggregate",
            Self::Window => "window",
        }
    }
}

/// A function that SQL may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Other names that it has.
    pub aliases: Vec<String>,
    /// Where it can be called.
    pub kind: FunctionKind,
    /// How a call is written: `substr(str, start_pos[, length])`.
    pub signature: String,
    /// What it does, in one line.
    pub description: String,
    /// An expression that calls it, or a whole SELECT.
    pub example: String,
    /// What the example gives, as JSON; rows of a SELECT one behind the other.
    pub result: String,
}

impl Function {
    /// The example as a query.
    pub fn example_sql(&self) -> String {
        match self.example.to_uppercase().starts_with("SELECT") {
            true => self.example.clone(),
            false => format!("SELECT {} AS result", self.example),
        }
    }
}

/// Every function, by kind and name.
///
/// # Panics
/// Never: the functions of a new session can be listed.
pub fn functions() -> Vec<Function> {
    list().unwrap_or_default()
}

fn list() -> Result<Vec<Function>, SqlError> {
    let state = query_state(Arc::new(RuntimeEnv::default()))?;
    let own = own();
    let mut found: BTreeMap<(FunctionKind, String), Function> = BTreeMap::new();
    for (kind, name, mut aliases, documentation) in registered(&state) {
        aliases.retain(|alias| *alias != name);
        let windowed = format!("window {name}");
        let entry = match kind {
            FunctionKind::Window => own.get(windowed.as_str()),
            _ => own.get(name.as_str()),
        };
        let first_line = |text: &str| {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let end = text.find(". ").map_or(text.len(), |end| end + 1);
            text[..end].to_owned()
        };
        let signature = entry.and_then(|e| e.signature).map(str::to_owned);
        let description = entry.and_then(|e| e.description).map(str::to_owned);
        let documented = documentation.map(|d| (d.syntax_example.clone(), first_line(&d.description)));
        let (syntax, text) = documented.unwrap_or_else(|| (format!("{name}(…)"), String::new()));
        let function = Function {
            aliases,
            kind,
            signature: signature.unwrap_or(syntax),
            description: description.unwrap_or(text),
            example: entry.map(|e| e.example.to_owned()).unwrap_or_default(),
            result: entry.map(|e| e.result.to_owned()).unwrap_or_default(),
            name: name.clone(),
        };
        found.insert((kind, name), function);
    }
    for name in spellings::NAMES {
        let Some(entry) = own.get(name) else { continue };
        let function = Function {
            name: (*name).to_owned(),
            aliases: Vec::new(),
            kind: FunctionKind::Scalar,
            signature: entry.signature.unwrap_or_default().to_owned(),
            description: entry.description.unwrap_or_default().to_owned(),
            example: entry.example.to_owned(),
            result: entry.result.to_owned(),
        };
        found.insert((FunctionKind::Scalar, function.name.clone()), function);
    }
    Ok(found.into_values().collect())
}

type Registered<'a> = (FunctionKind, String, Vec<String>, Option<&'a Documentation>);

/// Those that take a lambda are left out: `x -> …` is the JSON operator here.
fn registered(state: &SessionState) -> Vec<Registered<'_>> {
    let scalars = state
        .scalar_functions()
        .values()
        .map(|f| (FunctionKind::Scalar, f.name().to_owned(), f.aliases().to_vec(), f.documentation()));
    let aggregates = state
        .aggregate_functions()
        .values()
        .map(|f| (FunctionKind::Aggregate, f.name().to_owned(), f.aliases().to_vec(), f.documentation()));
    let windows = state
        .window_functions()
        .values()
        .map(|f| (FunctionKind::Window, f.name().to_owned(), f.aliases().to_vec(), f.documentation()));
    scalars.chain(aggregates).chain(windows).collect()
}

/// What we say about a function ourselves.
struct Own {
    signature: Option<&'static str>,
    description: Option<&'static str>,
    example: &'static str,
    result: &'static str,
}

/// Lines `name ⇥ example ⇥ result[ ⇥ signature ⇥ description]`.
fn own() -> BTreeMap<&'static str, Own> {
    let lines = include_str!("catalog/examples.txt").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line: &'static str| {
        let mut parts = line.split('\t');
        let (name, example) = (parts.next()?, parts.next()?);
        let result = parts.next().unwrap_or_default();
        let (signature, description) = (parts.next(), parts.next());
        Some((name, Own { signature, description, example, result }))
    };
    lines.filter_map(entry).collect()
}
