//! A document as a flat list of nodes in document order, so that a subtree is a range.
//!
//! Limits: [`DEPTH_MAX`] elements inside each other; 4 GiB of text. Entities that the document declares are refused
//! before anything is expanded, and nothing is ever fetched. An element costs 24 bytes, an attribute 16.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

use super::super::columns::{Built, Fault, shorten};
use millstream_core::FailureKind;

/// Elements inside each other.
const DEPTH_MAX: usize = 256;

/// The namespace that the prefix `xml` is bound to, always.
pub(super) const XML_NAMESPACE: &str = "http://www.w3.org/XML/1998/namespace";

/// No name (a text node), or no namespace.
const NONE: u32 = u32::MAX;

/// Index of a node.
pub(in super::super) type NodeId = usize;

/// A document. Node 0 is the document itself.
#[derive(Debug)]
pub(in super::super) struct Document {
    nodes: Vec<Node>,
    attributes: Vec<Attribute>,
    /// Local names, each once.
    names: Vec<String>,
    namespaces: Vec<String>,
    /// The text of all text nodes and attributes.
    text: String,
}

#[derive(Debug)]
struct Node {
    /// Index into `names`; [`NONE`] for text.
    name: u32,
    namespace: u32,
    parent: u32,
    /// Behind the last node of the subtree.
    end: u32,
    /// Of an element: its attributes. Of a text: its bytes.
    from: u32,
    to: u32,
}

#[derive(Debug)]
struct Attribute {
    name: u32,
    namespace: u32,
    from: u32,
    to: u32,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// `malformed`: not well-formed, too deep, or with entity declarations.
    pub(in super::super) fn parse(text: &str) -> Built<Self> {
        if u32::try_from(text.len()).is_err() {
            return Err(Fault::new(FailureKind::TooLarge, "an XML document can't be larger than 4 GiB"));
        }
        let mut builder = Builder::new();
        let mut reader = Reader::from_str(text);
        loop {
            let event = reader.read_event().map_err(|e| {
                Fault::malformed(format!("not well-formed XML: {e}, at byte {}", reader.error_position()))
            })?;
            match event {
                Event::Start(start) => builder.start(&start)?,
                Event::Empty(start) => {
                    builder.start(&start)?;
                    builder.end();
                }
                Event::End(_) => builder.end(),
                Event::Text(text) => builder.text(&text.xml10_content())?,
                Event::CData(text) => builder.text(&text.xml10_content())?,
                Event::GeneralRef(reference) => {
                    let mut utf8 = [0; 4];
                    let text: &str = match reference.resolve_char_ref() {
                        Ok(Some(character)) => character.encode_utf8(&mut utf8),
                        Ok(None) => predefined(&reference)?,
                        Err(e) => return Err(Fault::malformed(format!("not well-formed XML: {e}"))),
                    };
                    builder.text(text)?;
                }
                Event::DocType(doctype) => check_doctype(&doctype)?,
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
                Event::Eof => return builder.finish(),
            }
        }
    }

    /// The outermost element.
    pub(in super::super) fn root(&self) -> NodeId {
        1
    }

    pub(super) fn is_element(&self, node: NodeId) -> bool {
        self.nodes[node].name != NONE
    }

    /// An element's name without prefix; empty for text and for the document.
    pub(in super::super) fn name(&self, node: NodeId) -> &str {
        self.names.get(self.nodes[node].name as usize).map_or("", String::as_str)
    }

    /// An element's namespace.
    pub(in super::super) fn namespace(&self, node: NodeId) -> Option<&str> {
        self.namespaces.get(self.nodes[node].namespace as usize).map(String::as_str)
    }

    /// The node's subtree without itself, in document order.
    pub(in super::super) fn descendants(&self, node: NodeId) -> std::ops::Range<NodeId> {
        node + 1..self.nodes[node].end as usize
    }

    /// The nodes directly below.
    pub(in super::super) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let end = self.nodes[node].end as usize;
        let first = Some(node + 1).filter(|&child| child < end);
        std::iter::successors(first, move |&child| Some(self.nodes[child].end as usize).filter(|&next| next < end))
    }

    /// The text of a text node.
    pub(in super::super) fn text(&self, node: NodeId) -> Option<&str> {
        let node = &self.nodes[node];
        (node.name == NONE && node.parent != NONE).then(|| &self.text[node.from as usize..node.to as usize])
    }

    /// All text below a node, with every run of white space as one space, and none at the ends.
    pub(in super::super) fn collapsed_text(&self, node: NodeId, out: &mut String) {
        for below in self.descendants(node) {
            if let Some(text) = self.text(below) {
                push_collapsed(text, out);
            }
        }
        out.truncate(out.trim_end().len());
    }

    /// An element's attributes: local name, namespace, value.
    pub(super) fn attributes(&self, node: NodeId) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
        let node = &self.nodes[node];
        let range = if node.name == NONE { 0..0 } else { node.from as usize..node.to as usize };
        self.attributes[range].iter().map(|a| {
            let namespace = self.namespaces.get(a.namespace as usize).map(String::as_str);
            (self.names[a.name as usize].as_str(), namespace, &self.text[a.from as usize..a.to as usize])
        })
    }

    /// The value of the attribute called `name`, whatever its namespace.
    pub(in super::super) fn attribute(&self, node: NodeId, name: &str) -> Option<&str> {
        self.attributes(node).find(|(local, _, _)| *local == name).map(|(_, _, value)| value)
    }
}

/// Appends `text` with runs of white space as one space, none at the beginning of `out`.
pub(in super::super) fn push_collapsed(text: &str, out: &mut String) {
    for character in text.chars() {
        if !character.is_whitespace() {
            out.push(character);
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
}

fn too_deep() -> Fault {
    Fault::malformed(format!("more than {DEPTH_MAX} elements inside each other"))
}

fn check_doctype(doctype: &str) -> Built {
    if memchr::memmem::find(doctype.as_bytes(), b"<!ENTITY").is_some() {
        return Err(Fault::malformed("entity declarations are not accepted"));
    }
    Ok(())
}

fn predefined(name: &str) -> Built<&'static str> {
    Ok(match name {
        "lt" => "<",
        "gt" => ">",
        "amp" => "&",
        "apos" => "'",
        "quot" => "\"",
        // Those of a DTD are not known here, since no DTD is ever read.
        _ => return Err(Fault::malformed(format!("the entity `&{};` is not declared", shorten(name.as_bytes())))),
    })
}

struct Builder {
    document: Document,
    names: HashMap<String, u32>,
    namespace_ids: HashMap<String, u32>,
    /// By prefix (empty for the default): the namespaces in force, innermost last.
    prefixes: HashMap<String, Vec<u32>>,
    /// The open elements, and the prefixes that each declares.
    open: Vec<(NodeId, Vec<String>)>,
}

impl Builder {
    fn new() -> Self {
        let root = Node { name: NONE, namespace: NONE, parent: NONE, end: 1, from: 0, to: 0 };
        let document = Document {
            nodes: vec![root],
            attributes: Vec::new(),
            names: Vec::new(),
            namespaces: Vec::new(),
            text: String::new(),
        };
        let (names, namespace_ids, prefixes) = (HashMap::new(), HashMap::new(), HashMap::new());
        let mut builder = Self { document, names, namespace_ids, prefixes, open: Vec::new() };
        let xml = builder.namespace_id(XML_NAMESPACE);
        builder.prefixes.insert("xml".into(), vec![xml]);
        builder
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Built {
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep());
        }
        let parent = self.open.last().map_or(0, |(node, _)| *node);
        if parent == 0 && self.document.nodes.len() > 1 {
            return Err(Fault::malformed("not well-formed XML: more than one outermost element"));
        }
        let mut declared = Vec::new();
        // Qualified name, and where its value is.
        let mut plain = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|e| Fault::malformed(format!("not well-formed XML: {e}")))?;
            let value =
                unescape(&attribute.value).map_err(|e| Fault::malformed(format!("not well-formed XML: {e}")))?;
            let name: &str = attribute.key.0;
            if name == "xmlns" || name.starts_with("xmlns:") {
                let prefix = name.strip_prefix("xmlns:").unwrap_or_default().to_owned();
                let id = if value.is_empty() { NONE } else { self.namespace_id(&value) };
                self.prefixes.entry(prefix.clone()).or_default().push(id);
                declared.push(prefix);
            } else {
                let from = self.document.text.len() as u32;
                self.document.text.extend(value.chars().map(|c| if c.is_ascii_whitespace() { ' ' } else { c }));
                plain.push((name.to_owned(), from, self.document.text.len() as u32));
            }
        }
        let first = self.document.attributes.len() as u32;
        for (name, from, to) in plain {
            let (prefix, local) = split_name(&name);
            // A name without prefix has no namespace: the default one is for elements.
            let namespace = if prefix.is_empty() { NONE } else { self.namespace(prefix) };
            let name = self.name_id(local);
            self.document.attributes.push(Attribute { name, namespace, from, to });
        }
        let (prefix, local) = split_name(start.name().0);
        let (name, namespace) = (self.name_id(local), self.namespace(prefix));
        let to = self.document.attributes.len() as u32;
        let node = self.document.nodes.len();
        self.document.nodes.push(Node {
            name,
            namespace,
            parent: parent as u32,
            end: node as u32 + 1,
            from: first,
            to,
        });
        self.open.push((node, declared));
        Ok(())
    }

    fn end(&mut self) {
        let Some((node, declared)) = self.open.pop() else { return };
        self.document.nodes[node].end = self.document.nodes.len() as u32;
        for prefix in declared {
            if let Some(stack) = self.prefixes.get_mut(&prefix) {
                stack.pop();
            }
        }
    }

    fn text(&mut self, text: &str) -> Built {
        let Some(&(parent, _)) = self.open.last() else {
            return if text.chars().all(char::is_whitespace) {
                Ok(())
            } else {
                Err(Fault::malformed("not well-formed XML: text outside the outermost element"))
            };
        };
        if text.is_empty() {
            return Ok(());
        }
        let from = self.document.text.len() as u32;
        self.document.text.push_str(text);
        let to = self.document.text.len() as u32;
        // Text, character references and CDATA that follow each other are one text.
        match self.document.nodes.last_mut() {
            Some(last) if last.name == NONE && last.parent as usize == parent && last.to == from => last.to = to,
            _ => {
                let end = self.document.nodes.len() as u32 + 1;
                let parent = parent as u32;
                self.document.nodes.push(Node { name: NONE, namespace: NONE, parent, end, from, to });
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Built<Document> {
        if let Some((node, _)) = self.open.last() {
            let name = shorten(self.document.name(*node).as_bytes());
            return Err(Fault::malformed(format!("not well-formed XML: `{name}` is not closed")));
        }
        if self.document.nodes.len() == 1 {
            return Err(Fault::malformed("not XML: there is no element"));
        }
        self.document.nodes[0].end = self.document.nodes.len() as u32;
        Ok(self.document)
    }

    fn name_id(&mut self, local: &str) -> u32 {
        if let Some(&id) = self.names.get(local) {
            return id;
        }
        let id = self.document.names.len() as u32;
        self.document.names.push(local.to_owned());
        self.names.insert(local.to_owned(), id);
        id
    }

    fn namespace_id(&mut self, uri: &str) -> u32 {
        if let Some(&id) = self.namespace_ids.get(uri) {
            return id;
        }
        let id = self.document.namespaces.len() as u32;
        self.document.namespaces.push(uri.to_owned());
        self.namespace_ids.insert(uri.to_owned(), id);
        id
    }

    /// A prefix that nobody declares stands for no namespace: fragments of documents must read too.
    fn namespace(&self, prefix: &str) -> u32 {
        self.prefixes.get(prefix).and_then(|stack| stack.last()).copied().unwrap_or(NONE)
    }
}

fn split_name(name: &str) -> (&str, &str) {
    name.split_once(':').unwrap_or(("", name))
}
