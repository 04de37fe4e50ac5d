//! Paths into a document: a small part of XPath.
//!
//! `a/b` children · `//x` any depth below · `*` any element · `@name` an attribute · `.` the element itself · `text()`
//! the element's own text · a leading `/` starts at the document · `[2]` the second of its kind below one parent ·
//! `[@role]`, `[@role='main']`, `[name='x']` conditions. Names match whatever their namespace; `p:name` matches only in
//! the namespace that `namespaces:` gives to `p`.

use super::document::{Document, NodeId, XML_NAMESPACE};

/// A path.
#[derive(Debug, Clone)]
pub(in super::super) struct Path {
    from_document: bool,
    steps: Vec<Step>,
    target: Target,
}

#[derive(Debug, Clone)]
struct Step {
    any_depth: bool,
    name: Name,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Name {
    /// `None` for `*`.
    local: Option<String>,
    namespace: Option<String>,
}

#[derive(Debug, Clone)]
enum Condition {
    Position(usize),
    Attribute(Name, Option<String>),
    Child(Name, String),
}

#[derive(Debug, Clone)]
enum Target {
    Element,
    Attribute { any_depth: bool, name: Name },
    OwnText,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Found<'d> {
    /// An element.
    Element(NodeId),
    /// An attribute's value.
    Attribute(&'d str),
    /// An element whose own text is meant.
    OwnText(NodeId),
}

impl Path {
    /// Reads a path. `namespaces` are the prefixes that it may use.
    ///
    /// # Errors
    /// Says what is wrong, and where.
    pub(in super::super) fn parse(text: &str, namespaces: &[(String, String)]) -> Result<Self, String> {
        let mut parser = Parser { rest: text.trim(), namespaces };
        parser.path().map_err(|problem| format!("the path `{text}` {problem}"))
    }

    /// Appends what the path leads to from `context`, in document order.
    pub(in super::super) fn select<'d>(&self, document: &'d Document, context: NodeId, found: &mut Vec<Found<'d>>) {
        let mut nodes = vec![if self.from_document { 0 } else { context }];
        for step in &self.steps {
            let mut next = Vec::new();
            let mut covered = 0;
            for &node in &nodes {
                // From a starting point inside another, `//x` would find again what it has found.
                if !step.any_depth || node >= covered {
                    step.select(document, node, &mut next);
                    covered = document.descendants(node).end;
                }
            }
            // Children of nested starting points are found out of order.
            next.sort_unstable();
            nodes = next;
        }
        match &self.target {
            Target::Element => found.extend(nodes.into_iter().map(Found::Element)),
            Target::OwnText => found.extend(nodes.into_iter().map(Found::OwnText)),
            Target::Attribute { any_depth, name } => {
                let mut last = 0;
                for node in nodes {
                    let end = if *any_depth { document.descendants(node).end } else { node + 1 };
                    for owner in node.max(last)..end {
                        let matching = document.attributes(owner).filter(|(local, ns, _)| name.matches(local, *ns));
                        found.extend(matching.map(|(_, _, value)| Found::Attribute(value)));
                    }
                    last = last.max(end);
                }
            }
        }
    }
}

impl Found<'_> {
    /// The text of what was found, white space collapsed for elements, cut at the ends for the rest.
    pub(in super::super) fn text(&self, document: &Document, out: &mut String) {
        match *self {
            Self::Element(node) => document.collapsed_text(node, out),
            Self::Attribute(value) => out.push_str(value.trim()),
            Self::OwnText(node) => {
                let start = out.len();
                out.extend(document.children(node).filter_map(|child| document.text(child)));
                let trimmed = out[start..].trim().to_owned();
                out.truncate(start);
                out.push_str(&trimmed);
            }
        }
    }
}

impl Step {
    fn select(&self, document: &Document, from: NodeId, next: &mut Vec<NodeId>) {
        if !self.any_depth {
            return self.below(document, from, next);
        }
        self.below(document, from, next);
        for node in document.descendants(from) {
            if document.is_element(node) {
                self.below(document, node, next);
            }
        }
    }

    /// The matching children of one parent.
    fn below(&self, document: &Document, parent: NodeId, next: &mut Vec<NodeId>) {
        let mut position = 0;
        for child in document.children(parent) {
            let matches = document.is_element(child)
                && self.name.matches(document.name(child), document.namespace(child))
                && self.conditions.iter().all(|c| c.holds(document, child, &mut position));
            if matches {
                next.push(child);
            }
        }
    }
}

impl Condition {
    fn holds(&self, document: &Document, node: NodeId, position: &mut usize) -> bool {
        match self {
            Self::Position(wanted) => {
                *position += 1;
                position == wanted
            }
            Self::Attribute(name, wanted) => document
                .attributes(node)
                .any(|(local, ns, value)| name.matches(local, ns) && wanted.as_deref().is_none_or(|w| w == value)),
            Self::Child(name, wanted) => document.children(node).any(|child| {
                let mut text = String::new();
                document.is_element(child) && name.matches(document.name(child), document.namespace(child)) && {
                    document.collapsed_text(child, &mut text);
                    text == *wanted
                }
            }),
        }
    }
}

impl Name {
    fn matches(&self, local: &str, namespace: Option<&str>) -> bool {
        self.local.as_deref().is_none_or(|name| name == local)
            && self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
    }
}

struct Parser<'a> {
    rest: &'a str,
    namespaces: &'a [(String, String)],
}

impl Parser<'_> {
    fn path(&mut self) -> Result<Path, String> {
        if self.rest.is_empty() {
            return Err("is empty: write `.` for the text of the element itself".into());
        }
        let mut path = Path { from_document: false, steps: Vec::new(), target: Target::Element };
        if self.rest == "." {
            return Ok(path);
        }
        let mut any_depth = self.eat("//");
        if !any_depth && self.eat("/") {
            path.from_document = true;
        }
        loop {
            if self.eat("@") {
                path.target = Target::Attribute { any_depth, name: self.name()? };
                return self.end(path);
            }
            if self.eat("text()") {
                if any_depth {
                    return Err("has `//text()`: name the element, and the text of everything in it is taken".into());
                }
                path.target = Target::OwnText;
                return self.end(path);
            }
            if !self.eat("./") {
                let name = self.name()?;
                let mut conditions = Vec::new();
                while self.eat("[") {
                    conditions.push(self.condition()?);
                }
                path.steps.push(Step { any_depth, name, conditions });
                if self.rest.is_empty() {
                    return Ok(path);
                }
                any_depth = self.eat("//");
                if !any_depth && !self.eat("/") {
                    return Err(format!("has `{}` where `/` should be", self.rest));
                }
            }
        }
    }

    fn end(&self, path: Path) -> Result<Path, String> {
        if self.rest.is_empty() { Ok(path) } else { Err(format!("must end before `{}`", self.rest)) }
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn name(&mut self) -> Result<Name, String> {
        if self.eat("*") {
            return Ok(Name { local: None, namespace: None });
        }
        let first = self.word()?;
        if !self.eat(":") {
            return Ok(Name { local: Some(first), namespace: None });
        }
        let namespace = match self.namespaces.iter().find(|(prefix, _)| *prefix == first) {
            Some((_, uri)) => uri.clone(),
            None if first == "xml" => XML_NAMESPACE.to_owned(),
            None => {
                return Err(format!(
                    "uses the prefix `{first}`: give its namespace under `namespaces`, or leave it away"
                ));
            }
        };
        Ok(Name { local: Some(self.word()?), namespace: Some(namespace) })
    }

    fn word(&mut self) -> Result<String, String> {
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let length = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(length);
        if word.is_empty() || word.starts_with(|c: char| !c.is_alphabetic() && c != '_') {
            return Err(format!("needs a name where `{}` is", self.rest));
        }
        self.rest = rest;
        Ok(word.to_owned())
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let digits = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
        let condition = if digits > 0 {
            let position: usize = self.rest[..digits].parse().unwrap_or_default();
            if position == 0 {
                return Err("counts from 1".into());
            }
            self.rest = &self.rest[digits..];
            Condition::Position(position)
        } else if self.eat("@") {
            let name = self.name()?;
            let value = if self.eat("=") { Some(self.quoted()?) } else { None };
            Condition::Attribute(name, value)
        } else {
            let name = self.name()?;
            if !self.eat("=") {
                return Err(format!("has `{}` where `=` should be", self.rest));
            }
            Condition::Child(name, self.quoted()?)
        };
        if self.eat("]") { Ok(condition) } else { Err(format!("has `{}` where `]` should be", self.rest)) }
    }

    fn quoted(&mut self) -> Result<String, String> {
        let quote = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err("needs quotes around the value in a condition".into()),
        };
        let Some((value, rest)) = self.rest[1..].split_once(quote) else {
            return Err("has a quote that is not closed".into());
        };
        self.rest = rest;
        Ok(value.to_owned())
    }
}
