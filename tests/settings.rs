//! What the command line puts into a pipeline file: values, variables, and the file itself.

use std::io::Write;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Place, json_lines};

const PIPELINE: &str = "\
pipeline: settings
sources:
  wire:
    type: file
    path: ./wire.jsonl
    schema: { id: int, text: string }
transforms:
  short:
    sql: SELECT id, text FROM wire WHERE id < 10
sinks:
  out: { type: file, from: short, folder: ./out, encode: json }
  queue:
    type: amqp
    from: short
    url: ${AMQP_URL:-amqp://localhost}
    exchange: news
";

fn place() -> Place {
    let place = Place::new(PIPELINE);
    place.write("wire.jsonl", "{\"id\":1,\"text\":\"a\"}\n{\"id\":20,\"text\":\"b\"}\n");
    place
}

#[test]
fn a_value_of_the_command_line_takes_the_place_of_that_in_the_file() {
    let place = place();
    let set = [
        "--set",
        "sinks.queue={type: stdout, from: short}",
        "--set",
        "transforms.short.sql=SELECT id, text FROM wire WHERE id > 10",
        "--set",
        "sinks.out.folder=./elsewhere",
        "--set",
        "settings.retention.time=2d",
    ];
    let mut args = vec!["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle"];
    args.extend(set);
    let printed = json_lines(&place.stdout(&args));
    assert_eq!(printed.iter().map(|row| row["id"].as_i64()).collect::<Vec<_>>(), [Some(20)]);
    assert_eq!(place.sink_rows("elsewhere").len(), 1);
    // The file is as it was.
    assert_eq!(std::fs::read_to_string(place.path("pipeline.yaml")).unwrap(), PIPELINE);
}

#[test]
fn what_is_wrong_with_a_value_names_the_option_and_what_was_meant() {
    let place = place();
    for (setting, wanted) in [
        ("sinks.quue.url=x", &["--set sinks.quue.url: there is no `quue` in `sinks`", "did you mean `queue`?"][..]),
        ("sinks.queue.exchange_typ=x", &["--set sinks.queue.exchange_typ: ", "did you mean `exchange_type`?"]),
        ("sinkz.queue.url=x", &["--set sinkz.queue.url: a pipeline file has no `sinkz`", "did you mean `sinks`?"]),
        ("sources.wire.partitions=many", &["--set sources.wire.partitions: ", "many"]),
        ("sources.wire.path=7", &["--set sources.wire.path: ", "two kinds of quotes: --set 'sources.wire.path="]),
        ("sinks.out.folder={id}", &["--set sinks.out.folder: ", "two kinds of quotes"]),
        ("sources.wire.path.deep=x", &["--set sources.wire.path.deep: `sources.wire.path` is a single value"]),
        ("transforms.short.sql=SELECT nothing FROM wire", &["--set transforms.short.sql: ", "nothing"]),
        ("sinks.queue.queues[1].name=x", &["--set sinks.queue.queues[1].name: "]),
        ("sinks.queue.url=${NOT_SET_HERE}", &["--set sinks.queue.url: ", "`NOT_SET_HERE` is not set"]),
    ] {
        let said = place.fails(2, &["validate", "pipeline.yaml", "--set", setting]);
        for wanted in wanted {
            assert!(said.contains(wanted), "--set {setting}: no {wanted:?} in\n{said}");
        }
        assert!(!said.contains("pipeline.yaml:"), "the file is right: {said}");
    }
    for setting in ["sinks.queue.url", "sinks..url=x", "=x"] {
        let said = place.fails(2, &["validate", "pipeline.yaml", "--set", setting]);
        assert!(said.contains("--set"), "{said}");
    }
}

#[test]
fn a_secret_on_the_command_line_is_not_shown() {
    let place = place();
    let said = place.fails(2, &["validate", "pipeline.yaml", "--set", "sinks.queue.url=http://me:s3cret@host/x"]);
    assert!(said.contains("--set sinks.queue.url: ") && !said.contains("s3cret"), "{said}");
}

#[test]
fn errors_in_the_file_keep_their_place_beside_values_of_the_command_line() {
    let place = Place::new(&PIPELINE.replace("exchange: news", "exchang: news"));
    let answer = place.output(&["validate", "pipeline.yaml", "--format", "json", "--set", "sources.wire.partitions=x"]);
    let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
    let at = |file: &str| answer["diagnostics"].as_array().unwrap().iter().filter(|d| d["file"] == file).count();
    assert!(at("pipeline.yaml") >= 1 && at("--set sources.wire.partitions") == 1, "{answer}");
    let first = &answer["diagnostics"][0];
    assert!(first["file"] != "pipeline.yaml" || first["line"].as_u64() <= Some(17), "{answer}");
}

#[test]
fn variables_come_from_a_file_and_those_of_the_process_win() {
    let place = place();
    let yaml = PIPELINE.replace("./wire.jsonl", "${WIRE}").replace("./out", "\"${OUT:-./default}\"");
    place.write("pipeline.yaml", yaml);
    place.write("first.env", "# where\nexport WIRE='./wire.jsonl'\nOUT=./one # not two\n");
    place.write("second.env", "OUT=\"./two words\"\n");
    let said = place.fails(2, &["validate", "pipeline.yaml"]);
    assert!(said.contains("`WIRE` is not set"), "{said}");
    let run = |place: &Place, data: &str| {
        let stdout = "sinks.queue={type: stdout, from: short}";
        let env = ["--env-file", "first.env", "--env-file", "second.env", "--set", stdout];
        let mut args = vec!["run", "pipeline.yaml", "--data-dir", data, "--listen", "127.0.0.1:0", "--exit-when-idle"];
        args.extend(env);
        place.stdout(&args);
    };
    run(&place, "data");
    assert_eq!(place.sink_rows("two words").len(), 1, "the last file counts");
    let place = place.with_env("OUT", "./process");
    run(&place, "data2");
    assert_eq!(place.sink_rows("process").len(), 1, "the process wins");
    place.write("bad.env", "WIRE=./wire.jsonl\nno value\n");
    let said = place.fails(2, &["validate", "pipeline.yaml", "--env-file", "bad.env"]);
    assert!(said.contains("bad.env:2: "), "{said}");
    let said = place.fails(2, &["validate", "pipeline.yaml", "--env-file", "none.env"]);
    assert!(said.contains("none.env"), "{said}");
}

#[test]
fn a_pipeline_file_comes_by_standard_input_and_starts_from_the_working_directory() {
    let place = place();
    let fed = |text: &str, args: &[&str]| {
        let mut command = place.command(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let yaml = PIPELINE.replace("  queue:\n    type: amqp", "  queue:\n    type: http");
    let output = fed(&yaml, &["validate", "-"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("<stdin>:"), "{said}");
    let stdout = "sinks.queue={type: stdout, from: short}";
    let output = fed(
        PIPELINE,
        &["run", "-", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle", "--set", stdout],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(json_lines(&String::from_utf8(output.stdout).unwrap()).len(), 1);
}
