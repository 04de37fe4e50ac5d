//! What a pipeline file may say, and what a person is told about one that is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};

use crate::config::PipelineFile;
use crate::config::diagnostics::{Diagnostics, Severity};
use millstream_engine::spec::{OnError, Pipeline, TransformKind};

mod models;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "WORD" => "four",
        "FOUR" => "4",
        "PASSWORD" => "correct-horse-battery",
        "DIGITS" => "123456",
        "AMQP" => "amqp://user:correct-horse-battery@broker/%2f",
        "EVIL" => "id\n    partitions: 900\n    follow: true",
        "EMPTY" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Result<PipelineFile, Diagnostics> {
    PipelineFile::parse("pipeline.yaml", text, Path::new("folder"), &env, &|_| Ok(()))
}

fn checked(text: &str) -> Pipeline {
    parse(text).unwrap_or_else(|wrong| panic!("{wrong}")).pipeline
}

fn columns(schema: &SchemaRef) -> Vec<&str> {
    schema.fields().iter().map(|f| f.name().as_str()).collect()
}

/// The table of wrong files. `UPDATE_GOLDEN=1` writes down what is said now.
#[test]
fn a_wrong_file_gets_exactly_the_written_diagnostics() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/wrong.txt");
    let golden = std::fs::read_to_string(&path).unwrap();
    let mut now = String::new();
    for case in golden.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (yaml, _) = rest.split_once("\n---\n").unwrap();
        // A case that needs the separator in its YAML writes it with a mark.
        let said = match parse(&yaml.replace("---!", "---")) {
            Ok(pipeline) => format!("accepted, {} warnings\n", pipeline.warnings.len()),
            Err(wrong) => wrong.to_string(),
        };
        now.push_str(&format!("=== {title}\n{yaml}\n---\n{said}\n"));
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    for (is, was) in now.split("=== ").zip(golden.split("=== ")) {
        assert_eq!(is.trim_end(), was.trim_end());
    }
    assert_eq!(now.matches("\n---\naccepted").count(), 0, "a case is not wrong");
}

const NEWS: &str = include_str!("tests/news.yaml");

#[test]
fn a_whole_file_becomes_a_pipeline_with_every_type_known() {
    let PipelineFile { pipeline: p, warnings } = parse(NEWS).unwrap();
    assert_eq!(&*p.name, "news");
    assert_eq!(p.version.len(), 12);
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((p.settings.max_backlog, p.settings.memory), (64 << 20, 512 << 20));
    let wire = p.source("wire").unwrap();
    assert_eq!(
        columns(&wire.schema),
        ["id", "headline", "body", "language", "published_at", "tags", "author", "_raw", "_received_at"]
    );
    assert_eq!(wire.event_time, Some(4));
    assert_eq!((wire.key.as_slice(), wire.partitions), (&[0][..], 4));
    assert_eq!(wire.watermark.delay, Duration::from_secs(30));
    assert_eq!(wire.retention.time, Some(Duration::from_secs(86_400)));
    assert_eq!(wire.retention.size, Some(5 << 30));
    assert!(
        wire.schema.field(5).is_nullable() && wire.schema.field(6).is_nullable() && !wire.schema.field(0).is_nullable()
    );
    assert_eq!(p.transforms.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["english", "scored"]);
    let TransformKind::Predict(predict) = &p.transforms[1].kind else { panic!() };
    assert_eq!(predict.input, millstream_engine::spec::PredictInput::Text(1));
    assert_eq!((predict.output.as_str(), predict.max_in_flight), ("sentiment", 16));
    assert_eq!(p.transforms[1].on_error, OnError::DeadLetter);
    let news = p.table("news").unwrap();
    assert_eq!((news.partitions, news.key.as_slice()), (4, &[0][..]));
    assert!(news.delete_when.is_some());
    assert_eq!(columns(&p.sinks[0].schema), ["op", "ts", "key", "old", "new"]);
    assert_eq!(&*p.model("sentiment").unwrap().info.name, "sentiment");
    assert_eq!(p.relation_schema("news.changes").unwrap(), p.sinks[0].schema);
    assert_eq!(p.relations().keys().collect::<Vec<_>>(), ["english", "news", "news.changes", "scored", "wire"]);
}

#[test]
fn transforms_come_after_those_they_read() {
    let p = checked(
        "pipeline: p\nsources:\n  s: { type: http, schema: { a: int } }\ntransforms:\n  z: { sql: SELECT * FROM y UNION ALL SELECT * FROM s }\n  y: { sql: SELECT a + 1 AS a FROM x }\n  x: { sql: SELECT * FROM s }\nsinks:\n  o: { type: stdout, from: z }\n",
    );
    assert_eq!(p.transforms.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["x", "y", "z"]);
}

/// A setting of a connector, which nobody but itself knows; as it shows it.
fn path_of(connector: &impl std::fmt::Debug, setting: &str) -> String {
    let shown = format!("{connector:?}");
    let (_, rest) = shown.split_once(&format!("{setting}: \"")).unwrap_or_else(|| panic!("{shown}"));
    rest.split_once("\", ").unwrap().0.to_owned()
}

#[test]
fn paths_start_from_the_folder_of_the_file() {
    let p = checked(NEWS);
    assert_eq!(path_of(&p.source("wire").unwrap().connector, "path"), "folder/sample/wire.jsonl");
    assert_eq!(path_of(&p.sinks[1].connector, "folder"), "folder/out");
    let text = NEWS.replace("./sample/wire.jsonl", "/var/wire.jsonl");
    assert_eq!(path_of(&checked(&text).source("wire").unwrap().connector, "path"), "/var/wire.jsonl");
}

#[test]
fn a_models_folder_starts_from_the_folder_of_the_file_and_is_read_before_the_pipeline_starts() {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/testdata/transformers");
    let with = |source: &str| NEWS.replace("https://models.example/score", source);
    let base = Path::new(models);
    let parse = |text: &str| PipelineFile::parse("pipeline.yaml", text, base, &env, &|_| Ok(()));
    let p = parse(&with("./bert-classifier")).unwrap().pipeline;
    let info = &p.model("sentiment").unwrap().info;
    assert_eq!(info.labels, ["negative", "neutral", "positive"].map(Arc::from));
    let error = parse(&with("./nowhere")).unwrap_err().to_string();
    assert!(error.contains("transformers/nowhere does not exist"), "{error}");
    let error = parse(&with("hf://org/no-such-model-here")).unwrap_err().to_string();
    assert!(error.contains("millstream models pull hf://org/no-such-model-here"), "{error}");
}

#[test]
fn a_model_that_is_not_here_may_be_fetched_before_it_is_checked() {
    let asked = std::cell::RefCell::new(Vec::new());
    let fetch = |model: &millstream_models::ModelConfig| {
        asked.borrow_mut().push(model.source.clone());
        Err(millstream_core::Error::retry("the hub is away"))
    };
    let error = PipelineFile::parse("pipeline.yaml", NEWS, Path::new(""), &env, &fetch).unwrap_err().to_string();
    assert!(error.contains("the hub is away"), "{error}");
    assert_eq!(*asked.borrow(), ["https://models.example/score"]);
}

#[test]
fn a_variable_alone_is_typed_and_never_adds_structure() {
    let file = |partitions: &str, name: &str| {
        format!(
            "pipeline: p\nsources:\n  s:\n    type: file\n    path: {name}\n    partitions: {partitions}\n    schema: {{ a: int }}\nsinks:\n  o: {{ type: stdout, from: s }}\n"
        )
    };
    assert_eq!(checked(&file("${FOUR}", "x")).sources[0].partitions, 4);
    assert_eq!(checked(&file("${UNSET:-3}", "x")).sources[0].partitions, 3);
    assert_eq!(checked(&file("${EMPTY:-2}", "x")).sources[0].partitions, 2);
    assert!(parse(&file("'${FOUR}'", "x")).is_err(), "quotes make it a text");
    let path = |typed: &str| path_of(&checked(&file("1", typed)).sources[0].connector, "path");
    assert_eq!(path("${DIGITS}"), "folder/123456", "a text is wanted, so the digits are a text");
    assert_eq!(path("a$$b-${WORD}-${WORD}"), "folder/a$b-four-four");
    assert_eq!(path("cost$5"), "folder/cost$5");
    assert_eq!(path("'${EVIL}'"), format!("folder/{}", env("EVIL").unwrap().escape_debug()));
}

#[test]
fn a_secret_is_in_no_message_and_in_no_debug_output() {
    let text = NEWS.replace("exchange: news.enriched", "exchange: news.enriched\n    nosuch: 1");
    let shown = parse(&text).unwrap_err().to_string();
    assert!(shown.contains("unknown key `nosuch`"), "{shown}");
    for text in [shown, format!("{:?}", checked(NEWS))] {
        assert!(!text.contains("correct-horse"), "{text}");
    }
}

#[test]
fn a_password_inside_an_address_is_in_no_message() {
    let models = "models:\n  far: { task: embedding, source: \"https://me:correct-horse@h/x\", bacth: 1 }\n";
    let shown = parse(&NEWS.replace("models:\n", models)).unwrap_err().to_string();
    assert!(shown.contains("unknown key `bacth`") && !shown.contains("correct-horse"), "{shown}");
}

#[test]
fn a_new_password_is_no_new_version_but_a_new_setting_is() {
    let version = |text: &str, password: &str| {
        let env = |name: &str| if name == "AMQP" { Some(format!("amqp://u:{password}@h/")) } else { env(name) };
        PipelineFile::parse("f", text, Path::new(""), &env, &|_| Ok(())).unwrap().pipeline.version
    };
    let first = version(NEWS, "one");
    assert_eq!(first, version(NEWS, "two"));
    assert_eq!(first, version(&format!("# a comment\n{NEWS}"), "one"));
    assert_ne!(first, version(&NEWS.replace("watermark: 30s", "watermark: 31s"), "one"));
}

#[test]
fn anchors_and_aliases_are_copies() {
    let p = checked(
        "pipeline: p\nsources:\n  a: { type: http, schema: &s { id: string } }\n  b: { type: http, schema: *s }\nsinks:\n  o: { type: stdout, from: [a, b] }\n",
    );
    assert_eq!(p.sources[0].schema, p.sources[1].schema);
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let items = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
    }
    let wrong = parse(&text).unwrap_err().to_string();
    assert!(wrong.contains("nested too deeply or too large"), "{wrong}");
    let deep = format!("pipeline: {}{}\n", "[".repeat(5_000), "]".repeat(5_000));
    assert!(parse(&deep).unwrap_err().errors() > 0);
}

#[test]
fn what_nothing_reads_is_a_warning() {
    let file = parse(
        "pipeline: p\nsources:\n  s: { type: http, schema: { a: int } }\ntransforms:\n  t: { sql: SELECT * FROM s }\n",
    );
    let warnings = file.unwrap().warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!((warnings[0].severity, warnings[0].line), (Severity::Warning, 5));
    assert_eq!(warnings[0].message, "nothing reads the transform `t`");
}

#[test]
fn diagnostics_are_json_too() {
    let wrong = parse("pipeline: p\nsources:\n  s: { type: http, schma: { a: int } }\n").unwrap_err();
    let json = serde_json::to_value(&wrong).unwrap();
    assert_eq!(json[0]["line"], 3);
    assert_eq!(json[0]["column"], 20);
    assert_eq!(json[0]["message"], "unknown key `schma`");
    assert_eq!(json[0]["help"], "did you mean `schema`?");
    assert_eq!(json[0]["severity"], "error");
}

#[test]
fn a_file_that_can_not_be_read_is_one_diagnostic() {
    let folder = tempfile::tempdir().unwrap();
    let none = |_: &str| None;
    let load = |path: &Path| PipelineFile::load(path, &none).unwrap_err().0.remove(0).message;
    assert_eq!(load(&folder.path().join("none.yaml")), "there is no such file");
    assert_eq!(load(folder.path()), "this is a folder");
    let latin = folder.path().join("latin.yaml");
    std::fs::write(&latin, b"pipeline: p\n# \xe9\n").unwrap();
    assert_eq!(load(&latin), "line 2 is not UTF-8");
}

#[test]
fn no_text_makes_the_check_panic() {
    let lines: Vec<&str> = NEWS.lines().collect();
    for drop in 0..lines.len() {
        let text: Vec<&str> = lines.iter().enumerate().filter(|(i, _)| *i != drop).map(|(_, l)| *l).collect();
        let _ = parse(&text.join("\r\n")).map_err(|wrong| wrong.to_string());
    }
    for end in (0..NEWS.len()).filter(|&i| NEWS.is_char_boundary(i)).step_by(41) {
        let _ = parse(&NEWS[..end]).map_err(|wrong| wrong.to_string());
    }
}

#[test]
fn the_schema_is_a_closed_draft_2020_12_document() {
    let schema = crate::config::schema::json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["additionalProperties"], false);
    let source = &schema["$defs"]["Source"]["oneOf"];
    let file = source.as_array().unwrap().iter().find(|s| s["properties"]["type"]["const"] == "file").unwrap();
    for key in ["path", "decode", "schema", "event_time", "key", "partitions", "metadata"] {
        assert!(file["properties"][key].is_object(), "{key}");
        let text =
            file["properties"][key]["description"].as_str().or(schema["$defs"]["Decode"]["description"].as_str());
        assert!(text.is_some_and(|t| !t.is_empty()), "{key} has no description");
    }
    assert_eq!(file["additionalProperties"], false);
    assert_eq!(file["required"], serde_json::json!(["type", "path"]));
}

/// `UPDATE_DOCS=1` writes the page again.
#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pipeline-file.md");
    let now = crate::config::reference::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "docs/pipeline-file.md is not what the schema says: run `UPDATE_DOCS=1 cargo test -p millstream config`"
    );
}

#[test]
fn every_example_is_a_valid_pipeline() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let files: Vec<PathBuf> =
        std::fs::read_dir(examples).unwrap().map(|e| e.unwrap().path().join("pipeline.yaml")).collect();
    assert!(files.len() >= 3);
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|file| match PipelineFile::load(file, &|_| None) {
            Ok(file) if file.warnings.is_empty() => None,
            Ok(file) => Some(Diagnostics(file.warnings).to_string()),
            Err(wrong) => Some(wrong.to_string()),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_prediction_is_a_struct_column_behind_those_of_its_input() {
    let p = checked(NEWS);
    let scored = p.relation_schema("scored").unwrap();
    let (english, last) = (p.relation_schema("english").unwrap(), scored.fields().len() - 1);
    assert_eq!(scored.fields()[..last], english.fields()[..]);
    let DataType::Struct(fields) = scored.field(last).data_type() else { panic!() };
    assert_eq!(
        fields.iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
        ["label", "score", "scores", "model", "model_digest"]
    );
    assert!(!scored.field(last).is_nullable());
    // Without a value, the default is null.
    let with_default = checked(&NEWS.replace("on_error: dead_letter }", "on_error: default }"));
    assert!(with_default.relation_schema("scored").unwrap().field(last).is_nullable());
    let value = checked(&NEWS.replace("on_error: dead_letter }", "on_error: default, default: { label: neutral } }"));
    assert!(!value.relation_schema("scored").unwrap().field(last).is_nullable());
}

/// A file with a model `tone` at an endpoint, a second model, and `fallback` behind `tone`'s keys.
fn with_fallback(fallback: &str) -> String {
    format!(
        "
pipeline: tones
sources:
  wire: {{ type: file, path: ./in.jsonl, schema: {{ headline: string }} }}
models:
  tone:
    task: text-classification
    source: sagemaker://tone
    labels: [positive, neutral, negative]
    rate: 50/s
    fallback: {fallback}
  linear: {{ task: text-classification, source: \"builtin:headline-sentiment-linear\" }}
  vector: {{ task: embedding, source: \"http://h/embed\", protocol: tei }}
transforms:
  scored: {{ from: wire, predict: {{ model: tone, input: headline, output: tone }} }}
  placed: {{ from: scored, predict: {{ model: vector, input: headline, output: vector }} }}
tables:
  t: {{ from: placed, key: [headline] }}
"
    )
}

#[test]
fn a_model_that_only_answers_for_another_is_used() {
    let PipelineFile { pipeline, warnings } = parse(&with_fallback("linear")).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let scored = pipeline.transforms.iter().find(|t| &*t.name == "scored").unwrap();
    let TransformKind::Predict(spec) = &scored.kind else { panic!("{:?}", scored.kind) };
    assert!(spec.uses_model("tone") && spec.uses_model("linear") && !spec.uses_model("vector"));
    checked(&with_fallback("{ label: neutral }"));
}

#[test]
fn a_fallback_that_does_not_fit_is_shown_where_it_is_written() {
    for (fallback, expected) in [
        ("nobody", "no such model"),
        ("tone", "is itself"),
        ("vector", "does embedding"),
        ("{ label: odd }", "the label `odd`"),
        ("{ neutral: 1 }", "no score"),
        ("[1]", "`fallback` must be"),
    ] {
        let said = parse(&with_fallback(fallback)).unwrap_err().to_string();
        assert!(said.contains(expected) && said.contains("fallback: "), "{fallback}: {said}");
    }
    let said = parse(&with_fallback("linear").replace("50/s", "fast")).unwrap_err().to_string();
    assert!(said.contains("is no rate") && said.contains("50/s"), "{said}");
}
