//! From the tree of an RSS or Atom document to its entries. Every field is read for itself: what is odd about one costs
//! that one.

use url::Url;

use super::names::{Ns, same_name};
use super::person::contact;
use super::text::{Names, html, markup, plain, resolved, trimmed, whole_html};
use super::tree::{NodeId, Tree, is_entry};
use super::{FeedEntry, digest};
use millstream_core::json::parse_timestamp;

/// A link, and what it leads to.
#[derive(Debug, Clone, Default)]
struct Link {
    address: String,
    /// `alternate`, `self`, `enclosure`, …; empty in RSS.
    rel: String,
}

/// What a feed says about itself, for all its entries.
#[derive(Debug, Default)]
pub(super) struct About {
    pub(super) title: Option<String>,
    language: Option<String>,
    authors: Vec<String>,
    links: Vec<Link>,
    /// The feed has the form of one, whether or not there are entries.
    pub(super) is_feed: bool,
}

/// One document while it is read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    tree: &'a Tree<'a>,
    /// What relative addresses start from.
    base: Option<Url>,
    has_bases: bool,
    is_atom: bool,
    root: NodeId,
}

/// The fields of one entry as they are found; of fields that say the same, the one with the lower number counts.
#[derive(Debug, Default)]
struct Found {
    id: Option<String>,
    /// The guid, where it is an address that leads to the entry.
    permalink: Option<String>,
    title: Ranked<String>,
    summary: Ranked<String>,
    content: Ranked<String>,
    published: Ranked<i64>,
    updated: Ranked<i64>,
    language: Ranked<String>,
    links: Vec<Link>,
    /// Links of a vocabulary that is not the feed's own: used where there are no others.
    other_links: Vec<Link>,
    authors: Vec<String>,
    other_authors: Vec<String>,
    categories: Vec<String>,
    other_categories: Vec<String>,
    media: Vec<String>,
}

/// A value, and how far it is from being the right one.
#[derive(Debug)]
struct Ranked<T>(Option<(u8, T)>);

impl<T> Default for Ranked<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Ranked<T> {
    fn offer(&mut self, rank: u8, value: Option<T>) {
        let Some(value) = value else { return };
        if self.0.as_ref().is_none_or(|(known, _)| rank < *known) {
            self.0 = Some((rank, value));
        }
    }

    fn take(self) -> Option<T> {
        self.0.map(|(_, value)| value)
    }
}

impl<'a> Reader<'a> {
    /// A reader of the first feed in `tree`; `None` where there is none.
    pub(super) fn new(tree: &'a Tree<'a>, url: Option<&str>) -> Option<Self> {
        // An entry alone is one where it is the whole document: other documents have items too.
        let is_feed = |node: &NodeId| {
            let is = |name: &&str| same_name(tree.name(*node), name);
            ["rss", "feed", "rdf", "channel"].iter().any(is)
                || (is_entry(tree.name(*node)) && tree.parent(*node) == 0 && !tree.is_broken)
        };
        let first_entry = || tree.elements(0).find(|&node| is_entry(tree.name(node)));
        // Where damage has hit the outermost element itself, its entries may still be there.
        let lost = || if tree.is_broken { first_entry().map(|_| 0) } else { None };
        let root = tree.elements(0).find(is_feed).or_else(lost)?;
        let has_bases = tree.text.contains("xml:base");
        let named = if root == 0 { first_entry()? } else { root };
        let is_atom = same_name(tree.name(named), "feed") || same_name(tree.name(named), "entry");
        Some(Self { tree, base: url.and_then(|url| Url::parse(url).ok()), has_bases, is_atom, root })
    }

    /// The entries in document order, and how many elements are one without saying anything.
    pub(super) fn entries(&self) -> (Vec<FeedEntry>, usize) {
        let mut entries = Vec::new();
        let mut empty = 0;
        let mut foreign = 0;
        let mut behind = 0;
        // An outermost element that is an entry itself is one.
        for node in std::iter::once(self.root).chain(self.tree.elements(self.root)) {
            if node < behind || !is_entry(self.tree.name(node)) {
                continue;
            }
            if !self.is_own(node) {
                foreign += 1;
                continue;
            }
            behind = self.tree.end(node);
            match self.entry(node) {
                Some(entry) => entries.push(entry),
                None => empty += 1,
            }
        }
        // Where there are no others, what has the name of an entry is one that can't be read: it is not passed over.
        let empty = if entries.is_empty() { empty + foreign } else { empty };
        (entries, empty)
    }

    /// True for what is of the feed's own vocabulary: RSS, Atom in Atom, and whatever its outermost element is of.
    fn is_own(&self, node: NodeId) -> bool {
        let namespace = self.tree.namespace(node);
        namespace == Ns::Core || (namespace == Ns::Atom && self.is_atom) || namespace == self.tree.namespace(self.root)
    }

    /// What the feed says about itself.
    pub(super) fn about(&self) -> About {
        let mut about = About::default();
        let root = self.tree.name(self.root);
        let channel = self.tree.children(self.root).find(|&node| same_name(self.tree.name(node), "channel"));
        let feed = channel.unwrap_or(self.root);
        if is_entry(root) {
            return about;
        }
        about.is_feed = channel.is_some()
            || same_name(root, "channel")
            || (self.is_atom && self.tree.children(self.root).next().is_some());
        for node in self.tree.children(feed) {
            let name = self.tree.name(node).to_ascii_lowercase();
            match (self.field_namespace(node), name.as_str()) {
                (Ns::Core, "title") => about.title = about.title.take().or_else(|| self.text(node, Names::Html)),
                (Ns::Core, "link") => about.links.extend(self.link(node)),
                (Ns::Atom, "link") => about.links.extend(self.link(node)),
                (Ns::Core, "language") => about.language = plain(self.tree, node).map(|text| text.to_lowercase()),
                (Ns::DublinCore, "language") => about.language = about.language.take().or(plain(self.tree, node)),
                (Ns::Core | Ns::Atom, "author") if self.is_atom => about.authors.extend(self.person(node)),
                (Ns::Itunes, "author") | (Ns::DublinCore, "creator") => about.authors.extend(self.person(node)),
                _ => {}
            }
        }
        about.language = about.language.or_else(|| self.language(feed)).or_else(|| self.language(self.root));
        about
    }

    /// The namespace of a field: in Atom, what is Atom is the feed's own.
    fn field_namespace(&self, node: NodeId) -> Ns {
        if self.is_own(node) { Ns::Core } else { self.tree.namespace(node) }
    }

    fn entry(&self, node: NodeId) -> Option<FeedEntry> {
        let mut found = Found::default();
        for field in self.tree.children(node) {
            let name = self.tree.name(field).to_ascii_lowercase();
            match self.field_namespace(field) {
                Ns::Core => self.own_field(field, &name, &mut found),
                Ns::Cut => {}
                namespace => self.other_field(field, namespace, &name, &mut found),
            }
        }
        found.language.offer(1, self.language(node));
        if found.id.is_none() {
            found.id = self.attribute(node, "about").and_then(|about| trimmed(&about));
        }
        if !self.is_rdf() && !self.is_atom && found.updated.0.is_none() {
            found.updated = Ranked(found.published.0);
        }
        found.entry()
    }

    fn is_rdf(&self) -> bool {
        same_name(self.tree.name(self.root), "rdf")
    }

    /// A field of RSS or Atom itself, of any version.
    fn own_field(&self, node: NodeId, name: &str, found: &mut Found) {
        match name {
            "title" => found.title.offer(0, self.text(node, Names::Html)),
            "description" | "summary" => found.summary.offer(0, self.text(node, Names::Xml)),
            "content" => {
                found.content.offer(1, self.text(node, Names::Xml));
                found.content.offer(2, self.attribute(node, "src").map(|src| self.address(node, &src)));
                found.language.offer(0, self.language(node));
            }
            "encoded" | "fulltext" => found.content.offer(0, self.encoded(node)),
            "body" => found.content.offer(3, markup(self.tree, node)),
            "guid" => self.guid(node, found),
            "id" => found.id = found.id.take().or_else(|| plain(self.tree, node)),
            "link" => found.links.extend(self.link(node)),
            "author" => found.authors.extend(self.person(node)),
            "category" => found.categories.extend(self.category(node)),
            "pubdate" | "published" => found.published.offer(0, self.time(node)),
            "issued" => found.published.offer(1, self.time(node)),
            "date" => found.published.offer(2, self.time(node)),
            "created" => found.published.offer(3, self.time(node)),
            "updated" | "modified" | "lastbuilddate" => found.updated.offer(0, self.time(node)),
            "language" => found.language.offer(0, plain(self.tree, node)),
            "enclosure" => found.media.extend(self.media_address(node)),
            _ => {}
        }
    }

    /// A field of a vocabulary that extends feeds.
    fn other_field(&self, node: NodeId, namespace: Ns, name: &str, found: &mut Found) {
        match (namespace, name) {
            (Ns::Content, "encoded") => found.content.offer(0, self.encoded(node)),
            (Ns::Xhtml, "body" | "div") => found.content.offer(3, markup(self.tree, node)),
            (Ns::DublinCore, "title") => found.title.offer(1, self.text(node, Names::Html)),
            (Ns::DublinCore, "description" | "abstract") => found.summary.offer(1, self.text(node, Names::Xml)),
            (Ns::DublinCore, "creator") => found.authors.extend(self.person(node)),
            (Ns::DublinCore, "author" | "contributor") => found.other_authors.extend(self.person(node)),
            (Ns::DublinCore, "date") => found.published.offer(2, self.time(node)),
            (Ns::DublinCore, "issued" | "available") => found.published.offer(1, self.time(node)),
            (Ns::DublinCore, "created") => found.published.offer(3, self.time(node)),
            (Ns::DublinCore, "modified") => found.updated.offer(1, self.time(node)),
            (Ns::DublinCore, "language") => found.language.offer(0, plain(self.tree, node)),
            (Ns::DublinCore, "identifier") => {
                found.id = found.id.take().or_else(|| plain(self.tree, node));
            }
            (Ns::Atom, "title") => found.title.offer(1, self.text(node, Names::Html)),
            (Ns::Atom, "summary") => found.summary.offer(1, self.text(node, Names::Xml)),
            (Ns::Atom, "content") => found.content.offer(1, self.text(node, Names::Xml)),
            (Ns::Atom, "link") => found.other_links.extend(self.link(node)),
            (Ns::Atom, "author") => found.authors.extend(self.person(node)),
            (Ns::Atom, "published") => found.published.offer(1, self.time(node)),
            (Ns::Atom, "updated") => found.updated.offer(0, self.time(node)),
            (Ns::Atom, "id") => found.id = found.id.take().or_else(|| plain(self.tree, node)),
            (Ns::Atom, "category") => found.other_categories.extend(self.category(node)),
            (Ns::Itunes, "author") => found.other_authors.extend(self.person(node)),
            (Ns::Itunes, "image") => found.media.extend(self.media_address(node)),
            (Ns::Media, _) => self.media(node, found),
            _ => {}
        }
    }

    /// Media RSS: contents and thumbnails, in groups or not. The tree is not deep.
    fn media(&self, node: NodeId, found: &mut Found) {
        if ["content", "thumbnail", "player"].contains(&self.tree.name(node)) {
            found.media.extend(self.media_address(node));
        }
        for child in self.tree.children(node).filter(|&child| self.tree.namespace(child) == Ns::Media) {
            self.media(child, found);
        }
    }

    fn guid(&self, node: NodeId, found: &mut Found) {
        let Some(guid) = plain(self.tree, node) else { return };
        let is_link = self.attribute(node, "isPermaLink").is_none_or(|said| !said.trim().eq_ignore_ascii_case("false"));
        let has_scheme = Url::parse(&guid).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if is_link && has_scheme && found.permalink.is_none() {
            found.permalink = Some(guid.clone());
        }
        found.id.get_or_insert(guid);
    }

    /// `content:encoded`, whose white space is kept: it is a document.
    fn encoded(&self, node: NodeId) -> Option<String> {
        let content = whole_html(self.tree, node, Names::Xml);
        if self.is_rdf() { trimmed(&content) } else { Some(content).filter(|text| !text.trim().is_empty()) }
    }

    /// A title, a summary or a content, by what `type` (Atom) and `mode` (Atom 0.3) say about it.
    fn text(&self, node: NodeId, names: Names) -> Option<String> {
        let kind = self.attribute(node, "type").unwrap_or_default().trim().to_ascii_lowercase();
        let mode = self.attribute(node, "mode").unwrap_or_default();
        if mode == "base64" {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(plain(self.tree, node)?.split_ascii_whitespace().collect::<String>());
            return bytes.ok().and_then(|bytes| trimmed(&String::from_utf8_lossy(&bytes)));
        }
        let is_xml = kind == "xhtml" || kind.ends_with("+xml") || kind.ends_with("/xml") || mode == "xml";
        if is_xml { markup(self.tree, node) } else { html(self.tree, node, names) }
    }

    fn time(&self, node: NodeId) -> Option<i64> {
        parse_timestamp(&plain(self.tree, node)?)
    }

    /// `<link>address</link>` of RSS, `<link href="…" rel="…"/>` of Atom; either may stand in the other.
    fn link(&self, node: NodeId) -> Option<Link> {
        match self.attribute(node, "href") {
            Some(href) => {
                let rel = self.attribute(node, "rel").and_then(|rel| trimmed(&rel)).unwrap_or("alternate".into());
                let rel = rel.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
                Some(Link { address: self.address(node, &href), rel })
            }
            None => Some(Link { address: self.address(node, &plain(self.tree, node)?), rel: String::new() }),
        }
    }

    /// The term of Atom, the text of RSS.
    fn category(&self, node: NodeId) -> Option<String> {
        let attribute = |name| self.attribute(node, name).and_then(|value| trimmed(&value));
        let text = || if self.is_atom { None } else { plain(self.tree, node) };
        attribute("term").or_else(text).or_else(|| attribute("label"))
    }

    /// `<author>` of Atom, with elements in it, and of RSS, a text.
    fn person(&self, node: NodeId) -> Option<String> {
        let part = |name| {
            let node = self.tree.children(node).find(|&child| same_name(self.tree.name(child), name))?;
            plain(self.tree, node)
        };
        if self.tree.children(node).next().is_some() {
            return part("name").or_else(|| part("email")).or_else(|| part("uri")).or_else(|| part("url"));
        }
        contact(&plain(self.tree, node)?)
    }

    fn media_address(&self, node: NodeId) -> Option<String> {
        let address = ["url", "href", "src", "resource"].iter().find_map(|name| self.attribute(node, name))?;
        trimmed(&address).map(|address| self.address(node, &address))
    }

    fn language(&self, node: NodeId) -> Option<String> {
        let (_, value) = self.tree.attributes(node).find(|(name, _)| *name == "xml:lang")?;
        trimmed(value)
    }

    /// The value of an attribute, by its name without a prefix.
    fn attribute(&self, node: NodeId, name: &str) -> Option<String> {
        let local = |full: &str| same_name(full.rsplit_once(':').map_or(full, |(_, local)| local), name);
        self.tree.attributes(node).find(|(full, _)| local(full)).map(|(_, value)| resolved(value))
    }

    /// An address in full, where it is known what it starts from.
    fn address(&self, node: NodeId, text: &str) -> String {
        let text = text.trim();
        match Url::parse(text) {
            Ok(url) => url.into(),
            Err(url::ParseError::RelativeUrlWithoutBase) => {
                let base = self.base_of(node);
                base.and_then(|base| base.join(text).ok()).map_or_else(|| text.to_owned(), Into::into)
            }
            Err(_) => text.to_owned(),
        }
    }

    /// What `xml:base` says, from the outside in.
    fn base_of(&self, node: NodeId) -> Option<Url> {
        if !self.has_bases {
            return self.base.clone();
        }
        let mut bases = Vec::new();
        let mut at = node;
        while at != 0 {
            bases
                .extend(self.tree.attributes(at).find(|(name, _)| *name == "xml:base").map(|(_, base)| resolved(base)));
            at = self.tree.parent(at);
        }
        let mut base = self.base.clone();
        for text in bases.iter().rev() {
            let next = match &base {
                Some(base) => base.join(text.trim()),
                None => Url::parse(text.trim()),
            };
            base = next.ok().or(base);
        }
        base
    }
}

impl Found {
    /// The entry; `None` where nothing was said.
    fn entry(mut self) -> Option<FeedEntry> {
        if self.links.is_empty() {
            self.links = self.other_links;
        }
        let link = main_link(&self.links).map(|link| link.address.clone()).or(self.permalink);
        let enclosures = self.links.iter().filter(|link| link.rel == "enclosure").map(|link| link.address.clone());
        let mut media: Vec<String> = Vec::new();
        for address in self.media.into_iter().chain(enclosures) {
            if !media.contains(&address) {
                media.push(address);
            }
        }
        if self.authors.is_empty() {
            self.authors = self.other_authors;
        }
        if self.categories.is_empty() {
            self.categories = self.other_categories;
        }
        let mut entry = FeedEntry {
            id: self.id.unwrap_or_default(),
            title: self.title.take(),
            link,
            links: self.links.into_iter().map(|link| link.address).collect(),
            summary: self.summary.take(),
            content: self.content.take(),
            author: self.authors.first().cloned(),
            authors: self.authors,
            categories: self.categories,
            published: self.published.take(),
            updated: self.updated.take(),
            media,
            ..FeedEntry::default()
        };
        if entry == FeedEntry::default() {
            return None;
        }
        entry.language = self.language.take();
        Some(entry)
    }
}

/// The alternate link, or the first one that leads to a page.
fn main_link(links: &[Link]) -> Option<&Link> {
    let other = ["self", "enclosure", "replies", "edit", "via", "hub"];
    let page = |link: &&Link| !other.contains(&link.rel.as_str());
    links.iter().find(|link| link.rel == "alternate").or_else(|| links.iter().find(page)).or(links.first())
}

impl About {
    /// Adds to entries what their feed says for all of them.
    pub(super) fn complete(&self, entries: &mut [FeedEntry], url: Option<&str>) {
        let own = self.links.iter().find(|link| link.rel == "self").or(self.links.first());
        let own_url = own.map(|link| link.address.clone());
        let feed_url = url.map(str::to_owned).or_else(|| own_url.clone());
        for entry in entries {
            if entry.authors.is_empty() {
                entry.authors.clone_from(&self.authors);
                entry.author = entry.authors.first().cloned();
            }
            entry.language = entry.language.take().or_else(|| self.language.clone());
            entry.feed_title.clone_from(&self.title);
            entry.feed_url.clone_from(&feed_url);
            entry.own_url.clone_from(&own_url);
            if entry.id.is_empty() {
                entry.id = digest(entry, url);
            }
        }
    }

    /// What a JSON feed says about itself.
    pub(super) fn of_json(
        title: Option<String>,
        language: Option<String>,
        authors: Vec<String>,
        links: impl Iterator<Item = String>,
    ) -> Self {
        let links = links.map(|address| Link { address, rel: String::new() }).collect();
        Self { title, language, authors, links, is_feed: true }
    }
}
