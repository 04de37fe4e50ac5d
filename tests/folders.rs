//! Folders that are removed, moved or replaced while a process works in them; and more files than it may open.

use std::path::Path;

use serde_json::json;

use crate::support::http::{Answer, get, post};
use crate::support::process::eventually;
use crate::support::{Place, Server};

const PIPELINE: &str = "
pipeline: folders
sources: { posts: { type: http, schema: { id: int }, key: [id] } }
tables: { items: { from: posts, key: [id] } }
";

fn push(server: &Server, id: usize) -> Answer {
    post(&format!("{}/streams/posts/records", server.url()), json!({ "id": id }).to_string())
}

fn ready(server: &Server) -> Answer {
    get(&format!("{}/readyz", server.url()))
}

/// Runs a pipeline, does that to its data folder, and looks that nothing is acknowledged any more, and that it is said.
fn hurt(what: &str, hurt: impl FnOnce(&Path)) -> (Place, Server) {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    assert_eq!(push(&server, 1).status, 200);
    // What is under way when it happens ends the run: that is said by its end.
    let streams = || get(&format!("{}/api/v1/streams", server.url())).json()["streams"].as_array().unwrap().clone();
    let stored = |name: &str| streams().iter().any(|s| s["name"] == name && s["partitions"][0]["end"] == 1);
    eventually("it is at rest", || (stored("posts") && stored("items.changes")).then_some(()));
    hurt(&place.path("data"));
    let said = eventually("it is said", || Some(ready(&server)).filter(|answer| answer.status == 503)).text;
    assert!(said.contains("while this process works in it"), "{what}: {said}");
    let refused = push(&server, 2);
    assert_eq!(refused.status, 507, "{what}: {refused:?}");
    server.wait_for_log("while this process works in it");
    (place, server)
}

#[test]
fn whatever_is_removed_or_moved_under_a_process_is_said_and_nothing_is_acknowledged() {
    let remove = |path: &Path| std::fs::remove_dir_all(path).unwrap();
    hurt("the logs", |data| remove(&data.join("log")));
    hurt("one log", |data| remove(&data.join("log/posts")));
    hurt("another log", |data| remove(&data.join("log/items.changes")));
    hurt("the states", |data| remove(&data.join("state")));
    hurt("all", remove);
    hurt("replaced", |data| {
        std::fs::rename(data, data.with_extension("old")).unwrap();
        std::fs::create_dir(data).unwrap();
    });
    let (place, server) = hurt("moved", |data| std::fs::rename(data, data.with_extension("old")).unwrap());
    // Put back, it goes on.
    std::fs::rename(place.path("data.old"), place.path("data")).unwrap();
    eventually("it is ready", || (ready(&server).status == 200).then_some(()));
    assert_eq!(push(&server, 3).status, 200);
    let rows = || {
        post(
            &format!("{}/api/v1/query", server.url()),
            json!({ "sql": "SELECT id FROM items ORDER BY id" }).to_string(),
        )
    };
    eventually("both rows", || (rows().text == "{\"id\":1}\n{\"id\":3}\n").then_some(()));
}

#[test]
fn the_file_of_a_log_that_is_removed_takes_nothing_more() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    assert_eq!(push(&server, 1).status, 200);
    for file in std::fs::read_dir(place.path("data/log/posts")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let refused = push(&server, 2);
    assert_eq!(refused.status, 507, "{refused:?}");
    assert!(refused.text.contains("was removed"), "{refused:?}");
    eventually("it is said", || (ready(&server).status == 503).then_some(()));
}

#[test]
fn more_files_are_followed_than_may_be_open() {
    let place = Place::new(
        "
pipeline: many
sources: { wire: { type: file, path: ./in, follow: true, poll_interval: 50ms, schema: { id: int }, key: [id] } }
tables: { items: { from: wire, key: [id] } }
",
    );
    let files = 400;
    let write = |file: usize, ids: &[usize]| {
        let lines: String = ids.iter().map(|id| format!("{}\n", json!({ "id": id }))).collect();
        place.write(&format!("in/{file}.jsonl"), lines);
    };
    (0..files).for_each(|file| write(file, &[file]));
    let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    let mut server = Server::spawn(place.with_descriptors(200, &args));
    let sql = json!({ "sql": "SELECT count(*) AS n FROM items" }).to_string();
    let url = format!("{}/api/v1/query", server.url());
    let rows = |n: usize| eventually("all rows", || (post(&url, sql.clone()).json()["n"] == n).then_some(()));
    rows(files);
    // All of them grow: each is read on from where it was.
    (0..files).for_each(|file| write(file, &[file, files + file]));
    rows(2 * files);
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.id())).map_or(0, Iterator::count);
    assert!(open < 150, "{open}");
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    let received = place.tap("wire");
    assert_eq!(received.len(), 2 * files, "none was read twice");
}
