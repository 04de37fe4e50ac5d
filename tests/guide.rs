//! The guide: every command of its tutorials is run, and every pipeline of the documentation is a pipeline.
//!
//! A tutorial writes files (`<!-- file: NAME -->` in front of a block), runs commands (`<!-- run -->`), and shows what
//! they print (`<!-- shows -->`: each line is somewhere in it, in that order; `…` stands for anything).

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Place;

/// A block of a page, with the comment in front of it.
struct Block {
    mark: String,
    language: String,
    text: String,
    line: usize,
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut found, mut mark) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for (number, line) in page.lines().enumerate() {
        match &mut open {
            Some(_) if line.trim_end() == "```" => found.extend(open.take()),
            Some(block) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            None if line.starts_with("```") => {
                let language = line.trim_start_matches('`').to_owned();
                open = Some(Block { mark: std::mem::take(&mut mark), language, text: String::new(), line: number + 1 });
            }
            None if line.starts_with("<!--") => {
                mark = line.trim_start_matches("<!--").trim_end_matches("-->").trim().to_owned();
            }
            None if line.is_empty() => {}
            None => mark.clear(),
        }
    }
    found
}

/// Runs a page from top to bottom in a folder of its own.
fn follow(page: &str) {
    let text = std::fs::read_to_string(docs().join("guide").join(page)).unwrap();
    let place = Place::new("");
    let mut printed = String::new();
    let mut commands = 0;
    for block in blocks(&text) {
        let at = format!("{page}:{}", block.line);
        if let Some(name) = block.mark.strip_prefix("file: ") {
            place.write(name, &block.text);
        } else if block.mark == "run" {
            printed = run(&place, &block.text, &at);
            commands += 1;
        } else if block.mark == "shows" {
            shows(&printed, &block.text, &at);
        }
    }
    assert!(commands > 0, "{page} runs nothing");
}

/// Runs commands as a shell does, with `millstream` on the path; what they print to either output.
fn run(place: &Place, commands: &str, at: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_millstream")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    // Nothing here is for a server of the machine.
    let settings = place.command(&[]);
    shell.envs(settings.get_envs().filter_map(|(name, value)| Some((name, value?))));
    for name in ["DATA_DIR", "LISTEN", "MODEL", "TOKEN", "URL", "LOG"] {
        shell.env_remove(format!("MILLSTREAM_{name}"));
    }
    let listen = "127.0.0.1:0";
    shell.args(["-eu", "-c", &format!("exec 2>&1\n{commands}")]).current_dir(place.path("")).env("PATH", path);
    let output = shell.env("MILLSTREAM_LISTEN", listen).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{at}: {}\n{printed}", output.status);
    printed
}

/// Each line of `wanted` is in `printed`, in order.
fn shows(printed: &str, wanted: &str, at: &str) {
    let mut lines = printed.lines();
    for want in wanted.lines() {
        let pieces: Vec<&str> = want.split('…').filter(|piece| !piece.is_empty()).collect();
        let holds = |line: &str| {
            let mut rest = line;
            pieces.iter().all(|piece| match rest.find(piece) {
                Some(found) => {
                    rest = &rest[found + piece.len()..];
                    true
                }
                None => false,
            })
        };
        assert!(lines.any(holds), "{at}: `{want}` is not (in this order) in\n{printed}");
    }
}

#[test]
fn the_data_engineers_tutorial_does_what_it_says() {
    follow("data-engineer.md");
}

#[test]
fn the_ml_engineers_tutorial_does_what_it_says() {
    follow("ml-engineer.md");
}

#[test]
fn the_operators_tutorial_does_what_it_says() {
    follow("operator.md");
}

#[test]
fn every_whole_pipeline_of_the_documentation_is_valid() {
    let mut pages = vec![docs().join("../README.md")];
    for folder in [docs(), docs().join("guide")] {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    let mut checked = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in blocks(&text).into_iter().filter(|b| b.language == "yaml" && b.text.starts_with("pipeline:")) {
            let place = Place::new(&block.text);
            let output = place.output(&["validate", "pipeline.yaml"]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}:{}\n{said}", page.display(), block.line);
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} pipelines found");
}
