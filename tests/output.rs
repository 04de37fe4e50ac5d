//! What a person and a program see of commands: formats, terminals, closed pipes, and a sentence for each mistake.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{Place, json_lines};

const PIPELINE: &str = "pipeline: shown
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: string, n: int, text: \"string?\" } }
tables:
  kept: { from: wire, key: [id] }
";

/// A folder with data: two rows and three dead letters of two kinds.
fn place() -> Place {
    let place = Place::new(PIPELINE);
    place.write(
        "in.jsonl",
        "{\"id\":\"a\",\"n\":1,\"text\":\"red \\u001b[31m \\u202e\"}\n{\"id\":\"b\",\"n\":2}\n\
         {\"id\":\"c\",\"n\":\"x1\"}\n{\"id\":\"d\",\"n\":\"x2\"}\nnothing\n",
    );
    place.run();
    place
}

const HERE: [&str; 2] = ["--data-dir", "data"];

#[test]
fn json_is_one_document_and_jsonl_a_line_for_each_row() {
    let place = place();
    let all = |args: &[&str], format| place.stdout(&[args, &HERE, &["--format", format]].concat());
    for args in [&["query", "SELECT id FROM kept ORDER BY id"][..], &["dlq", "list"], &["dlq", "summary"]] {
        let document: Value = serde_json::from_str(&all(args, "json")).unwrap();
        assert_eq!(document.as_array().unwrap(), &json_lines(&all(args, "jsonl")), "{args:?}");
    }
    assert_eq!(all(&["query", "SELECT id FROM kept WHERE id = 'none'"], "json").trim(), "[]");
}

#[test]
fn dead_letters_are_counted_by_kind_and_can_be_queried() {
    let place = place();
    let groups = json_lines(&place.stdout(&[&["dlq", "summary", "--format", "jsonl"], &HERE[..]].concat()));
    let counts: Vec<_> = groups.iter().map(|g| (g["kind"].as_str().unwrap(), g["records"].as_u64().unwrap())).collect();
    assert_eq!(counts, [("type_mismatch", 2), ("malformed", 1)], "{groups:?}");
    assert!(groups[0]["message"].as_str().unwrap().contains("field `n`"), "{groups:?}");
    let rows = place.query("SELECT kind, count(*) AS n FROM dead_letters GROUP BY kind ORDER BY n DESC");
    assert_eq!(rows[0]["kind"], "type_mismatch");
    assert_eq!(rows[0]["n"], 2);
    let rows = place.query("SELECT id, text, component, stage FROM dead_letters WHERE kind = 'malformed'");
    assert_eq!((&rows[0]["text"], &rows[0]["component"]), (&"nothing".into(), &"wire".into()));
    // The same on a running server.
    let server = place.start(&[]);
    let url = server.url();
    let on_server = ["query", "SELECT count(*) AS n FROM dead_letters", "--url", &url, "--format", "jsonl"];
    assert_eq!(json_lines(&place.stdout(&on_server))[0]["n"], 3);
    let summary = place.stdout(&["dlq", "summary", "--url", &url]);
    assert!(summary.contains("type_mismatch") && summary.contains("3 dead letters"), "{summary}");
}

#[test]
fn dead_letters_are_discarded_on_purpose_only_and_stay_so() {
    let place = place();
    let said = place.fails(2, &[&["dlq", "discard", "--all"], &HERE[..]].concat());
    assert!(said.contains("3 dead letters would be discarded") && said.contains("--yes"), "{said}");
    place.fails(2, &[&["dlq", "discard", "--yes"], &HERE[..]].concat());
    let discard = [&["dlq", "discard", "--kind", "malformed", "--yes"], &HERE[..]].concat();
    assert_eq!(place.stdout(&discard).trim(), "1 discarded");
    assert_eq!(place.stdout(&discard).trim(), "0 discarded");
    assert_eq!(place.dead_letters().len(), 2);
    let server = place.start(&[]);
    let url = server.url();
    let id = place.dead_letters()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(place.stdout(&["dlq", "discard", &id, "--yes", "--url", &url]).trim(), "1 discarded");
    drop(server);
    assert_eq!(place.dead_letters().len(), 1, "a restart brings nothing back");
    assert_eq!(place.query("SELECT id FROM dead_letters").len(), 1);
}

#[test]
fn a_list_says_how_many_there_are_and_a_wrong_filter_what_was_meant() {
    let place = place();
    let list = |more: &[&'static str]| [&["dlq", "list"], more, &HERE[..]].concat();
    let shown = place.stdout(&list(&["--limit", "2"]));
    assert!(shown.contains("2 of 3 dead letters"), "{shown}");
    assert!(place.stdout(&list(&[])).contains("3 dead letters"));
    assert!(place.fails(2, &list(&["--component", "wirre"])).contains("did you mean `wire`?"));
    assert!(place.fails(2, &list(&["--kind", "malformd"])).contains("did you mean `malformed`?"));
    assert!(place.stdout(&list(&["--kind", "timeout"])).contains("no dead letters"), "a kind that there is");
    let server = place.start(&[]);
    let url = server.url();
    let on_server = |more: &[&'static str]| {
        let mut args = vec!["dlq", "list", "--url", url.as_str()];
        args.extend(more);
        args
    };
    assert!(place.stdout(&on_server(&["--limit", "2"])).contains("2 of 3 dead letters"));
    assert!(place.fails(2, &on_server(&["--component", "wirre"])).contains("did you mean `wire`?"));
    assert!(
        place.fails(2, &["dlq", "redrive", "--kind", "malformd", "--url", &url]).contains("did you mean `malformed`?")
    );
}

/// Runs a command whose standard output is closed by its reader at once.
fn into_closed_pipe(place: &Place, args: &[&str]) -> (Option<i32>, String) {
    let mut child = place.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let place = place();
    let sql = "SELECT * FROM generate_series(1, 200000)";
    for args in [
        &["schema"][..],
        &["dlq", "list", "--format", "jsonl", "--data-dir", "data"],
        &["dlq", "list", "--format", "json", "--data-dir", "data"],
        &["dlq", "summary", "--data-dir", "data"],
        &["dlq", "show", "wire/0", "--data-dir", "data"],
        &["dlq", "show", "wire/0", "--raw", "--data-dir", "data"],
        &["query", sql, "--data-dir", "data", "--format", "jsonl"],
        &["query", sql, "--data-dir", "data", "--format", "json"],
        &["query", sql, "--data-dir", "data"],
        &["tap", "wire", "--data-dir", "data"],
        &["validate", "pipeline.yaml"],
        &["validate", "--format", "json", "pipeline.yaml"],
        &["models", "list"],
        &["models", "info", "builtin:headline-sentiment-linear"],
        &["init", "news", "made"],
        &["--help"],
        &["dlq", "--help"],
    ] {
        let (code, said) = into_closed_pipe(&place, args);
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
}

/// Runs a command with a terminal as its output, 60 columns wide.
fn on_terminal(place: &Place, args: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_millstream");
    let quoted: Vec<String> = args.iter().map(|arg| format!("'{}'", arg.replace('\'', "'\\''"))).collect();
    let line = format!("stty rows 40 cols 60; '{program}' {}", quoted.join(" "));
    let settings = place.command(&[]);
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(place.path("")).stdin(Stdio::null());
    script.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    let output = script.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn what_a_record_says_is_shown_on_a_terminal_and_not_obeyed() {
    let place = place();
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script` to make a terminal with");
        return;
    }
    for format in ["table", "json", "jsonl", "csv"] {
        let args = ["query", "SELECT text FROM kept WHERE id = 'a'", "--data-dir", "data", "--format", format];
        let shown = on_terminal(&place, &args);
        assert!(
            shown.contains("red") && !shown.contains('\u{1b}') && !shown.contains('\u{202e}'),
            "{format}: {shown:?}"
        );
        let piped = place.stdout(&args);
        assert_eq!(piped.contains('\u{202e}'), format != "table", "a pipe gets what there is ({format}): {piped:?}");
    }
    let tapped = on_terminal(&place, &["tap", "wire", "--limit", "1", "--data-dir", "data"]);
    assert!(tapped.contains("red") && !tapped.contains('\u{202e}'), "{tapped:?}");
}

#[test]
fn a_table_on_a_terminal_has_no_rules_between_rows_and_leaves_ids_whole() {
    let place = place();
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script` to make a terminal with");
        return;
    }
    let long = "SELECT 'wire-2026-11-20-0001/7' AS id, repeat('word ', 40) AS text FROM generate_series(1, 3)";
    let shown = on_terminal(&place, &["query", long, "--data-dir", "data"]);
    assert_eq!(shown.matches("wire-2026-11-20-0001/7").count(), 3, "{shown}");
    assert_eq!(shown.lines().filter(|line| line.contains('─')).count(), 1, "{shown}");
    assert!(shown.lines().all(|line| line.trim_end().chars().count() <= 60), "{shown}");
    let plan = on_terminal(
        &place,
        &["query", "EXPLAIN SELECT n, count(*) FROM kept WHERE n > 1 GROUP BY n", "--data-dir", "data"],
    );
    assert!(plan.contains("logical_plan") && !plan.contains('…'), "{plan}");
    let piped = place.stdout(&["query", long, "--data-dir", "data"]);
    assert!(piped.contains(&"word ".repeat(39)), "a pipe gets it whole");
}

#[test]
fn each_mistake_on_the_command_line_is_a_sentence() {
    let place = place();
    fn query<'a>(more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["query", "SELECT 1"];
        args.extend(more);
        args
    }
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody_at = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    let says = |code, args: &[&str], parts: &[&str]| {
        let said = place.fails(code, args);
        assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "{args:?}: `{part}` is not in: {said}"));
    };
    says(1, &query(&["--url", &nobody_at]), &["can't reach http://127.0.0.1", "nothing listens there"]);
    says(2, &query(&["--url", "ftp://a.example"]), &["no address of a server"]);
    says(1, &query(&["--url", "no-such-host.invalid:80"]), &["no host of that name"]);
    says(2, &query(&["--data-dir", "in.jsonl"]), &["that is a file, not a data folder"]);
    says(2, &query(&["--data-dir", "nowhere"]), &["there is no such folder"]);
    says(2, &query(&["--data-dir", "."]), &["no data folder of Millstream"]);

    // A server that is none of ours.
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let foreign_at = foreign.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut connection in foreign.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            if connection.read(&mut request).is_ok_and(|n| n > 0) {
                let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
                let _ = std::io::Write::write_all(&mut connection, page.as_bytes());
            }
        }
    });
    says(2, &query(&["--url", &foreign_at]), &["is no Millstream server"]);
    says(1, &query(&["--url", &format!("https://{foreign_at}")]), &["does not speak TLS", "http://"]);

    let run = |listen| ["run", "pipeline.yaml", "--data-dir", "other", "--exit-when-idle", "--listen", listen];
    says(1, &run(&foreign_at), &["another program listens there"]);
    says(2, &run("127.0.0.1"), &["there is no port"]);
    says(2, &run(":8080"), &["no address before the port"]);
    says(2, &run("192.0.2.1:0"), &["does not have that address"]);
    assert!(place.output(&run("localhost:0")).status.success(), "a name is an address");
    says(1, &["run", "pipeline.yaml", "--data-dir", "in.jsonl", "--listen", "127.0.0.1:0"], &["in.jsonl"]);

    let guarded = place.start(&["--token", "secret"]);
    let url = guarded.url();
    says(2, &query(&["--url", &url]), &["asks for a token", "MILLSTREAM_TOKEN"]);
    says(2, &query(&["--url", &url, "--token", "wrong"]), &["does not take this token"]);
}
