//! What `validate` says about traps of YAML and about SQL, and that one mistake hides no other.

use serde_json::Value;

use crate::support::Place;

/// The findings about a pipeline file: line, column and text.
fn findings(pipeline: &str) -> Vec<(u64, u64, String)> {
    let place = Place::new(pipeline);
    let report = place.output(&["validate", "--format", "json", "pipeline.yaml"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let text = |d: &Value| format!("{} | {}", d["message"].as_str().unwrap(), d["help"].as_str().unwrap_or_default());
    let findings = report["diagnostics"].as_array().unwrap().iter();
    findings.map(|d| (d["line"].as_u64().unwrap(), d["column"].as_u64().unwrap(), text(d))).collect()
}

const SOURCE: &str = "pipeline: p
sources:
  s: { type: file, path: ./in.jsonl, schema: { id: string, n: int, doc: json } }
";

#[test]
fn all_mistakes_are_said_at_once_also_those_in_sql() {
    let found = findings(
        "pipeline: p
sources:
  s: { type: file, path: ./in.jsonl, schema: { id: string, n: int }, partitons: 2 }
transforms:
  one: { sql: \"SELECT id FROM s WHERE n = 'abc'\" }
  two: { sql: \"SELECT id, nn FROM s\", on_eror: fail }
  three: { sql: \"SELECT id FROM one\" }
tables:
  k: { from: s, key: [idd], delete_when: \"n = 'x'\", tttl: 3d }
",
    );
    let expected = [
        (3, 70, "unknown key `partitons`"),
        (5, 39, "`n` is an int: 'abc' can't be compared with it"),
        (6, 27, "no column `nn`"),
        (6, 39, "unknown key `on_eror`"),
        (9, 23, "there is no column `idd`"),
        (9, 43, "`n` is an int: 'x' can't be compared with it"),
        (9, 53, "unknown key `tttl`"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((line, column, text), (at, from, start)) in found.iter().zip(expected) {
        assert_eq!((*line, *column), (at, from), "{text}");
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn sql_that_yaml_cuts_is_said_with_its_place() {
    for (transform, line, column, what) in [
        ("  t: { sql: SELECT id, n FROM s }", 5, 22, "in braces a comma ends a value"),
        ("  t:\n    sql: SELECT id FROM s WHERE id = ' #x'", 6, 40, "` #` begins a comment"),
        ("  t:\n    sql: SELECT 'a: b' AS x, id FROM s", 6, 10, "no valid YAML without quotes"),
        ("  t: { sql: SELECT id, doc[1] AS a FROM s }", 5, 13, "no valid YAML without quotes"),
    ] {
        let found = findings(&format!("{SOURCE}transforms:\n{transform}\n"));
        let [(at, from, text)] = found.as_slice() else { panic!("{transform}: {found:#?}") };
        assert_eq!((*at, *from), (line, column), "{text}");
        assert!(text.contains(what) && text.contains("quote") && text.contains('|'), "{text}");
    }
}

#[test]
fn tabs_and_wrong_indentation_are_named_with_their_line() {
    for (text, line, what) in [
        ("sources:\n  s:\n\t type: file\n    path: x\n", 4, "indented with a tab"),
        ("sources:\n  s:\n    type: file\n   path: x\n", 5, "indented by 3 spaces, which fits nothing above it"),
        ("sources:\n  s:\n    type: file\n      path: x\n", 5, "indented by 6 spaces, deeper than the one above"),
    ] {
        let found = findings(&format!("pipeline: p\n{text}"));
        let [(at, _, said)] = found.as_slice() else { panic!("{text}: {found:#?}") };
        assert!(*at == line && said.contains(what), "{text}: {found:#?}");
    }
}

#[test]
fn what_is_wrong_with_an_operand_is_said_in_the_words_of_the_file() {
    for (expr, what) in [
        ("doc.a", "`doc` is json: write `doc->'a'`"),
        ("abs(id)", "`id` is a string, which abs does not take"),
        ("id + 1", "`id` is a string and `1` is an int"),
        ("lenght(id)", "there is no function `lenght`"),
        ("upper(doc->'a')", "->>"),
        ("JSON_VALUE(id)", "json_value takes json and a path"),
    ] {
        let found = findings(&format!("{SOURCE}transforms:\n  t: {{ sql: \"SELECT {expr} AS x FROM s\" }}\n"));
        let [(line, column, said)] = found.as_slice() else { panic!("{expr}: {found:#?}") };
        assert_eq!((*line, *column), (5, 21), "{said}");
        assert!(said.contains(what) && !said.contains("DataFusion"), "{said}");
    }
}

#[test]
fn a_wrong_path_into_json_is_named_with_its_place() {
    let call = "JSON_VALUE(doc, '$.a..b' NULL ON EMPTY)";
    let transform = format!("transforms:\n  t:\n    sql: |\n      SELECT\n        {call} AS x\n      FROM s\n");
    let found = findings(&format!("{SOURCE}{transform}"));
    let [(line, column, said)] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((*line, *column), (8, 30), "{said}");
    assert!(said.contains("write each step"), "{said}");
}

#[test]
fn a_constant_that_always_fails_gets_a_warning_and_kills_no_record_that_where_excludes() {
    let place = Place::new(
        "pipeline: p
sources:
  s: { type: file, path: ./in.jsonl, schema: { id: string } }
transforms:
  t: { sql: \"SELECT id, 10000000000*10000000000 AS x, 1/0 AS y FROM s WHERE id = 'none'\" }
tables:
  k: { from: t, key: [id] }
",
    );
    place.write("in.jsonl", "{\"id\":\"a\"}\n");
    let output = place.output(&["validate", "pipeline.yaml"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.matches("fails for every record").count() == 2, "{said}");
    place.run();
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
}

#[test]
fn functions_are_listed_with_examples_and_a_wrong_name_is_corrected() {
    let place = Place::new("");
    let said = place.stdout(&["functions", "date_trunc"]);
    assert!(
        said.contains("date_trunc('hour', TIMESTAMP '2024-05-01T12:38:00Z')\n  -- \"2024-05-01T12:00:00Z\""),
        "{said}"
    );
    let listed = place.stdout(&["functions", "--format", "json"]);
    assert!(listed.contains("\"substr_index\"") && listed.contains("\"example\""), "{listed}");
    assert!(place.fails(2, &["functions", "uper"]).contains("did you mean `upper`?"));
}

#[test]
fn endpoints_of_models_are_looked_at_and_never_asked() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pipeline = format!(
        "{SOURCE}models:
  far: {{ task: text-classification, source: \"http://127.0.0.1:{port}/hush\", protocol: tei, labels: [a, b] }}
  near: {{ task: text-classification, source: builtin:headline-sentiment }}
transforms:
  scored: {{ from: s, predict: {{ model: far, input: id, output: o }} }}
  again: {{ from: s, predict: {{ model: near, input: id, output: o }} }}
"
    );
    let place = Place::new(&pipeline);
    place.write("in.jsonl", "");
    let said = place.stdout(&["validate", "--connect", "pipeline.yaml"]);
    assert!(said.contains(&format!("model far: ok (127.0.0.1:{port} answers)")), "{said}");
    assert!(!said.contains("near") && !said.contains("hush"), "{said}");
    drop(listener);
    let output = place.output(&["validate", "--connect", "pipeline.yaml"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("model far: away: ") && said.contains("can't be reached"), "{said}");
}
