//! `kill -9` while a sink puts records aside: each of them is delivered or in the dead letter queue, in one place and
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::{PATIENCE, eventually};
use crate::support::{Place, http, seeded};

const KILLS: usize = 25;
/// Records a push: few, so that a moment after an answer of the service is one in the middle of putting them aside.
const EACH: u64 = 6;

/// What a service has taken, and how often it has refused the others.
#[derive(Default)]
struct Service {
    taken: BTreeSet<u64>,
    refused: BTreeMap<u64, usize>,
}

impl Service {
    /// A third is taken, a third is always refused, a third is refused once.
    fn takes(&mut self, n: u64) -> bool {
        let is_taken = match n % 3 {
            0 => true,
            1 => false,
            _ => self.refused.contains_key(&n),
        };
        if is_taken {
            self.taken.insert(n);
        } else {
            *self.refused.entry(n).or_default() += 1;
        }
        is_taken
    }
}

/// A service that says of each row of a request whether it takes it; a signal comes with every answer.
fn service() -> (String, Arc<Mutex<Service>>, Receiver<()>) {
    let service = Arc::new(Mutex::new(Service::default()));
    let (asked, signal): (Sender<()>, Receiver<()>) = channel();
    let keep = service.clone();
    let take = move |body: String| {
        let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
        let mut service = keep.lock().unwrap();
        let mut item =
            |row: &Value| json!({ "index": { "status": if service.takes(number(row)) { 201 } else { 422 } } });
        let items: Vec<Value> = rows.iter().map(&mut item).collect();
        // The test may be at its end.
        let _ = asked.send(());
        std::future::ready(axum::Json(json!({ "errors": true, "items": items })))
    };
    let address = http::serve(Router::new().route("/bulk", post(take)));
    (format!("http://{address}/bulk"), service, signal)
}

fn number(row: &Value) -> u64 {
    row["n"].as_u64().unwrap_or_else(|| panic!("no n in {row}"))
}

/// Pushes the records of one request until it is answered; a new server's address is in `url` after a kill.
fn push(url: &Mutex<String>, request: u64) {
    let records: Vec<Value> = (request * EACH..(request + 1) * EACH).map(|n| json!({ "n": n })).collect();
    let (body, key) = (Value::from(records).to_string(), format!("request-{request}"));
    eventually("an answer", || {
        let url = format!("{}/streams/posts/records", url.lock().unwrap());
        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
        http::try_send(Method::POST, &url, &headers, body.clone()).ok().filter(|answer| answer.status == 200)
    });
}

#[test]
fn killed_while_a_sink_puts_records_aside_each_is_in_one_place_once() {
    let mut rng = seeded("crash: dead letters of a sink");
    let (bulk, service, asked) = service();
    let place = Place::new(&format!(
        "
pipeline: letters
sources: {{ posts: {{ type: http, schema: {{ n: int }}, key: [n], partitions: 2 }} }}
sinks: {{ bulk: {{ type: http, from: posts, url: \"{bulk}\" }} }}
"
    ));
    let (url, stop) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(false)));
    let client = std::thread::spawn({
        let (url, stop) = (url.clone(), stop.clone());
        move || (0..).take_while(|request| *request == 0 || !*stop.lock().unwrap()).inspect(|n| push(&url, *n)).count()
    });
    for _ in 0..KILLS {
        let mut server = place.start(&[]);
        *url.lock().unwrap() = server.url();
        while asked.try_recv().is_ok() {}
        for _ in 0..rng.random_range(1..8) {
            asked.recv_timeout(PATIENCE).unwrap();
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(0..6_000)));
        assert!(server.kill(), "it ended by itself:\n{}", server.log());
    }
    *stop.lock().unwrap() = true;
    let mut server = place.start(&[]);
    *url.lock().unwrap() = server.url();
    let all = client.join().unwrap() as u64 * EACH;
    let settled = || {
        let letters = http::get(&format!("{}/api/v1/dlq?count=true", server.url())).json()["total"].as_u64()?;
        let taken = service.lock().unwrap().taken.len() as u64;
        (taken + letters >= all).then_some(())
    };
    eventually("all records are somewhere", settled);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    // What is on its way at the stop is there at the end.
    place.run();

    let letters = place.query("SELECT text FROM dead_letters");
    let of_letter = |letter: &Value| number(&serde_json::from_str(letter["text"].as_str().unwrap()).unwrap());
    let letters: Vec<u64> = letters.iter().map(of_letter).collect();
    let mut queued = BTreeSet::new();
    let twice: Vec<_> = letters.iter().filter(|n| !queued.insert(**n)).collect();
    assert_eq!(twice, Vec::<&u64>::new(), "in the queue more than once");
    let service = service.lock().unwrap();
    let both: Vec<_> = queued.intersection(&service.taken).collect();
    assert_eq!(both, Vec::<&u64>::new(), "delivered and in the queue");
    let neither: Vec<_> = (0..all).filter(|n| !queued.contains(n) && !service.taken.contains(n)).collect();
    assert_eq!(neither, Vec::<u64>::new(), "lost");
    let again = service.refused.values().filter(|times| **times > 1).count();
    eprintln!("{all} records, {} letters; {again} were refused again after a kill", letters.len());
}
