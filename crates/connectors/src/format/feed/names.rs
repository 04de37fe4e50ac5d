//! The vocabularies that feeds are written in.

/// A vocabulary, told by namespace or, where that is not declared, by the customary prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ns {
    /// The feed's own: RSS of every version, or what the feed has as its default.
    Core,
    Atom,
    DublinCore,
    /// `content:encoded`.
    Content,
    Media,
    Itunes,
    Rdf,
    Xhtml,
    Other,
    /// An element in which the document breaks off.
    Cut,
}

impl Ns {
    /// Namespaces are compared without scheme, letter case and what they end in: they are often a little wrong.
    pub(super) fn of_uri(uri: &str) -> Self {
        let uri = uri.trim().to_ascii_lowercase();
        let uri = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://")).unwrap_or(&uri);
        let uri = uri.trim_end_matches(['/', '#']);
        match uri {
            "" | "purl.org/rss/1.0" | "purl.org/net/rss1.1" | "blogs.law.harvard.edu/tech/rss" => Self::Core,
            _ if [
                "my.netscape.com/",
                "channel.netscape.com/",
                "backend.userland.com/",
                "cyber.law.harvard.edu/rss",
            ]
            .iter()
            .any(|start| uri.starts_with(start)) =>
            {
                Self::Core
            }
            "www.w3.org/2005/atom" => Self::Atom,
            _ if uri.starts_with("purl.org/atom/") => Self::Atom,
            _ if uri.starts_with("purl.org/dc/") => Self::DublinCore,
            "purl.org/rss/1.0/modules/content" => Self::Content,
            "www.rssboard.org/media-rss" => Self::Media,
            _ if uri.ends_with("search.yahoo.com/mrss") => Self::Media,
            _ if uri.contains("itunes.com/dtds") => Self::Itunes,
            "www.w3.org/1999/02/22-rdf-syntax-ns" => Self::Rdf,
            "www.w3.org/1999/xhtml" => Self::Xhtml,
            _ => Self::Other,
        }
    }

    /// What a prefix stands for that is not declared.
    pub(super) fn of_prefix(prefix: &str) -> Self {
        match prefix {
            "" | "rss" => Self::Core,
            "atom" | "a10" => Self::Atom,
            "dc" | "dcterms" => Self::DublinCore,
            "content" => Self::Content,
            "media" => Self::Media,
            "itunes" => Self::Itunes,
            "rdf" => Self::Rdf,
            "xhtml" => Self::Xhtml,
            _ => Self::Other,
        }
    }
}

/// Compares names as people write them.
pub(super) fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}
