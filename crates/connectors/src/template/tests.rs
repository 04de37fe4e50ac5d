//! Templates against rows and changes.

use super::*;
use crate::payload::tests::{change_schema, changes, row_schema, rows};

fn render(text: &str, batch: &RecordBatch) -> Vec<String> {
    let template = Template::parse(text, batch.schema_ref(), Place::Text).unwrap();
    let bound = template.bind(batch).unwrap();
    (0..batch.num_rows()).map(|row| bound.render(row).unwrap()).collect()
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
    let wrong = |text: &str, schema: &Schema| Template::parse(text, schema, Place::Text).unwrap_err();
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
fn a_columns_place_is_behind_the_host() {
    let fixed = |text: &str| Template::parse(text, &row_schema(), Place::Url).unwrap().has_fixed_host();
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
