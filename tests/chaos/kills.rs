//! `kill -9` over a pipeline with every kind of stage: files and pushes, SQL, a model, tables behind an exchange, file
//! sinks and a webhook, dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use rand::Rng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};

use super::{each_once, expected, numbers, report, rounds};
use crate::support::process::eventually;
use crate::support::{Place, Server, http, json_lines, seeded};

/// Records a request.
const EACH: u64 = 20;
/// Records a file.
const FILE: u64 = 120;

fn pipeline(webhook: &str) -> String {
    format!(
        "
pipeline: chaos
sources:
  wire:
    type: file
    path: ./in/*.jsonl
    follow: true
    schema: {{ n: int, grp: string, headline: string }}
    key: [grp]
    partitions: 2
  posts:
    type: http
    schema: {{ n: int, grp: string }}
    key: [n]
    partitions: 2
models:
  sentiment: {{ task: text-classification, source: builtin:headline-sentiment }}
transforms:
  scored: {{ from: wire, predict: {{ model: sentiment, input: headline, output: sentiment }} }}
  shares: {{ sql: \"SELECT n, grp, 100 / (n % 10) AS share FROM posts\" }}
tables:
  news: {{ from: scored, key: [n], partitions: 2 }}
  items: {{ from: shares, key: [n], partitions: 3 }}
sinks:
  rows: {{ type: file, from: shares, folder: ./out/rows, roll: {{ size: 64KiB, interval: 100ms }} }}
  news_changes: {{ type: file, from: news.changes, folder: ./out/news, roll: {{ interval: 50ms }} }}
  hook: {{ type: http, from: items.changes, url: \"{webhook}\" }}
"
    )
}

/// Bodies that a webhook was sent, by the id that came with them.
type Got = Arc<Mutex<BTreeMap<String, String>>>;

/// A webhook that refuses every fifth request for the moment, and says what it got.
fn webhook() -> (String, Got) {
    let got = Got::default();
    let (keep, asked) = (got.clone(), Arc::new(Mutex::new(0_u32)));
    let take = move |headers: HeaderMap, body: String| {
        let (keep, asked) = (keep.clone(), asked.clone());
        async move {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            if *asked % 5 == 0 {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            let id = headers["idempotency-key"].to_str().unwrap().to_owned();
            match keep.lock().unwrap().insert(id.clone(), body.clone()) {
                Some(before) if before != body => panic!("{id} came with two bodies: {before} and {body}"),
                _ => StatusCode::OK,
            }
        }
    };
    let address = http::serve(Router::new().route("/hook", post(take)));
    (format!("http://{address}/hook"), got)
}

fn add_file(place: &Place, file: u64) {
    let line = |n: u64| {
        let record =
            json!({ "n": n, "grp": format!("g{}", n % 7), "headline": format!("profit of company {n} rises") });
        format!("{record}\n")
    };
    place.write("new", (file * FILE..(file + 1) * FILE).map(line).collect::<String>());
    std::fs::create_dir_all(place.path("in")).unwrap();
    std::fs::rename(place.path("new"), place.path(&format!("in/{file:05}.jsonl"))).unwrap();
}

/// Pushes the records of one request until it is answered; a new server's address is in `url` after a kill.
fn push(url: &Mutex<String>, request: u64) {
    let records: Vec<Value> =
        (request * EACH..(request + 1) * EACH).map(|n| json!({ "n": n, "grp": format!("g{}", n % 7) })).collect();
    let (body, key) = (Value::from(records).to_string(), format!("request-{request}"));
    eventually("an answer", || {
        let url = format!("{}/streams/posts/records", url.lock().unwrap());
        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
        http::try_send(Method::POST, &url, &headers, body.clone()).ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn killed_at_any_moment_every_stage_has_every_record() {
    let mut rng = seeded("chaos: kills");
    let (hook, got) = webhook();
    let place = Place::new(&pipeline(&hook));
    let kills = rounds(6);
    let (url, stop) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(false)));
    let client = std::thread::spawn({
        let (url, stop) = (url.clone(), stop.clone());
        move || (0..).take_while(|request| *request == 0 || !*stop.lock().unwrap()).inspect(|n| push(&url, *n)).count()
    });
    let mut files = 0;
    for _ in 0..kills {
        add_file(&place, files);
        files += 1;
        let mut server = place.start(&[]);
        *url.lock().unwrap() = server.url();
        std::thread::sleep(Duration::from_secs_f64(moment(&mut rng)));
        assert!(server.kill(), "it ended by itself:\n{}", server.log());
    }
    *stop.lock().unwrap() = true;
    let begun = Instant::now();
    let mut server = place.start(&[]);
    *url.lock().unwrap() = server.url();
    let recovered = begun.elapsed();
    let requests = client.join().unwrap() as u64;

    let pushed = expected(requests * EACH, |n| n % 10 == 0);
    let news = expected(files * FILE, |_| false);
    eventually("everything is delivered", || {
        let rows = |table: &str| count(&server, table);
        (rows("items") == pushed.len() as u64 && rows("news") == news.len() as u64 && ids(&got).len() == pushed.len())
            .then_some(())
    });
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());

    each_once("table news", &news, numbers(&place.query("SELECT n FROM news")));
    each_once("table items", &pushed, numbers(&place.query("SELECT n FROM items")));
    each_once("file sink", &pushed, numbers(&place.sink_rows("out/rows")));
    let changes = place.sink_rows("out/news");
    assert!(changes.iter().all(|change| change["op"] == "insert"), "a repeat would be an update");
    each_once("changes of news", &news, numbers(changes.iter().map(|change| &change["new"])));
    each_once("webhook, by id", &pushed, ids(&got));
    let letters = place.query("SELECT count(*) AS n FROM dead_letters");
    assert_eq!(letters[0]["n"], requests * EACH - pushed.len() as u64, "each division by zero is one dead letter");
    let figures = json!({
        "kills": kills, "records": news.len() as u64 + requests * EACH, "recovered_ms": recovered.as_millis() as u64,
        "lost": 0, "doubled": 0,
    });
    report("kills", figures);
}

/// Seconds: as often below 50 ms as above.
fn moment(rng: &mut StdRng) -> f64 {
    10_f64.powf(rng.random_range(-2.5..0.2))
}

fn count(server: &Server, table: &str) -> u64 {
    let body = json!({ "sql": format!("SELECT count(*) AS n FROM {table}") }).to_string();
    let answer = http::post(&format!("{}/api/v1/query", server.url()), body);
    json_lines(&answer.text)[0]["n"].as_u64().unwrap_or_else(|| panic!("{}", answer.text))
}

/// The numbers that the webhook got.
fn ids(got: &Got) -> BTreeSet<u64> {
    let got = got.lock().unwrap();
    let rows = got.values().map(|body| serde_json::from_str::<Value>(body).unwrap());
    rows.flat_map(|body| if let Value::Array(rows) = body { rows } else { vec![body] })
        .map(|change| change["new"]["n"].as_u64().unwrap())
        .collect()
}
