//! Values that try to be more than a value.

use super::*;
use crate::payload::tests::rows;
use crate::template::Template;

fn render(place: Place, template: &str, value: &str) -> Result<String, String> {
    let batch = rows(0, &[serde_json::json!({"id": 1, "headline": value})]).batch;
    let template = Template::parse(template, batch.schema_ref(), place).unwrap();
    template.bind(&batch).unwrap().render(0)
}

#[test]
fn no_value_changes_the_path_of_a_url() {
    let url = |template: &str, value: &str| render(Place::Url, template, value);
    for (value, wanted) in [
        ("a/b", "http://h/items/a%2Fb"),
        ("%2e%2e", "http://h/items/%252e%252e"),
        ("100%", "http://h/items/100%25"),
        ("https://a.example/x", "http://h/items/https%3A%2F%2Fa.example%2Fx"),
        ("a?b=c&d#e", "http://h/items/a%3Fb%3Dc%26d%23e"),
        ("@evil.example", "http://h/items/%40evil.example"),
        ("...", "http://h/items/..."),
        ("ü", "http://h/items/%C3%BC"),
    ] {
        assert_eq!(url("http://h/items/{headline}", value).as_deref(), Ok(wanted), "{value}");
    }
    for value in ["", ".", ".."] {
        for template in
            ["http://h/items/{headline}", "http://h/{headline}/x", "http://h/{headline}?a=1", "http://h/{headline}#a"]
        {
            let refused = url(template, value).unwrap_err();
            assert!(refused.contains("with this row's values"), "{template}: {refused}");
        }
    }
    for (template, value) in
        [("http://h/{headline}{headline}", "."), ("http://h/.{headline}", "."), ("http://h/%2e{headline}", ".")]
    {
        assert!(url(template, value).is_err(), "{template}");
    }
    for value in [
        "../x",
        "a/..",
        "./a",
        "a/./b",
        "%2e%2e/x",
        "%2e%2e%2fx",
        "%252e%252e%252fx",
        "a%2f..%2fb",
        "..;x=1/a",
        "a\\b",
        "%5c..%5c",
        "a\0",
        "a%00",
        "\r\nX: y",
        "a%0d%0a",
    ] {
        let refused = url("http://h/items/{headline}", value).unwrap_err();
        assert!(refused.contains("with this row's values"), "{value}: {refused}");
        assert!(url("http://h/items?q={headline}", value).is_ok(), "{value} in the query");
    }
    // Elsewhere the same values do no harm.
    assert_eq!(url("http://h/a{headline}", "").as_deref(), Ok("http://h/a"));
    assert_eq!(url("http://h/a..{headline}", "..").as_deref(), Ok("http://h/a...."));
    assert_eq!(url("http://h/?q={headline}", "..").as_deref(), Ok("http://h/?q=.."));
    assert_eq!(url("http://h?q=/{headline}", "").as_deref(), Ok("http://h?q=/"));
    assert_eq!(url("http://h/x//{id}", "").as_deref(), Ok("http://h/x//1"));
}

#[test]
fn a_value_is_one_word_of_a_routing_key() {
    let key = |template: &str, value: &str| render(Place::RoutingKey, template, value);
    assert_eq!(key("news.{headline}.x", "de").as_deref(), Ok("news.de.x"));
    assert_eq!(key("{headline}", "a.b.c").as_deref(), Ok("a.b.c"), "the whole key");
    assert_eq!(key("{headline}", "").as_deref(), Ok(""), "the whole key");
    for value in ["de.admin", "", "a\nb", "a\0"] {
        assert!(key("news.{headline}.x", value).is_err(), "{value:?}");
    }
    assert!(key("{headline}", "a\rb").is_err());
    assert!(key("{headline}", &"x".repeat(255)).is_ok());
    assert!(key("{headline}", &"x".repeat(256)).unwrap_err().contains("255 bytes"));
}

#[test]
fn no_value_ends_a_header() {
    assert_eq!(render(Place::HttpHeader, "a {headline}", "b c").as_deref(), Ok("a b c"));
    for value in ["a\r\nX: y", "a\nb", "a\0", "\u{7f}", "\u{9b}", "ü"] {
        assert!(render(Place::HttpHeader, "a {headline}", value).is_err(), "{value:?}");
    }
    // A message's header has a length: only NUL is of no use in it.
    assert_eq!(render(Place::MessageHeader, "{headline}", "zwei\nZeilen ü").as_deref(), Ok("zwei\nZeilen ü"));
    assert!(render(Place::MessageHeader, "{headline}", "a\0").is_err());
}

#[test]
fn no_value_leaves_its_folder_or_hides_a_file() {
    let name = |template: &str, value: &str| render(Place::FileName, template, value);
    assert_eq!(name("{headline}/news-{id}", "de").as_deref(), Ok("de/news-1"));
    assert_eq!(name("{headline}", "Zürich 1.2").as_deref(), Ok("Zürich 1.2"));
    let long = "x".repeat(256);
    for value in [
        "../x",
        "a/b",
        "a\\b",
        "",
        ".",
        "..",
        ".hidden",
        "a.",
        "a ",
        "a\0",
        "a\n",
        "\u{202e}fdp",
        "con",
        "NUL.txt",
        "com1",
        "LPT9.log",
        "a:b",
        "a*",
        &long,
    ] {
        assert!(name("{headline}", value).is_err(), "{value:?}");
        assert!(name("x/{headline}/y", value).is_err(), "{value:?}");
    }
    assert_eq!(name("news-{headline}.jsonl", "").as_deref(), Ok("news-.jsonl"));
}

#[test]
fn a_line_on_a_terminal_stays_one_line() {
    let line = render(Place::TerminalLine, "{headline}\n", "a\nb\x1b[2J\u{202e}c");
    assert_eq!(line.as_deref(), Ok("a\\nb\\x1b[2J\\u{202e}c\n"));
    assert_eq!(render(Place::Text, "{headline}", "a\nb").as_deref(), Ok("a\nb"));
}
