//! A feed's markup as a tree that any text gives: end tags that are missing are supplied, those that belong to nothing
//! are passed over, and what stands too deep is left out. Nothing of the text is copied; an element costs 48 bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::markup::{Token, Tokens, attributes};
use super::names::{Ns, same_name};

/// Elements inside each other; deeper ones are left out. Feeds need a dozen.
const DEPTH_MAX: usize = 256;

/// Index of a node.
pub(super) type NodeId = usize;

/// A document. Node 0 is the document itself.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub(super) text: &'a str,
    nodes: Vec<Node>,
    /// True where something had to be supplied or passed over.
    pub(super) is_broken: bool,
    /// True where the document declares entities that are built on other entities.
    pub(super) has_nested_entities: bool,
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    namespace: Ns,
    /// Of the whole subtree: behind its last node.
    end: u32,
    /// Of an element: its name with its prefix. Of text: the text.
    span: (u32, u32),
    attributes: (u32, u32),
    /// What stands between its tags.
    inner: (u32, u32),
    parent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Document,
    Element,
    /// With references in it.
    Text,
    Verbatim,
}

/// A piece of an element's content.
#[derive(Debug, Clone, Copy)]
pub(super) enum Piece<'a> {
    Element(NodeId),
    /// With references in it.
    Text(&'a str),
    Verbatim(&'a str),
}

impl<'a> Tree<'a> {
    /// Reads any text.
    pub(super) fn parse(text: &'a str) -> Self {
        let document = Node {
            kind: Kind::Document,
            namespace: Ns::Core,
            end: 1,
            span: (0, 0),
            attributes: (0, 0),
            inner: (0, text.len() as u32),
            parent: 0,
        };
        let tree = Tree { text, nodes: vec![document], is_broken: false, has_nested_entities: false };
        let mut builder = Builder { tree, open: Vec::new(), skipped: Vec::new(), deeper: 0, prefixes: HashMap::new() };
        let mut tokens = Tokens::new(text);
        loop {
            let at = tokens.position();
            let open = builder.open.last().map(|open| builder.tree.slice(builder.tree.nodes[open.node].span));
            match tokens.next(open) {
                None => break,
                Some(Token::Start { name, attributes, empty }) => {
                    builder.start(name, attributes, empty, at, tokens.position());
                }
                Some(Token::End { name }) => builder.end(&text[name], at),
                Some(Token::Text(span)) => builder.push_text(Kind::Text, span),
                Some(Token::Verbatim(span)) => builder.push_text(Kind::Verbatim, span),
                Some(Token::Doctype(span)) => builder.tree.has_nested_entities |= nests_entities(&text[span]),
                Some(Token::Skipped { broken }) => builder.tree.is_broken |= broken,
            }
        }
        builder.finish()
    }

    fn slice(&self, span: (u32, u32)) -> &'a str {
        &self.text[span.0 as usize..span.1 as usize]
    }

    /// Every element below a node, in document order.
    pub(super) fn elements(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        (node + 1..self.nodes[node].end as usize).filter(|&below| self.nodes[below].kind == Kind::Element)
    }

    /// Behind the last node of the subtree.
    pub(super) fn end(&self, node: NodeId) -> NodeId {
        self.nodes[node].end as usize
    }

    /// What stands directly in an element.
    pub(super) fn pieces(&self, node: NodeId) -> impl Iterator<Item = Piece<'a>> + '_ {
        let end = self.end(node);
        let first = Some(node + 1).filter(|&child| child < end);
        let next = move |&child: &NodeId| Some(self.end(child)).filter(|&next| next < end);
        std::iter::successors(first, next).map(|child| self.piece(child))
    }

    /// Everything in an element, in document order, without the ends of the elements.
    pub(super) fn all_pieces(&self, node: NodeId) -> impl Iterator<Item = Piece<'a>> + '_ {
        (node + 1..self.end(node)).map(|below| self.piece(below))
    }

    fn piece(&self, node: NodeId) -> Piece<'a> {
        match self.nodes[node].kind {
            Kind::Text => Piece::Text(self.slice(self.nodes[node].span)),
            Kind::Verbatim => Piece::Verbatim(self.slice(self.nodes[node].span)),
            Kind::Element | Kind::Document => Piece::Element(node),
        }
    }

    /// The elements directly in an element.
    pub(super) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.pieces(node).filter_map(|piece| match piece {
            Piece::Element(child) => Some(child),
            _ => None,
        })
    }

    /// The name with its prefix.
    pub(super) fn full_name(&self, node: NodeId) -> &'a str {
        self.slice(self.nodes[node].span)
    }

    /// The name without its prefix.
    pub(super) fn name(&self, node: NodeId) -> &'a str {
        local_name(self.full_name(node))
    }

    pub(super) fn namespace(&self, node: NodeId) -> Ns {
        self.nodes[node].namespace
    }

    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node].parent as usize
    }

    /// The attributes: qualified name and raw value.
    pub(super) fn attributes(&self, node: NodeId) -> impl Iterator<Item = (&'a str, &'a str)> {
        attributes(self.slice(self.nodes[node].attributes))
    }

    /// What stands between the tags, as it is.
    pub(super) fn source(&self, node: NodeId) -> &'a str {
        self.slice(self.nodes[node].inner)
    }
}

struct Open {
    node: NodeId,
    /// Prefixes that the element declares (empty for the default).
    declared: Vec<String>,
}

struct Builder<'a> {
    tree: Tree<'a>,
    open: Vec<Open>,
    /// Names of open elements that are too deep to be kept, and how many more there are, still deeper.
    skipped: Vec<&'a str>,
    deeper: usize,
    /// By prefix: what is in force, innermost last.
    prefixes: HashMap<String, Vec<Ns>>,
}

impl<'a> Builder<'a> {
    fn start(&mut self, name: Range<usize>, attributes: Range<usize>, empty: bool, at: usize, next: usize) {
        let text = self.tree.text;
        self.close_before(&text[name.clone()], at);
        if self.open.len() >= DEPTH_MAX {
            match self.skipped.len() {
                _ if empty => {}
                DEPTH_MAX => self.deeper += 1,
                _ => self.skipped.push(&text[name]),
            }
            return;
        }
        let declared = self.declare(&text[attributes.clone()]);
        let node = self.tree.nodes.len();
        let prefix = text[name.clone()].split_once(':').map_or("", |(prefix, _)| prefix);
        let in_force = self.prefixes.get(prefix).and_then(|stack| stack.last()).copied();
        let namespace = match in_force {
            None => Ns::of_prefix(prefix),
            Some(_) if prefix.is_empty() && self.is_default_of_feed(&declared) => Ns::Core,
            // An element without a prefix that stands where a feed's own do is one of them.
            Some(Ns::Other) if prefix.is_empty() => Ns::Core,
            Some(namespace) => namespace,
        };
        self.tree.nodes.push(Node {
            kind: Kind::Element,
            namespace,
            end: node as u32 + 1,
            span: (name.start as u32, name.end as u32),
            attributes: (attributes.start as u32, attributes.end as u32),
            inner: (next as u32, next as u32),
            parent: self.open.last().map_or(0, |open| open.node) as u32,
        });
        self.open.push(Open { node, declared });
        if empty {
            self.close_one(next);
        }
    }

    /// True where the default namespace in force was declared by one of the two outermost elements: it is that of the
    /// feed itself, however odd it is.
    fn is_default_of_feed(&self, declared: &[String]) -> bool {
        let is_default = |declared: &[String]| declared.iter().any(String::is_empty);
        let here = is_default(declared) && self.open.len() >= 2;
        !here && !self.open.iter().skip(2).any(|open| is_default(&open.declared))
    }

    fn declare(&mut self, attributes_text: &str) -> Vec<String> {
        let mut declared = Vec::new();
        if !attributes_text.contains("xmlns") {
            return declared;
        }
        for (name, value) in attributes(attributes_text) {
            let Some(rest) = name.strip_prefix("xmlns") else { continue };
            let prefix = match rest.strip_prefix(':') {
                Some(prefix) => prefix.to_owned(),
                None if rest.is_empty() => String::new(),
                None => continue,
            };
            let namespace = Ns::of_uri(value);
            self.prefixes.entry(prefix.clone()).or_default().push(namespace);
            declared.push(prefix);
        }
        declared
    }

    /// An entry does not stand in another one, nor in a field of it whose end tag is missing.
    fn close_before(&mut self, name: &str, at: usize) {
        let local = local_name(name);
        if !is_entry(local) {
            return;
        }
        if let Some(depth) = self.open.iter().position(|open| same_name(self.tree.name(open.node), local)) {
            self.tree.is_broken = true;
            self.close_to(depth, at);
        }
    }

    fn end(&mut self, name: &str, at: usize) {
        if !is_entry(local_name(name)) {
            if self.deeper > 0 {
                self.deeper -= 1;
                return;
            }
            if let Some(depth) = self.skipped.iter().rposition(|open| *open == name) {
                self.skipped.truncate(depth);
                return;
            }
        }
        let full = |open: &Open| self.tree.slice(self.tree.nodes[open.node].span);
        let found = self.open.iter().rposition(|open| full(open) == name).or_else(|| {
            // `<pubDate>…</pubdate>`, `<dc:date>…</date>`.
            self.open.iter().rposition(|open| same_name(full(open), name) || same_name(self.tree.name(open.node), name))
        });
        match found {
            Some(depth) => {
                let implied = depth + 1 < self.open.len();
                self.tree.is_broken |= implied;
                if implied {
                    self.close_to(depth + 1, at);
                }
                self.close_one(at);
            }
            None => self.tree.is_broken = true,
        }
    }

    /// Closes the open elements behind the first `depth`, whose end tags are missing.
    fn close_to(&mut self, depth: usize, at: usize) {
        let closed: Vec<NodeId> = self.open.iter().skip(depth).map(|open| open.node).collect();
        for _ in &closed {
            self.close_one(at);
        }
        // From the outside in: what one gives up may have to give up its own.
        for node in closed {
            self.give_up_children(node);
        }
    }

    fn close_one(&mut self, at: usize) {
        (self.deeper, self.skipped) = (0, Vec::new());
        let Some(open) = self.open.pop() else { return };
        let end = self.tree.nodes.len() as u32;
        let node = &mut self.tree.nodes[open.node];
        node.end = end;
        node.inner.1 = (at as u32).max(node.inner.0);
        for prefix in open.declared {
            if let Some(stack) = self.prefixes.get_mut(&prefix) {
                stack.pop();
            }
        }
    }

    /// A field whose end tag is missing (`<link href="…">`) ends before the next element: that is a field of its own.
    fn give_up_children(&mut self, node: NodeId) {
        let parent = self.tree.parent(node);
        if !is_entry(self.tree.name(parent)) && !["channel", "feed"].contains(&self.tree.name(parent)) {
            return;
        }
        if is_entry(self.tree.name(node)) {
            return;
        }
        let Some(first) = self.tree.children(node).next() else { return };
        let mut child = first;
        while child < self.tree.end(node) {
            self.tree.nodes[child].parent = parent as u32;
            child = self.tree.end(child);
        }
        let before = self.tree.nodes[first].span.0 - 1;
        self.tree.nodes[node].inner.1 = before.max(self.tree.nodes[node].inner.0);
        self.tree.nodes[node].end = first as u32;
    }

    /// The document has ended: a text that it breaks off in is no text of the entry.
    fn finish(mut self) -> Tree<'a> {
        self.tree.is_broken |= !self.open.is_empty();
        let entry = self.open.iter().rposition(|open| is_entry(self.tree.name(open.node)));
        if let Some(field) = entry.and_then(|entry| self.open.get(entry + 1)).map(|open| open.node) {
            let name = self.tree.name(field).to_ascii_lowercase();
            if ["title", "description", "summary", "content", "encoded"].contains(&name.as_str()) {
                self.tree.nodes[field].namespace = Ns::Cut;
            }
        }
        self.close_to(0, self.tree.text.len());
        self.tree.nodes[0].end = self.tree.nodes.len() as u32;
        self.tree
    }

    fn push_text(&mut self, kind: Kind, span: Range<usize>) {
        let Some(open) = self.open.last().filter(|_| self.skipped.is_empty()) else { return };
        let node = self.tree.nodes.len() as u32;
        self.tree.nodes.push(Node {
            kind,
            namespace: Ns::Core,
            end: node + 1,
            span: (span.start as u32, span.end as u32),
            attributes: (0, 0),
            inner: (0, 0),
            parent: open.node as u32,
        });
    }
}

fn local_name(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(_, local)| local)
}

/// True for the name of an element that is one entry.
pub(super) fn is_entry(local: &str) -> bool {
    same_name(local, "item") || same_name(local, "entry")
}

/// True where the value of an entity that is declared refers to another: what a bomb is made of.
fn nests_entities(doctype: &str) -> bool {
    doctype.split("<!ENTITY").skip(1).any(|declaration| {
        let declaration = declaration.split(['>']).next().unwrap_or_default();
        let mut references = declaration.split('&').skip(1);
        declaration.contains(['"', '\'']) && references.any(|rest| !rest.starts_with('#') && rest.contains(';'))
    })
}
