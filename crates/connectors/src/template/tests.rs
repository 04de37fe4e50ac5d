//! Templates against rows and changes.

use super::*;
use crate::sink::tests::{change_schema, changes, row_schema, rows};

fn render(text: &str, batch: &RecordBatch) -> Vec<String> {
    let template = Template::parse(text, batch.schema_ref()).unwrap();
    let bound = template.bind(batch).unwrap();
    (0..batch.num_rows())
        .map(|row| {
            let mut out = String::new();
            bound.render(row, &mut out);
            out
        })
        .collect()
}

#[test]
fn values_stand_in_for_paths() {
    let batch = rows(
        0,
        &[
            serde_json::json!({"id": 7, "headline": "a \"b\"", "at": "2024-05-01T12:00:00.5Z", "sentiment": {"label": "positive", "score": 0.25}}),
            serde_json::json!({"id": 8}),
        ],
    )
    .batch;
    assert_eq!(render("news.{ sentiment.label }.{id}", &batch), ["news.positive.7", "news.null.8"]);
    assert_eq!(render("{headline}|{at}", &batch), ["a \"b\"|2024-05-01T12:00:00.500Z", "null|null"]);
    assert_eq!(render("{sentiment}", &batch), [r#"{"label":"positive","score":0.25}"#, "null"]);
    assert_eq!(render("{{{id}}} }} {{", &batch), ["{7} } {", "{8} } {"]);
    assert_eq!(render("", &batch), ["", ""]);
}

#[test]
fn of_a_change_the_new_image_is_meant_and_of_a_delete_the_old_one() {
    let batch = changes().batch;
    assert_eq!(render("{sentiment.label}.{id}", &batch), ["positive.1", "negative.1", "neutral.2"]);
    assert_eq!(
        render("{op} {key.id} {new.id} {old.sentiment.label}", &batch),
        ["insert 1 1 null", "update 1 1 positive", "delete 2 null neutral"]
    );
}

#[test]
fn a_wrong_path_names_the_nearest_column() {
    let wrong = |text: &str, schema: &Schema| Template::parse(text, schema).unwrap_err();
    let message = wrong("{sentimnt.label}", &row_schema());
    assert_eq!(
        message,
        "names `sentimnt`, which is no column; did you mean `sentiment`? (there are: id, headline, at, sentiment)"
    );
    assert!(wrong("{sentiment.lable}", &row_schema()).contains("did you mean `label`? (there are: label, score)"));
    assert!(wrong("{sentiment.lable}", &change_schema()).contains("did you mean `label`?"));
    assert!(wrong("{new.lable}", &change_schema()).contains("no column"));
    assert!(wrong("{id.x}", &row_schema()).contains("`id` has no fields: write `{id}`"));
    assert!(wrong("{}", &row_schema()).contains("without a column"));
    assert!(wrong("a{id", &row_schema()).contains("without its `}`"));
    assert!(wrong("a}id", &row_schema()).contains("without its `{`"));
}

#[test]
fn no_value_changes_the_path_of_a_url() {
    let url = |template: &str, value: &str| {
        let batch = rows(0, &[serde_json::json!({"id": 1, "headline": value})]).batch;
        let template = Template::parse(template, batch.schema_ref()).unwrap();
        template.bind(&batch).unwrap().render_for(Place::Url, 0)
    };
    for (value, wanted) in [
        ("a/b", "http://h/items/a%2Fb"),
        ("../../x", "http://h/items/..%2F..%2Fx"),
        ("%2e%2e", "http://h/items/%252e%252e"),
        ("a?b=c&d#e", "http://h/items/a%3Fb%3Dc%26d%23e"),
        ("@evil.example", "http://h/items/%40evil.example"),
        ("\\..\\\r\nX: y\0", "http://h/items/%5C..%5C%0D%0AX%3A%20y%00"),
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
    // Elsewhere the same values do no harm.
    assert_eq!(url("http://h/a{headline}", "").as_deref(), Ok("http://h/a"));
    assert_eq!(url("http://h/a..{headline}", "..").as_deref(), Ok("http://h/a...."));
    assert_eq!(url("http://h/?q={headline}", "..").as_deref(), Ok("http://h/?q=.."));
    assert_eq!(url("http://h?q=/{headline}", "").as_deref(), Ok("http://h?q=/"));
    assert_eq!(url("http://h/x//{id}", "").as_deref(), Ok("http://h/x//1"));
}

#[test]
fn a_columns_place_is_behind_the_host() {
    let fixed = |text: &str| Template::parse(text, &row_schema()).unwrap().has_fixed_host();
    assert!(fixed("https://h/{id}") && fixed("https://h?x={id}") && fixed("https://h"));
    for elsewhere in [
        "https://{headline}/",
        "https://{headline}.example.com/",
        "https://h{id}",
        "https://h:{id}/",
        "{headline}://h/",
    ] {
        assert!(!fixed(elsewhere), "{elsewhere}");
    }
}

#[test]
fn a_name_of_amqp_has_at_most_255_bytes() {
    let long = |n: usize| {
        let batch = rows(0, &[serde_json::json!({"id": 1, "headline": "x".repeat(n)})]).batch;
        let template = Template::parse("{headline}", batch.schema_ref()).unwrap();
        template.bind(&batch).unwrap().render_for(Place::ShortString, 0)
    };
    assert!(long(255).is_ok() && long(256).unwrap_err().contains("255 bytes"));
}
