//! Every function has an example that is right, and stands in the docs.

use std::path::Path;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use millstream_sql::{Function, FunctionKind, QueryEngine, functions};

use crate::support::json;

/// What an example gives: the value, or the rows of a SELECT with several columns.
async fn result_of(function: &Function) -> String {
    let sql = function.example_sql();
    let result = match QueryEngine::new(64 << 20).unwrap().run(&sql).await {
        Ok(result) => result,
        Err(error) => return format!("{sql}: {error}"),
    };
    let schema = result.schema.clone();
    let batches: Vec<RecordBatch> = match result.stream.try_collect().await {
        Ok(batches) => batches,
        Err(error) => return format!("{sql}: {error}"),
    };
    let rows = json(&arrow::compute::concat_batches(&schema, &batches).unwrap());
    match rows.as_slice() {
        // Null fields are left out.
        [row] if row.as_object().is_some_and(serde_json::Map::is_empty) => "null".into(),
        [row] if row.get("result").is_some() => row["result"].to_string(),
        rows => rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

#[tokio::test]
async fn every_function_has_an_example_with_the_right_result() {
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/catalog/examples.txt");
    let mut text = std::fs::read_to_string(&path).unwrap();
    for function in functions() {
        assert!(!function.example.is_empty(), "{} has no example in {}", function.name, path.display());
        assert!(!function.description.is_empty() && !function.signature.contains('\n'), "{}", function.name);
        let result = result_of(&function).await;
        if update {
            let line = format!("\t{}\t{}", function.example, function.result);
            text = text.replace(&line, &format!("\t{}\t{result}", function.example));
        } else {
            assert_eq!(result, function.result, "{}", function.example);
        }
    }
    if update {
        std::fs::write(&path, &text).unwrap();
    }
    let names: Vec<String> = functions().into_iter().map(|f| f.name).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split('\t').next().unwrap().trim_start_matches("window ");
        assert!(names.iter().any(|n| n == name), "there is no function {name}");
    }
}

/// The page about functions.
fn page() -> String {
    let mut page = String::from(
        "# Functions\n\n<!-- Made from the code by a test; `UPDATE_DOCS=1 cargo test -p millstream-sql catalog` writes it again. -->\n\n\
         Every function that SQL may call, with an example and its result as JSON; a test runs each of them. `millstream functions`\n\
         prints the same list, `millstream functions NAME` one of them.\n",
    );
    for (kind, title, text) in [
        (FunctionKind::Scalar, "Of one row", "They work in transforms, `delete_when` and queries."),
        (FunctionKind::Aggregate, "Of many rows", "Aggregates work in queries."),
        (
            FunctionKind::Window,
            "Of the rows around",
            "Window functions work in queries, with `OVER`; so do aggregates.",
        ),
    ] {
        page.push_str(&format!("\n## {title}\n\n{text}\n"));
        for function in functions().iter().filter(|f| f.kind == kind) {
            let names: Vec<String> = function.aliases.iter().map(|alias| format!("`{alias}`")).collect();
            let also = if names.is_empty() { String::new() } else { format!(" Also: {}.", names.join(", ")) };
            page.push_str(&format!("\n### `{}`\n\n{}{also}\n\n", function.signature, function.description));
            page.push_str(&format!("```sql\n{}\n-- {}\n```\n", function.example, function.result));
        }
    }
    page
}

#[test]
fn the_page_about_functions_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/functions.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "docs/functions.md is old: UPDATE_DOCS=1 cargo test -p millstream-sql catalog writes it"
    );
}
