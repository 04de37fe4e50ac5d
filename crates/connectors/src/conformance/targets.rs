//! Targets, for sinks: a web service, and what standard output leads to.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use millstream_core::Sink;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::open_sink;
use super::sinks::{Arrived, Choosy, Target};
use crate::payload::tests::row_schema;
use crate::stdout::{StdoutSink, StdoutSinkConfig};
use crate::test_server::{answer, install_tls, serve};

/// A service that takes several rows at once, as an array.
pub(super) struct JsonArrays(Service);

/// The same, as lines.
pub(super) struct JsonLines(Service);

/// A service that takes row by row.
pub(super) struct SingleRows(Service);

/// A page of lines.
pub(super) struct Printed(Page);

#[derive(Default)]
struct Taken {
    rows: Mutex<Vec<Arrived>>,
    refused: Mutex<BTreeSet<i64>>,
    fails: AtomicBool,
}

struct Service {
    taken: Arc<Taken>,
    url: String,
}

impl Service {
    async fn start() -> Self {
        install_tls();
        let taken = Arc::new(Taken::default());
        let of_server = taken.clone();
        let (url, _) = serve(move |_, request| {
            let (status, body) = of_server.answer(request);
            answer(status, &[], body)
        })
        .await;
        Self { taken, url }
    }

    fn open(&self, framing: &str) -> Box<dyn Sink> {
        let settings = json!({ "type": "http", "url": self.url, "framing": framing, "batch": { "max": 6 } });
        match open_sink(settings, &row_schema()) {
            millstream_core::AnySink::Direct(sink) => sink,
            millstream_core::AnySink::Staged(_) => panic!("an HTTP sink delivers at once"),
        }
    }
}

impl Taken {
    /// Takes a request whole or not at all.
    fn answer(&self, request: &str) -> (&'static str, &'static str) {
        if self.fails.swap(false, Ordering::SeqCst) {
            return ("503 Service Unavailable", "not now");
        }
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        let values = serde_json::Deserializer::from_str(body).into_iter::<Value>();
        let values = values.flat_map(|value| match value.unwrap() {
            Value::Array(rows) => rows,
            row => vec![row],
        });
        let rows: Vec<i64> = values.map(|row| row["id"].as_i64().unwrap()).collect();
        if rows.iter().any(|id| self.refused.lock().contains(id)) {
            return ("422 Unprocessable Entity", "one of them is wrong");
        }
        let names = names(head);
        assert_eq!(names.len(), rows.len(), "{head}");
        let arrived = rows.into_iter().zip(names).map(|(id, name)| Arrived { id, name: Some(name) });
        self.rows.lock().extend(arrived);
        ("200 OK", "")
    }
}

/// The name of each row of a request.
fn names(head: &str) -> Vec<String> {
    let header = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next().unwrap()
    };
    let [folder, stream, partition] =
        ["folder", "stream", "partition"].map(|what| header(&format!("x-millstream-{what}")));
    let offsets = header("x-millstream-offsets");
    let ranges = offsets.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    let offsets = ranges.flat_map(|(first, last)| first.parse::<u64>().unwrap()..=last.parse::<u64>().unwrap());
    offsets.map(|offset| format!("{folder}/{stream}/{partition}/{offset}")).collect()
}

macro_rules! services {
    ($($kind:ident: $framing:literal;)*) => {
        $(#[async_trait]
        impl Target for $kind {
            async fn start() -> Self {
                Self(Service::start().await)
            }

            fn open(&self) -> Box<dyn Sink> {
                self.0.open($framing)
            }

            fn fail_next(&self) {
                self.0.taken.fails.store(true, Ordering::SeqCst);
            }

            async fn arrived(&self) -> Vec<Arrived> {
                self.0.taken.rows.lock().clone()
            }
        }

        impl Choosy for $kind {
            fn refuse(&self, id: i64) {
                self.0.taken.refused.lock().insert(id);
            }
        })*
    };
}

services! {
    JsonArrays: "array";
    JsonLines: "lines";
    SingleRows: "single";
}

/// What is printed, unless it fails.
#[derive(Clone, Default)]
struct Page {
    text: Arc<Mutex<Vec<u8>>>,
    fails: Arc<AtomicBool>,
}

impl Write for Page {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.text.lock().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Target for Printed {
    async fn start() -> Self {
        Self(Page::default())
    }

    fn open(&self) -> Box<dyn Sink> {
        let spec = StdoutSinkConfig::default().checked(&row_schema()).unwrap();
        Box::new(StdoutSink::onto(Box::new(self.0.clone()), spec.body))
    }

    fn fail_next(&self) {
        self.0.fails.store(true, Ordering::SeqCst);
    }

    async fn arrived(&self) -> Vec<Arrived> {
        let text = self.0.text.lock().clone();
        let lines = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
        lines.map(|line| Arrived { id: line.unwrap()["id"].as_i64().unwrap(), name: None }).collect()
    }
}
