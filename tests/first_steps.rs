//! The first thing that a new user types: `init`, what it prints, and what tells about the program.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::support::{Place, json_lines};

const TEMPLATES: [&str; 4] = ["minimal", "news", "news-archive", "cats-vs-dogs"];

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The commands that `init` prints for a template in a folder.
fn printed(place: &Place, template: &str, folder: &str) -> Vec<String> {
    let said = place.stdout(&["init", template, folder]);
    let commands: Vec<String> = said.lines().filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    assert!(commands.len() > 2 && commands[0].contains(" validate "), "{said}");
    commands
}

/// Types commands into a shell and gives what is printed; what runs in the background ends with them.
fn typed(place: &Place, commands: &[String], env: &[(&str, String)]) -> String {
    let mut script = "set -e; background=; trap 'kill $background 2>/dev/null || true' EXIT\n".to_owned();
    for command in commands {
        script.push_str(command);
        script.push_str(if command.ends_with('&') { " background=\"$background $!\"\n" } else { "\n" });
    }
    let mut shell = Command::new("sh");
    for name in ["DATA_DIR", "MODEL", "TOKEN", "URL", "LOG"] {
        shell.env_remove(format!("MILLSTREAM_{name}"));
    }
    shell.args(["-c", &script]).current_dir(place.path(""));
    shell.env("MILLSTREAM_LISTEN", "127.0.0.1:0").env("NO_COLOR", "1");
    let output = shell.envs(env.iter().map(|(name, value)| (name, value))).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}\n{said}\n{log}");
    said.into_owned()
}

/// The command again and again, until it prints `wanted`.
fn until(command: &str, wanted: &str) -> String {
    format!("n=0; until {command} 2>/dev/null | grep {wanted}; do n=$((n+1)); test $n -lt 300; sleep 0.2; done")
}

#[test]
fn news_runs_as_init_says_without_a_broker_also_in_a_folder_with_spaces() {
    let place = Place::new("");
    let commands = printed(&place, "news", "my news's folder");
    assert!(commands[0].ends_with(r" validate 'my news'\''s folder/pipeline.yaml'"), "{commands:?}");
    let said = typed(&place, &commands, &[]);
    assert_eq!(said.matches("insert  ").count(), 37, "every headline is printed: {said}");
    assert!(said.contains("positive") && said.contains("neutral") && said.contains("negative"), "{said}");
}

#[test]
fn the_archive_runs_as_init_says() {
    let place = Place::new("");
    let said = typed(&place, &printed(&place, "news-archive", "archive"), &[]);
    assert!(said.contains("missing_field") && said.contains("malformed"), "its dead letters are listed: {said}");
    assert_eq!(place.sink_rows("archive/out").len(), 4);
}

#[test]
fn cats_vs_dogs_runs_as_init_says_with_a_feed_that_hangs_up() {
    let place = Place::new("");
    let mut commands = printed(&place, "cats-vs-dogs", "pets");
    let port = free_port();
    let listen = format!(" --listen 127.0.0.1:{port} --pause 1ms &");
    for command in commands.iter_mut().filter(|c| c.contains(" sse ")) {
        *command = command.replace(" &", &listen);
    }
    commands.retain(|command| !command.starts_with("sleep "));
    // All 110 posts, over six connections.
    let query = commands.pop().unwrap();
    commands.push(until(&query, "both.*10"));
    let env = [("POSTS_URL", format!("http://127.0.0.1:{port}/stream"))];
    let said = typed(&place, &commands, &env);
    assert!(said.contains("both"), "{said}");
}

#[test]
fn the_smallest_template_runs_as_init_says() {
    let place = Place::new("");
    let port = free_port();
    let mut commands: Vec<String> = printed(&place, "minimal", "minimal")
        .iter()
        .map(|command| command.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}")))
        .collect();
    let query = commands.pop().unwrap();
    commands.push(until(&query, "harbour"));
    let said = typed(&place, &commands, &[("MILLSTREAM_LISTEN", format!("127.0.0.1:{port}"))]);
    assert!(said.contains("11.5"), "{said}");
}

#[test]
fn init_overwrites_nothing_and_goes_into_a_folder_that_has_other_files() {
    let place = Place::new("");
    place.write("work/notes.txt", "mine");
    for template in TEMPLATES {
        let folder = format!("work/{template}");
        place.write(&format!("{folder}/notes.txt"), "mine");
        place.stdout(&["init", template, &folder]);
        place.stdout(&["validate", &format!("{folder}/pipeline.yaml")]);
        let before = std::fs::read(place.path(&format!("{folder}/pipeline.yaml"))).unwrap();
        place.write(&format!("{folder}/pipeline.yaml"), "changed");
        let said = place.fails(2, &["init", template, &folder]);
        assert!(said.contains("is there already"), "{said}");
        assert_eq!(std::fs::read(place.path(&format!("{folder}/pipeline.yaml"))).unwrap(), b"changed");
        assert!(!before.is_empty());
    }
    let said = place.fails(2, &["init", "news", "pipeline.yaml"]);
    assert!(said.contains("pipeline.yaml is a file"), "{said}");
}

#[test]
fn connectors_are_listed_with_the_options_of_the_reference() {
    let place = Place::new("");
    let list = place.stdout(&["connectors"]);
    for name in ["file", "http", "feed", "websocket", "http_stream", "amqp", "stdout"] {
        assert!(list.lines().any(|line| line.trim_start().starts_with(&format!("{name} "))), "{name}: {list}");
    }
    let amqp = place.stdout(&["connectors", "amqp"]);
    assert!(amqp.contains("  url  (secret, required)") && amqp.contains("default topic"), "{amqp}");
    let all: Value = serde_json::from_str(&place.stdout(&["connectors", "--format", "json"])).unwrap();
    let reference = include_str!("../docs/pipeline-file.md");
    for connector in all.as_array().unwrap() {
        let (direction, name) = (connector["direction"].as_str().unwrap(), connector["name"].as_str().unwrap());
        assert!(reference.contains(&format!("### {direction}s: `type: {name}`")), "{connector}");
        for option in connector["options"].as_array().unwrap() {
            let (key, text) = (option["key"].as_str().unwrap(), option["text"].as_str().unwrap());
            assert!(reference.contains(&format!("| `{key}` | ")), "{name}: {key}");
            assert!(reference.contains(&text.replace('|', "\\|")), "{name}: {text}");
        }
    }
    let http = json_lines(&place.stdout(&["connectors", "http", "--format", "jsonl"]));
    assert_eq!(http.iter().map(|c| c["direction"].as_str().unwrap()).collect::<Vec<_>>(), ["source", "sink"]);
    let said = place.fails(2, &["connectors", "ampq"]);
    assert!(said.contains("did you mean `amqp`?"), "{said}");
}

#[test]
fn completions_and_manual_pages_name_commands_and_options() {
    let place = Place::new("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.stdout(&["completions", shell]);
        for word in ["millstream", "validate", "exit-when-idle", "connectors"] {
            assert!(script.contains(word), "{shell} knows nothing of {word}");
        }
    }
    let bash = place.stdout(&["completions", "bash"]);
    let checked = Command::new("bash").args(["-n", "-c", &bash]).output();
    assert!(checked.is_ok_and(|checked| checked.status.success()), "bash reads it");
    let page = place.stdout(&["man"]);
    assert!(page.contains(".TH millstream 1 ") && page.contains("validate"), "{page}");
    let page = place.stdout(&["man", "dlq", "list"]);
    assert!(page.contains(".TH millstream-dlq-list") && page.contains("component"), "{page}");
    let said = place.fails(2, &["man", "runn"]);
    assert!(said.contains("did you mean `run`?"), "{said}");
}
