//! Feeds as they are and should not be: an oddity costs one field at most, and damage what it hits.

use proptest::prelude::*;

use super::tests::feeds;
use super::*;

fn read(document: &str) -> Vec<FeedEntry> {
    parse_feed(document.as_bytes(), None, None).unwrap_or_else(|e| panic!("{}: {document}", e.message))
}

/// The only entry of an RSS document with these fields in its item.
fn item(fields: &str) -> FeedEntry {
    one(&format!("<rss version='2.0'><channel><title>Wire</title><item>{fields}</item></channel></rss>"))
}

fn one(document: &str) -> FeedEntry {
    let entries = read(document);
    assert_eq!(entries.len(), 1, "{document}");
    entries.into_iter().next().unwrap()
}

fn us(text: &str) -> Option<i64> {
    Some(millstream_core::json::parse_timestamp(text).unwrap())
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn every_date_of_the_case_is_its_title() {
    let entries = read(include_str!("cases/dates.xml"));
    assert_eq!(entries.len(), 16);
    for entry in entries {
        assert_eq!(entry.published, us(entry.title.as_deref().unwrap()), "{}", entry.id);
    }
}

#[test]
fn rss_of_any_version_and_namespace_is_read() {
    for (document, id) in [
        (include_str!("cases/rss-userland-namespace.xml"), "userland"),
        (include_str!("cases/rss-without-version.xml"), "none"),
        (include_str!("cases/rss-2.2.xml"), "v22"),
    ] {
        let entry = one(document);
        assert_eq!((entry.id.as_str(), entry.title.as_deref()), (id, Some("Rates held at 4 percent")));
        assert_eq!(entry.link, Some(format!("https://news.example/{id}")));
        assert_eq!(entry.published, us("2024-01-02T10:00:00Z"));
        assert_eq!(entry.feed_title.as_deref(), Some("Wire"));
    }
    for root in [
        "rss version='0.90'",
        "rss version=\"2.0.1\"",
        "rss version='two' xmlns='http://www.w3.org/2005/Atom'",
        "rss xmlns='http://purl.org/dc/elements/1.1/'",
        "rss xmlns='http://www.w3.org/1999/xhtml'",
        "rss xmlns='urn:mine'",
        "RSS",
        "rss xmlns:rss='http://purl.org/rss/1.0/'",
    ] {
        let name = root.split(' ').next().unwrap();
        let document = format!(
            "<{root}><channel xmlns='http://blogs.law.harvard.edu/tech/rss'><title>Wire</title><item><title>T</title>\
             <guid>g</guid><PubDate>2024-01-02</PubDate></item></channel></{name}>"
        );
        let entry = one(&document);
        assert_eq!((entry.id.as_str(), entry.title, entry.published), ("g", some("T"), us("2024-01-02")), "{root}");
    }
}

#[test]
fn a_prefix_for_everything_is_as_good_as_none() {
    for namespace in ["http://purl.org/rss/1.0/", "http://backend.userland.com/rss2", "urn:mine"] {
        let entry = one(&format!(
            "<r:rss xmlns:r='{namespace}' xmlns:s='urn:other'><r:channel><r:title>Wire</r:title><r:item><r:title>T\
             </r:title>\
             <r:guid>g</r:guid><r:pubDate>2024-01-02</r:pubDate></r:item></r:channel></r:rss>"
        ));
        assert_eq!(
            (entry.id.as_str(), entry.title, entry.published),
            ("g", some("T"), us("2024-01-02")),
            "{namespace}"
        );
        assert_eq!(entry.feed_title, some("Wire"));
    }
}

#[test]
fn rdf_of_both_versions_is_read_and_its_about_is_the_id() {
    for core in [
        "http://purl.org/rss/1.0/",
        "http://my.netscape.com/rdf/simple/0.9/",
        "http://channel.netscape.com/rdf/simple/0.9/",
    ] {
        let document = format!(
            "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns='{core}' \
             xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:c='http://purl.org/rss/1.0/modules/content/'>\
             <channel rdf:about='http://n.example/'><title>Wire</title>\
             <items><rdf:Seq><rdf:li resource='u:1'/></rdf:Seq></items>\
             <dc:language>en</dc:language></channel>\
             <item rdf:about='u:1'><title>One</title><link>http://n.example/1</link>\
             <dc:date>2024-01-02T11:00+01:00</dc:date>\
             <dc:creator>Ann</dc:creator><category>rates</category>\
             <c:encoded><![CDATA[<p>body</p>]]></c:encoded></item>\
             <item rdf:about='u:2'><title>Two</title></item></rdf:RDF>"
        );
        let entries = read(&document);
        assert_eq!(entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["u:1", "u:2"]);
        let first = &entries[0];
        assert_eq!((first.published, &first.author), (us("2024-01-02T10:00:00Z"), &some("Ann")));
        assert_eq!((&first.content, &first.categories[..]), (&some("<p>body</p>"), &["rates".to_owned()][..]));
        assert_eq!((&first.language, &first.feed_title), (&some("en"), &some("Wire")));
    }
}

#[test]
fn atom_of_both_versions_is_read_with_any_prefix() {
    let old = one(include_str!("cases/atom-0.3.xml"));
    assert_eq!((old.id.as_str(), old.title, old.content), ("tag:x,2024:1", some("Rates held"), some("body")));
    assert_eq!((old.published, old.updated), (us("2024-01-02T09:00:00Z"), us("2024-01-02T10:00:00Z")));
    assert_eq!((old.link, old.feed_title), (some("https://news.example/1"), some("Old")));
    for namespace in ["http://www.w3.org/2005/Atom", "https://www.w3.org/2005/Atom", "http://purl.org/atom/ns#"] {
        let entry = one(&format!(
            "<a:feed xmlns:a='{namespace}' xml:lang='en'><a:title>Wire</a:title><a:author><a:name>Desk</a:name>\
             </a:author>\
             <a:entry><a:id>1</a:id><a:title type='html'>A &lt;b&gt;</a:title><a:link href='http://n.example/1'/>\
             <a:updated>2024-01-02T10:00:00Z</a:updated>\
             <a:category term='x' label='y'/><a:category label='z'/></a:entry></a:feed>"
        ));
        assert_eq!((entry.id.as_str(), entry.title, entry.author), ("1", some("A <b>"), some("Desk")));
        assert_eq!(
            (entry.updated, &entry.categories[..]),
            (us("2024-01-02T10:00:00Z"), &["x".to_owned(), "z".to_owned()][..])
        );
        assert_eq!((entry.language, entry.feed_title), (some("en"), some("Wire")));
    }
    assert_eq!(one("<entry xmlns='http://www.w3.org/2005/Atom'><id>1</id></entry>").id, "1");
    let plain = one("<feed><entry><id>1</id><title>T</title></entry></feed>");
    assert_eq!((plain.id.as_str(), plain.title), ("1", some("T")));
    let modes = read(
        "<feed version='0.3' xmlns='http://purl.org/atom/ns#'><entry><id>1</id><content mode='base64'>Ym9keQ==\
         </content></entry>\
         <entry><id>2</id>\
         <content type='application/xhtml+xml' mode='xml'><div xmlns='http://www.w3.org/1999/xhtml'>a <b>c</b></div>\
         </content><created>2024-01-02</created></entry></feed>",
    );
    assert_eq!((&modes[0].content, &modes[1].content), (&some("body"), &some("a <b>c</b>")));
    assert_eq!(modes[1].published, us("2024-01-02"));
}

#[test]
fn content_of_any_type_is_read() {
    let entries = read(include_str!("cases/atom-odd-content-type.xml"));
    assert_eq!(entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["good", "svg"]);
    assert_eq!(entries[1].content, some("<svg xmlns=\"http://www.w3.org/2000/svg\"><text>hi</text></svg>"));
    for kind in ["", "no such type", "text/markdown; charset=x", "image/png", "XHTML", "html "] {
        let entry = one(&format!(
            "<feed xmlns='http://www.w3.org/2005/Atom'><entry><title type='{kind}'>T</title>\
             <content type='{kind}'>body</content>\
             </entry></feed>"
        ));
        assert_eq!((entry.title, entry.content), (some("T"), some("body")), "{kind}");
    }
    let empty =
        one("<feed xmlns='http://www.w3.org/2005/Atom'><entry><id>1</id><title/><content type='html'/></entry></feed>");
    assert_eq!((empty.title, empty.content), (None, None));
    let source =
        one("<feed xmlns='http://www.w3.org/2005/Atom'><entry><id>1</id><content src='http://n.example/a.mp4'>text\
         </content></entry></feed>");
    assert_eq!(source.content, some("text"));
}

#[test]
fn an_author_with_any_space_in_it_is_read() {
    let entries = read(include_str!("cases/author-nbsp.xml"));
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[1].author, some("News Desk"));
    for text in ["é desk@n.example", "desk@n.example é", "é<desk@n.example>é", "\u{a0}@\u{a0}", "@", "desk@n.example"]
    {
        let entry = item(&format!("<guid>1</guid><author>{}</author>", text.replace('<', "&lt;")));
        assert_eq!(entry.id, "1", "{text}");
    }
}

#[test]
fn json_feeds_with_fields_of_other_types_are_read() {
    let entries = read(include_str!("cases/jsonfeed-numeric-id.json"));
    assert_eq!(entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["a", "123"]);
    assert_eq!(entries[1].published, us("2024-01-02T10:00:00Z"));
    let entry = one(include_str!("cases/jsonfeed-no-title.json"));
    assert_eq!((entry.id.as_str(), entry.feed_title), ("notitle", None));
    let entry = one(r#"{"version":"https://jsonfeed.org/version/2","title":7,"authors":"Desk",
        "items":[3,null,{"id":1.5,"title":["x"],
        "url":null,"external_url":"http://n.example/1","tags":"one","date_published":1714566600,
        "date_modified":"1 May 2024 12:30 GMT",
        "author":[{"name":"Ann"},"Bob"],"content_html":false,
        "attachments":[{"url":"http://n.example/a.mp3"},{}],"image":"http://n.example/i.png"}]}"#);
    assert_eq!((entry.id.as_str(), entry.title, entry.feed_title), ("1.5", None, some("7")));
    assert_eq!((&entry.link, &entry.categories[..]), (&some("http://n.example/1"), &["one".to_owned()][..]));
    assert_eq!((entry.published, entry.updated), (us("2024-05-01T12:30:00Z"), us("2024-05-01T12:30:00Z")));
    assert_eq!(entry.authors, ["Ann", "Bob"]);
    assert_eq!(entry.media, ["http://n.example/a.mp3", "http://n.example/i.png"]);
}

#[test]
fn damaged_json_costs_the_items_that_it_hits() {
    let feed = r#"{"version":"https://jsonfeed.org/version/1.1","title":"Wire",
        "items":[{"id":"1","title":"a {"},{"id":"2","title":"b"},{"id":"3","title":"c","tags":[]}]}"#;
    let ids = |text: &str| read(text).into_iter().map(|e| e.id).collect::<Vec<_>>();
    assert_eq!(ids(feed), ["1", "2", "3"]);
    assert_eq!(ids(&feed[..feed.len() - 20]), ["1", "2"]);
    assert_eq!(ids(&feed.replace(r#"{"id":"2","title":"b"}"#, r#"{"id":"2","title":"b}"#)), ["1", "3"]);
    assert_eq!(ids(&feed.replace(r#"{"id":"2","title":"b"}"#, r#"{"id":"2","title":b}"#)), ["1", "3"]);
    assert_eq!(
        ids(&feed.replace(r#""tags":[]"#, &format!("\"_x\":{}{}", "[".repeat(500), "]".repeat(500)))),
        ["1", "2"]
    );
    assert_eq!(read(&feed[..feed.len() - 20])[0].feed_title, some("Wire"));
}

#[test]
fn the_encoding_is_that_of_the_mark_then_of_http_then_the_declared_one_unless_the_bytes_say_otherwise() {
    let entry = one(include_str!("cases/declared-utf16-is-utf8.xml"));
    assert_eq!(entry.title, some("Café"));
    let document = |declaration: &str| {
        format!(
            "<?xml version='1.0'{declaration}?><rss version='2.0'><channel><item><title>Café</title></item>\
             </channel></rss>"
        )
    };
    let latin = |text: &str| encoding_rs::WINDOWS_1252.encode(text).0.into_owned();
    let utf16 = |text: &str, mark: bool| -> Vec<u8> {
        let mark = mark.then_some(0xfeff_u16).into_iter();
        mark.chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let declared = |name: &str| document(&format!(" encoding='{name}'"));
    let utf8 = |text: String| text.into_bytes();
    for (what, bytes, charset) in [
        ("nothing is said", utf8(document("")), None),
        ("by http alone", latin(&document("")), Some("ISO-8859-1")),
        ("http before the declaration", latin(&declared("utf-8")), Some("ISO-8859-1")),
        ("http before the declaration", utf8(declared("iso-8859-1")), Some("utf-8")),
        ("http in quotes and capitals", latin(&document("")), Some("LATIN1")),
        ("declared", latin(&declared("iso-8859-1")), None),
        ("declared", latin(&declared("windows-1252")), None),
        ("a mark before all", [b"\xef\xbb\xbf".to_vec(), utf8(declared("iso-8859-1"))].concat(), Some("iso-8859-1")),
        ("a mark before all", utf16(&declared("utf-8"), true), Some("iso-8859-1")),
        ("utf-16 without a mark", utf16(&document(""), false), None),
        ("declared utf-8, is not, http is silent", latin(&document("")), None),
        ("http says utf-8, it is not, the declaration is right", latin(&declared("iso-8859-1")), Some("utf-8")),
        ("http says utf-16, it is not", utf8(document("")), Some("utf-16")),
        ("http says latin, the bytes and the declaration utf-8", utf8(declared("utf-8")), Some("iso-8859-1")),
        ("declared latin, is utf-8", utf8(declared("iso-8859-1")), None),
        ("unknown, is utf-8", utf8(declared("klingon")), Some("klingon")),
        ("unknown, is latin", latin(&declared("klingon")), None),
        ("unknown by http, declared", latin(&declared("iso-8859-1")), Some("klingon")),
    ] {
        let entries = parse_feed(&bytes, None, charset).unwrap();
        assert_eq!(entries[0].title, some("Café"), "{what}: {}", String::from_utf8_lossy(&bytes));
    }
    let cyrillic =
        encoding_rs::WINDOWS_1251.encode("<rss><channel><item><title>Ставка</title></item></channel></rss>").0;
    assert_eq!(parse_feed(&cyrillic, None, Some("windows-1251")).unwrap()[0].title, some("Ставка"));
    let japanese =
        "<?xml version='1.0' encoding='Shift_JIS'?><rss><channel><item><title>金利</title></item></channel></rss>";
    assert_eq!(parse_feed(&encoding_rs::SHIFT_JIS.encode(japanese).0, None, None).unwrap()[0].title, some("金利"));
    let json = latin(r#"{"version":"https://jsonfeed.org/version/1","items":[{"id":"1","title":"Café"}]}"#);
    assert_eq!(parse_feed(&json, None, Some("iso-8859-1")).unwrap()[0].title, some("Café"));
}

#[test]
fn a_bad_byte_is_replaced() {
    let bytes = b"<?xml version='1.0' encoding='utf-8'?><rss version='2.0'><channel><item><guid>1</guid>\
     <title>Rates \xff held</title></item>\
        <item><guid>2</guid><title>Caf\xc3\xa9</title></item></channel></rss>";
    let entries = parse_feed(bytes, None, None).unwrap();
    assert_eq!((&entries[0].title, &entries[1].title), (&some("Rates \u{fffd} held"), &some("Café")));
    let json = b"{\"version\":\"https://jsonfeed.org/version/1\",\"items\":[{\"id\":\"1\",\"title\":\"a\xff\"}]}";
    assert_eq!(parse_feed(json, None, None).unwrap()[0].title, some("a\u{fffd}"));
}

#[test]
fn references_are_resolved_and_a_bare_ampersand_is_one() {
    for (written, read) in [
        ("AT&T & Co", "AT&T & Co"),
        ("R&amp;D &lt;b&gt; &#233;&#xe9;&eacute;", "R&D <b> ééé"),
        ("a&nbsp;b &hellip; &mdash;", "a\u{a0}b … —"),
        ("&#146;s &#0; &#xd800; &#99999999999;", "\u{2019}s \u{fffd} \u{fffd} \u{fffd}"),
        ("&unknown; &; &#; &#x; &", "&unknown; &; &#; &#x; &"),
        ("1 < 2 && 3 > 2", "1 < 2 && 3 > 2"),
        ("a <![CDATA[<i>&amp;</i>]]> b", "a <i>&amp;</i> b"),
        ("&#8217", "\u{2019}"),
    ] {
        assert_eq!(item(&format!("<title>{written}</title>")).title, some(read), "{written}");
    }
    let html = item("<description>a&nbsp;&lt;b&gt;R&amp;amp;D&lt;/b&gt; & c</description>");
    assert_eq!(html.summary, some("a&nbsp;<b>R&amp;D</b> & c"), "it is HTML still");
    assert_eq!(item("<link>http://n.example/?a=1&b=2&copy=3</link>").link, some("http://n.example/?a=1&b=2&copy=3"));
    assert_eq!(item("<enclosure url='http://n.example/?a=1&amp;b=2&c=3'/>").media, ["http://n.example/?a=1&b=2&c=3"]);
}

#[test]
fn a_guid_that_is_a_permalink_is_the_link_where_there_is_no_other() {
    let address = "https://news.example/1";
    let entry = item(&format!("<guid>{address}</guid>"));
    assert_eq!((entry.id.as_str(), entry.link.as_deref(), entry.links.len()), (address, Some(address), 0));
    assert_eq!(item(&format!("<guid isPermaLink='true'>{address}</guid>")).link, some(address));
    assert_eq!(item(&format!("<guid isPermaLink='false'>{address}</guid>")).link, None);
    assert_eq!(item("<guid>tag:news.example,2024:1</guid>").link, None);
    assert_eq!(item("<guid>1</guid>").link, None);
    assert_eq!(
        item(&format!("<guid>{address}</guid><link>https://news.example/2</link>")).link,
        some("https://news.example/2")
    );
    assert_eq!(item(&format!("<guid>{address}</guid><link/>")).link, some(address));
}

#[test]
fn tags_that_are_not_closed_cost_no_other_field() {
    for fields in [
        "<guid>1<title>T</title><link>http://n.example/1</link>",
        "<guid>1</guid><link href='http://n.example/1'><title>T</title>",
        "<guid>1</guid><category term='a'><link href='http://n.example/1'><title>T</title>",
        "<title>T</title></b></p><guid>1</guid><link>http://n.example/1</link>",
        "<title>T</Title><guid>1</GUID><link>http://n.example/1</link>",
        "<description>text <p>more<br><guid>1</guid></description><guid>1</guid><title>T</title>\
         <link>http://n.example/1</link>",
        "<description>text<guid>1</guid><title>T</title><link>http://n.example/1</link>",
        "<title>T</title><guid>1</guid><link>http://n.example/1</link><description><![CDATA[text</description>",
        "<title>T</title><guid>1</guid><link>http://n.example/1</link><description>a <!-- b</description>",
        "<title>T</title><guid>1</guid><link>http://n.example/1</link><description>a <b c='</description>",
    ] {
        let document = format!(
            "<rss version='2.0'><channel><item>{fields}</item><item><title>Next</title><guid>2</guid></item>\
             </channel></rss>"
        );
        let entries = read(&document);
        assert_eq!(entries.len(), 2, "{fields}");
        let entry = &entries[0];
        assert_eq!((entry.id.as_str(), entry.title.as_deref()), ("1", Some("T")), "{fields}");
        assert_eq!(entry.link.as_deref(), Some("http://n.example/1"), "{fields}");
        assert_eq!(entries[1].title, some("Next"), "{fields}");
    }
    let open = read("<rss><channel><item><guid>1</guid><item><guid>2</guid></channel></rss>");
    assert_eq!(open.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn a_document_that_breaks_off_loses_the_text_that_it_breaks_off_in() {
    let whole = "<rss version='2.0'><channel><title>Wire</title><item><title>One</title><guid>1</guid></item>\
     <item><guid>2</guid>\
        <title>Two</title><description>Some text";
    let entries = read(whole);
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[1].title, &entries[1].summary), (&some("Two"), &None));
    assert_eq!(entries[0].feed_title, some("Wire"));
}

#[test]
fn entries_outlive_what_is_around_them() {
    for document in [
        "<fXed xmlns='http://www.w3.org/2005/Atom'><entry><id>1</id><title>T</title></entry></feed>",
        "ww.w3.org/2005/Atom'><entry><id>1</id><title>T</title></entry></feed>",
        "s version='2.0'><chann><item><guid>1</guid><title>T</title></item></channel></rss>",
        "<rss version='2.0'><channe><item><guid>1</guid><title>T</title></item></channel></rss>",
    ] {
        let entry = one(document);
        assert_eq!((entry.id.as_str(), entry.title), ("1", some("T")), "{document}");
    }
    let rest = "ed xmlns='http://www.w3.org/2005/Atom'><title>Wire</title>\
        <entry><id>1</id></entry><entry><id>2</id></entry></feed>";
    assert_eq!(read(rest).iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn what_stands_before_and_behind_the_feed_is_passed_over() {
    let feed = "<rss version='2.0'><channel><item><guid>1</guid></item></channel></rss>";
    for document in [
        format!("\n\n  <?xml version='1.0'?>{feed}"),
        format!("<br />\n<b>Warning</b>: in x.php<br/>{feed}"),
        format!("{feed}<!-- served in 3 ms --><script>var a = 1 < 2;</script>"),
        format!("{feed}{feed}"),
        format!(
            "<?xml-stylesheet href='x'?>\
             <!DOCTYPE rss PUBLIC '-//Netscape//DTD RSS 0.91//EN' 'http://192.0.2.1/x.dtd'>{feed}"
        ),
        format!("<!DOCTYPE rss [<!ENTITY % HTMLlat1 PUBLIC '-//W3C//X' 'http://192.0.2.1/x.ent'> %HTMLlat1;]>{feed}"),
        format!("<!DOCTYPE rss [<!ENTITY nbsp '&#160;'>]>{feed}"),
    ] {
        assert_eq!(read(&document)[0].id, "1", "{document}");
    }
    let secret =
        one("<!DOCTYPE rss [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><rss><channel><item><title>&x;</title></item>\
         </channel></rss>");
    assert_eq!(secret.title, some("&x;"));
}

#[test]
fn a_feed_without_entries_is_none_to_complain_about_and_a_document_of_which_nothing_is_read_is() {
    for document in [
        "<rss version='2.0'><channel><title>Wire</title></channel></rss>",
        "<rss><channel/></rss>",
        "<feed xmlns='http://www.w3.org/2005/Atom'><title>Wire</title></feed>",
        "<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><channel><title>Wire</title></channel>\
         </rdf:RDF>",
        r#"{"version":"https://jsonfeed.org/version/1","title":"Wire","items":[]}"#,
    ] {
        assert_eq!(read(document), [], "{document}");
    }
    for (document, says) in [
        ("", "neither XML nor JSON"),
        ("not found", "neither XML nor JSON"),
        ("<html><body>Be right back", "outermost element is `html`"),
        ("<rss version='2.0'/>", "neither a channel nor an entry"),
        ("<rss><channel><title>Wire", "damaged"),
        ("<rss><channel><item/><item></item></channel></rss>", "none of the entries"),
        ("<rss><channel><x:item xmlns:x='urn:x'><x:title>T</x:title></x:item></channel></rss>", "none of the entries"),
        ("<catalog><item><title>T</title></item></catalog>", "outermost element is `catalog`"),
        (r#"{"version":"https://jsonfeed.org/version/1","title":"Wire"}"#, "no `items`"),
        (r#"{"items":[{"id":"#, "none of its items"),
        ("[1]{", "not JSON"),
    ] {
        let failure = parse_feed(document.as_bytes(), None, None).unwrap_err();
        assert!(failure.message.contains(says), "{document}: {}", failure.message);
        assert_eq!(failure.kind, FailureKind::Malformed);
    }
}

#[test]
fn addresses_start_from_the_base_that_stands_nearest() {
    let document = "<feed xmlns='http://www.w3.org/2005/Atom' xml:base='/a/'><entry xml:base='b/'><id>1</id>\
     <link href='c?x=1&amp;y=2'/>\
        </entry></feed>";
    let entries = parse_feed(document.as_bytes(), Some("http://n.example/feed"), None).unwrap();
    assert_eq!(entries[0].link, some("http://n.example/a/b/c?x=1&y=2"));
    assert_eq!(entries[0].feed_url, some("http://n.example/feed"));
    assert_eq!(one(document).link, some("c?x=1&y=2"));
    assert_eq!(item("<link>http://[bad/</link>").link, some("http://[bad/"));
}

#[test]
fn media_and_extensions_are_read_wherever_they_are_declared() {
    let entry = item(
        "<guid>1</guid><media:group xmlns:media='http://search.yahoo.com/mrss'>\
         <media:content url='http://n.example/v.mp4' duration='x'/>\
         <media:thumbnail url='http://n.example/t.png'/></media:group>\
         <enclosure url='http://n.example/a.mp3' length='-1'/>\
         <itunes:image href='http://n.example/i.png'/><itunes:duration>99999999999999999999</itunes:duration>\
         <itunes:author>Ann</itunes:author><dc:date>2024-01-02</dc:date><content:encoded>full</content:encoded>\
         <atom:link rel='alternate' href='http://n.example/1'/>",
    );
    assert_eq!(
        entry.media,
        ["http://n.example/v.mp4", "http://n.example/t.png", "http://n.example/a.mp3", "http://n.example/i.png"]
    );
    assert_eq!((entry.author, entry.published, entry.content), (some("Ann"), us("2024-01-02"), some("full")));
    assert_eq!(entry.link, some("http://n.example/1"));
    let deep =
        format!("<guid>1</guid>{}x{}<title>T</title>", "<media:group>".repeat(5_000), "</media:group>".repeat(5_000));
    assert_eq!(item(&deep).title, some("T"));
}

#[test]
fn the_example_of_the_documentation_is_what_comes_out() {
    let page = include_str!("../../../../../docs/decoding.md");
    let feeds = page.split("\n## Feeds\n").nth(1).unwrap();
    let block = |language: &str| feeds.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap();
    let entries = parse_feed(block("xml").as_bytes(), Some("https://news.example/feed.xml"), None).unwrap();
    let shown: serde_json::Value = serde_json::from_str(block("json")).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&entries[0].to_json()).unwrap(), shown);
    for field in entry_schema().fields {
        assert!(feeds.contains(&format!("`{}`", field.name)), "{} is not in the table", field.name);
    }
}

/// A document with `count` bytes taken out, put in or changed at places drawn from `seed`.
fn damaged(bytes: &[u8], seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut state = seed | 1;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for _ in 0..count {
        let at = draw(bytes.len());
        match draw(4) {
            0 => bytes[at] = draw(256) as u8,
            1 => bytes[at] = b"<>&\"'/]![{}\0"[draw(12)],
            2 => {
                let end = (at + 1 + draw(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => bytes.insert(at, draw(256) as u8),
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

#[test]
fn a_little_damage_costs_a_little() {
    for (index, path) in feeds().into_iter().enumerate() {
        let bytes = std::fs::read(&path).unwrap();
        let whole = parse_feed(&bytes, None, None).unwrap().len();
        for round in 0..20 {
            let damaged = damaged(&bytes, (index * 1000 + round) as u64 * 7919, 1);
            let left = parse_feed(&damaged, None, None).map_or(0, |entries| entries.len());
            // One byte or twenty: the entry that they stand in, and where they open what never closes, its neighbour.
            assert!(left + 3 >= whole, "{} {round}: {left} of {whole}", path.display());
        }
        for cut in 1..20 {
            let end = bytes.len() * cut / 20;
            let left = parse_feed(&bytes[..end], None, None).map_or(0, |entries| entries.len());
            let text = String::from_utf8_lossy(&bytes[..end]);
            let begun = text.matches("</item>").count() + text.matches("</entry>").count();
            assert!(left >= begun, "{} cut at {end}: {left} of {begun}", path.display());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_damage_makes_it_panic(seed in any::<u64>(), count in 1_usize..200) {
        let files = feeds();
        if files.is_empty() {
            // They are not on this machine.
            return Ok(());
        }
        let bytes = std::fs::read(&files[seed as usize % files.len()]).unwrap();
        let _ = parse_feed(&damaged(&bytes, seed, count), Some("http://n.example/"), None);
    }

    #[test]
    fn no_markup_makes_it_panic(
        text in concat!(
            r#"(<|>|</|/>|<!|<\?xml |\?>|rss|channel|item|entry|title|link|a:b| |=|"|'|&|;|#x|\[|\]\]>|CDATA\[|"#,
            r#"DOCTYPE|ENTITY|--|é|\{|\}|"items":\[|"id":1){0,60}"#
        ),
    ) {
        let _ = parse_feed(text.as_bytes(), None, None);
        let _ = parse_feed(format!("<rss><channel><item><title>{text}").as_bytes(), None, None);
        let _ = parse_feed(format!("{{\"items\":[{text}").as_bytes(), None, None);
    }
}
