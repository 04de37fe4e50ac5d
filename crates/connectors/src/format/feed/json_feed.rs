//! JSON Feed, versions 1 and 1.1 (https://www.jsonfeed.org/version/1.1/), and what is nearly one: a field of another
//! type than it should have is read where its text is clear, and an item that is no JSON costs that item.

use millstream_core::json::{parse_timestamp, timestamp_from_decimal};
use serde_json::{Map, Value};
use url::Url;

use super::FeedEntry;
use super::entry::About;
use super::text::trimmed;

/// The entries of a JSON feed, and what the feed says about itself; `Err` says why it is none.
pub(super) fn read(text: &str, url: Option<&str>) -> Result<(Vec<FeedEntry>, About), String> {
    let base = url.and_then(|url| Url::parse(url).ok());
    let (feed, damage) = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(feed)) => (feed, None),
        Ok(_) => return Err("not a JSON feed: the document is no object".into()),
        Err(e) => (salvaged(text), Some(e)),
    };
    let Some(Value::Array(items)) = feed.get("items") else {
        return Err(damage.map_or_else(|| "not a JSON feed: there are no `items`".into(), |e| format!("not JSON: {e}")));
    };
    let entries: Vec<FeedEntry> = items.iter().filter_map(|item| entry(item.as_object()?, base.as_ref())).collect();
    if let (true, Some(e)) = (entries.is_empty(), damage) {
        return Err(format!("not JSON, and none of its items can be read: {e}"));
    }
    if entries.is_empty() && !items.is_empty() {
        return Err("none of the `items` of this JSON feed says anything".into());
    }
    let address = |key| texts(feed.get(key)).into_iter().next().map(|text| full(&text, base.as_ref()));
    let about = About::of_json(
        text_of(feed.get("title")),
        text_of(feed.get("language")),
        authors(&feed),
        address("home_page_url").into_iter().chain(address("feed_url")),
    );
    Ok((entries, about))
}

fn entry(item: &Map<String, Value>, base: Option<&Url>) -> Option<FeedEntry> {
    let text = |key: &str| text_of(item.get(key));
    let (html, plain) = (text("content_html"), text("content_text"));
    // Where there are both, the plain text serves as the summary that is missing.
    let summary = text("summary").or_else(|| plain.clone().filter(|_| html.is_some()));
    let addresses = |key: &str| texts(item.get(key)).into_iter().map(|text| full(&text, base));
    let attachments: Vec<String> = match item.get("attachments") {
        Some(Value::Array(list)) => list.iter().filter_map(|one| text_of(one.get("url"))).collect(),
        _ => Vec::new(),
    };
    let attachments: Vec<String> = attachments.iter().map(|text| full(text, base)).collect();
    let links: Vec<String> = addresses("url").chain(addresses("external_url")).chain(attachments.clone()).collect();
    let pictures = addresses("image").chain(addresses("banner_image"));
    let mut media: Vec<String> = Vec::new();
    for address in attachments.iter().cloned().chain(pictures) {
        if !media.contains(&address) {
            media.push(address);
        }
    }
    let authors = authors(item);
    let mut entry = FeedEntry {
        id: text("id").unwrap_or_default(),
        title: text("title"),
        link: links.first().cloned(),
        links,
        summary,
        content: html.or(plain),
        author: authors.first().cloned(),
        authors,
        categories: texts(item.get("tags")),
        published: time(item.get("date_published")),
        updated: time(item.get("date_modified")),
        media,
        ..FeedEntry::default()
    };
    if entry == FeedEntry::default() {
        return None;
    }
    entry.language = text("language");
    Some(entry)
}

/// `author` of version 1, `authors` of 1.1: objects, or texts.
fn authors(object: &Map<String, Value>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let named = |value: &Value| match value {
        Value::Object(author) => ["name", "email", "url"].iter().find_map(|key| text_of(author.get(*key))),
        value => text_of(Some(value)),
    };
    for value in [object.get("author"), object.get("authors")].into_iter().flatten() {
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for name in list.iter().filter_map(named) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// A text, or the text of a number or of a boolean.
fn text_of(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => trimmed(text),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        _ => None,
    }
}

/// The texts of a list, or of a value that should be one.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(|one| text_of(Some(one))).collect(),
        value => text_of(value).into_iter().collect(),
    }
}

fn time(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => parse_timestamp(text),
        Value::Number(number) => timestamp_from_decimal(&number.to_string()).ok(),
        _ => None,
    }
}

fn full(text: &str, base: Option<&Url>) -> String {
    match (Url::parse(text), base) {
        (Ok(url), _) => url.into(),
        (Err(_), Some(base)) => base.join(text).map_or_else(|_| text.to_owned(), Into::into),
        (Err(_), None) => text.to_owned(),
    }
}

/// The items that can be read of a document that is not JSON as a whole: it breaks off, or one of them is damaged.
fn salvaged(text: &str) -> Map<String, Value> {
    let mut feed = Map::new();
    let Some(list) = text.find("\"items\"").and_then(|at| Some(at + text[at..].find('[')? + 1)) else { return feed };
    let mut items = Vec::new();
    let mut at = list;
    let mut damaged = 0;
    while let Some(open) = text[at..].find('{').map(|found| at + found) {
        let end = object_end(text.as_bytes(), open);
        let item = end.and_then(|end| serde_json::from_str::<Value>(&text[open..end]).ok());
        // A brace that was lost makes an item swallow the next one: the search goes on inside of what can't be read.
        at = if item.is_some() { end.unwrap_or(open + 1) } else { next_item(text, open + 1) };
        damaged += usize::from(item.is_none());
        items.extend(item);
        if damaged > DAMAGED_MAX {
            break;
        }
    }
    for key in ["title", "language", "home_page_url", "feed_url"] {
        let value = text[..list].find(&format!("\"{key}\"")).and_then(|at| {
            let value = text[at + key.len() + 2..list].trim_start().strip_prefix(':')?;
            serde_json::Deserializer::from_str(value).into_iter::<Value>().next()?.ok()
        });
        feed.extend(value.map(|value| (key.to_owned(), value)));
    }
    feed.insert("items".into(), Value::Array(items));
    feed
}

/// After so many items that can't be read, the rest is not looked at: each may cost a walk to the end.
const DAMAGED_MAX: usize = 64;

/// The next brace that may open an item: one whose first key is one that items have.
fn next_item(text: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(open) = text[at..].find('{').map(|found| at + found) {
        let inside = text[open + 1..].trim_start();
        if ["\"id\"", "\"url\"", "\"title\"", "\"content_", "\"date_", "\"external_url\"", "\"summary\""]
            .iter()
            .any(|key| inside.starts_with(key))
        {
            return open;
        }
        at = open + 1;
    }
    text.len()
}

/// Behind the brace that closes the object which opens at `open`.
fn object_end(bytes: &[u8], open: usize) -> Option<usize> {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for (at, &byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}
