//! Who may ask the server, and what a peer may hold open or blow up.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::http::{Answer, get, post, try_send};
use crate::support::{Place, Server};

const PIPELINE: &str = "
pipeline: doors
sources: { posts: { type: http, schema: { id: int, text: string }, key: [id] } }
models: { tone: { task: text-classification, source: \"builtin:headline-sentiment-linear\" } }
transforms: { scored: { from: posts, predict: { model: tone, input: text, output: tone } } }
tables: { items: { from: scored, key: [id] } }
";
const RECORD: &str = r#"{"id": 1, "text": "Profits soar"}"#;

fn ask(server: &Server, method: &Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let body = match path {
        "/api/v1/query" => json!({ "sql": "SELECT 1" }).to_string(),
        "/api/v1/dlq/redrive" | "/api/v1/dlq/discard" => "{}".into(),
        "/invocations" => json!({ "instances": ["Profits soar"] }).to_string(),
        _ if *method == Method::POST => RECORD.into(),
        _ => String::new(),
    };
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    try_send(method.clone(), &format!("{}{path}", server.url()), &all, body).unwrap()
}

/// What a page of another server would like to do.
fn wishes() -> Vec<(Method, &'static str)> {
    let posts = ["/api/v1/query", "/streams/posts/records", "/api/v1/dlq/redrive", "/api/v1/dlq/discard"];
    let posts = posts.into_iter().chain(["/api/v1/models/tone/reload", "/invocations"]);
    let gets =
        ["/api/v1/streams/posts/tap?follow=false", "/api/v1/dlq", "/metrics", "/", "/readyz", "/ping", "/nothing"];
    posts.map(|path| (Method::POST, path)).chain(gets.map(|path| (Method::GET, path))).collect()
}

#[test]
fn no_page_of_another_server_gets_through_to_a_server_on_loopback() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let port = server.url().rsplit_once(':').unwrap().1.to_owned();
    let (rebound, null) = (format!("evil.example:{port}"), "null");
    for (method, path) in wishes() {
        for headers in [
            &[("host", "evil.example"), ("origin", "http://evil.example")][..],
            &[("host", &rebound)],
            &[("origin", "http://evil.example")],
            &[("origin", null), ("content-type", "text/plain")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        ] {
            let answer = ask(&server, &method, path, headers);
            assert_eq!(answer.status, 403, "{method} {path} {headers:?}: {answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
            assert!(answer.json()["error"].as_str().unwrap().contains("--allowed-"), "{answer:?}");
        }
        // A preflight of that page is not answered with leave.
        let asks = [("origin", "http://evil.example"), ("access-control-request-method", "POST")];
        let preflight = ask(&server, &Method::OPTIONS, path, &asks);
        assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (403, None), "{path}");
    }
    // Its own page, and whatever is no browser.
    let own = server.url();
    for headers in [&[][..], &[("origin", own.as_str()), ("sec-fetch-site", "same-origin")]] {
        for (method, path) in wishes().into_iter().filter(|(_, path)| *path != "/nothing") {
            let answer = ask(&server, &method, path, headers);
            assert_eq!(answer.status, 200, "{method} {path} {headers:?}: {answer:?}");
        }
    }
    // As `curl -d` sends it.
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(ask(&server, &Method::POST, "/streams/posts/records", &form).status, 200);
    let local = format!("localhost:{port}");
    assert_eq!(ask(&server, &Method::GET, "/metrics", &[("host", &local)]).status, 200);
}

#[test]
fn http_2_has_the_same_door() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let status = |url: &str, origin: Option<&str>| {
        let mut request = client.post(format!("{url}/streams/posts/records")).body(RECORD);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let answer = crate::support::http::block_on(request.send()).unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        answer.status().as_u16()
    };
    let url = server.url();
    assert_eq!(status(&url, None), 200);
    assert_eq!(status(&url.replace("127.0.0.1", "localhost"), None), 200);
    assert_eq!(status(&url, Some("http://evil.example")), 403);
    let port = url.rsplit_once(':').unwrap().1;
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
    let rebound = reqwest::Client::builder().http2_prior_knowledge().resolve("evil.example", at).build().unwrap();
    let answer = crate::support::http::block_on(rebound.get(format!("http://evil.example:{port}/metrics")).send());
    assert_eq!(answer.unwrap().status().as_u16(), 403);
}

#[test]
fn names_and_pages_that_are_configured_get_through() {
    let place = Place::new(PIPELINE);
    let allowed = ["--allowed-hosts", "news.internal,other.internal", "--allowed-origins", "https://board.example.com"];
    let server = place.start(&allowed);
    for host in ["news.internal", "other.internal:80", "127.0.0.1"] {
        assert_eq!(ask(&server, &Method::GET, "/metrics", &[("host", host)]).status, 200, "{host}");
    }
    let page = [("host", "news.internal"), ("origin", "https://board.example.com"), ("sec-fetch-site", "cross-site")];
    let answer = ask(&server, &Method::POST, "/api/v1/query", &page);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://board.example.com")));
    let mut preflight = page.to_vec();
    preflight.push(("access-control-request-method", "POST"));
    let answer = ask(&server, &Method::OPTIONS, "/api/v1/query", &preflight);
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert_eq!(ask(&server, &Method::GET, "/metrics", &[("origin", "https://evil.example")]).status, 403);
    for wrong in [["--allowed-hosts", "http://a"], ["--allowed-origins", "*"]] {
        let said = place.fails(2, &["run", "pipeline.yaml", "--listen", "127.0.0.1:0", wrong[0], wrong[1]]);
        assert!(said.contains(wrong[0]), "{said}");
    }
}

#[test]
fn serve_has_the_same_door() {
    let place = Place::new("");
    let model = "builtin:headline-sentiment-linear";
    let server = Server::spawn(place.command(&["serve", model, "--listen", "127.0.0.1:0"]));
    for path in ["/invocations", "/metrics", "/ping", "/v2"] {
        let method = if path == "/invocations" { Method::POST } else { Method::GET };
        for headers in [[("host", "evil.example")], [("origin", "http://evil.example")]] {
            assert_eq!(ask(&server, &method, path, &headers).status, 403, "{path}");
        }
        assert!(ask(&server, &method, path, &[]).status < 400, "{path}");
    }
}

#[test]
fn the_network_is_not_let_in_without_a_token() {
    let place = Place::new(PIPELINE);
    let model = "builtin:headline-sentiment-linear";
    for command in [["run", "pipeline.yaml"], ["serve", model]] {
        let said = place.fails(2, &[command[0], command[1], "--listen", "0.0.0.0:0"]);
        assert!(said.contains("MILLSTREAM_TOKEN") && said.contains("--without-token"), "{said}");
    }
    assert!(!place.path("millstream-data").exists(), "nothing was opened");
    let said = place.fails(2, &["run", "pipeline.yaml", "--listen", "127.0.0.1:0", "--token", ""]);
    assert!(said.contains("is empty"), "{said}");
    place.fails(2, &["demo", "--listen", "0.0.0.0:0"]);
    for more in [["--token", "secret"].as_slice(), &["--without-token"]] {
        let mut args = vec!["run", "pipeline.yaml", "--data-dir", "data", "--listen", "0.0.0.0:0"];
        args.extend(more);
        let mut server = Server::spawn(place.command(&args));
        let url = server.url().replace("0.0.0.0", "127.0.0.1");
        assert_eq!(get(&format!("{url}/healthz")).status, 200);
        let evil = try_send(Method::GET, &format!("{url}/metrics"), &[("host", "evil.example")], "").unwrap();
        assert_eq!(evil.status, 403);
        server.terminate();
        assert!(server.wait().success());
    }
}

fn connect(server: &Server) -> TcpStream {
    let address = server.url().trim_start_matches("http://").to_owned();
    TcpStream::connect(address).unwrap()
}

#[test]
fn bodies_that_are_announced_and_do_not_come_take_nothing_from_others() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let mut silent = Vec::new();
    for path in ["/streams/posts/records", "/invocations"] {
        for length in
            ["content-length: 8388608", "transfer-encoding: chunked", "content-encoding: gzip\r\ncontent-length: 9"]
        {
            for _ in 0..20 {
                let mut socket = connect(&server);
                let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{length}\r\n\r\n");
                socket.write_all(head.as_bytes()).unwrap();
                silent.push(socket);
            }
        }
    }
    for _ in 0..20 {
        let answer = post(&format!("{}/streams/posts/records", server.url()), RECORD);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(ask(&server, &Method::POST, "/invocations", &[]).status, 200);
    }
}

#[test]
fn bodies_that_stop_half_way_give_way() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let mut stopped = Vec::new();
    // More than there is room for.
    for _ in 0..10 {
        let mut socket = connect(&server);
        socket
            .write_all(b"POST /streams/posts/records HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n")
            .unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        let _ = socket.write_all(&vec![b' '; 7 << 20]);
        stopped.push(socket);
    }
    let large = format!("{}{RECORD}", " ".repeat(4 << 20));
    crate::support::process::eventually("a push goes through", || {
        let answer = post(&format!("{}/streams/posts/records", server.url()), large.clone());
        assert!([200, 429].contains(&answer.status), "{answer:?}");
        (answer.status == 200).then_some(())
    });
}

#[test]
fn the_answer_to_a_body_of_nonsense_is_small_and_so_is_what_is_remembered() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    let push = |server: &Server, body: Vec<u8>| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "the-same")];
        try_send(Method::POST, &format!("{}/streams/posts/records", server.url()), &headers, body).unwrap()
    };
    // Good records among many bad ones, in several parts of the body.
    let mut body = "1\n".repeat(100_000).into_bytes();
    body.extend_from_slice(RECORD.as_bytes());
    body.extend_from_slice(&b"\n2".repeat(10));
    let answer = push(&server, body.clone());
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.text.len() < 50_000, "{}", answer.text.len());
    let first = answer.json();
    let listed = first["rejected"].as_array().unwrap().len();
    assert_eq!((&first["accepted"], &first["rejected_not_listed"]), (&json!(1), &json!(100_010 - listed)));
    for restarted in [false, true] {
        if restarted {
            server.terminate();
            assert!(server.wait().success());
            server = place.start(&[]);
        }
        let again = push(&server, body.clone()).json();
        assert_eq!((&again["duplicate"], &again["accepted"]), (&json!(true), &json!(1)));
        let listed = again["rejected"].as_array().unwrap().len();
        assert_eq!(again["rejected_not_listed"], json!(100_010 - listed), "{again}");
    }
    let stored: u64 =
        std::fs::read_dir(place.path("data/log/posts")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!(stored < 100_000, "{stored}");
}

#[test]
fn connections_that_do_nothing_end_nothing() {
    let place = Place::new(PIPELINE);
    let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    let mut server = Server::spawn(place.with_descriptors(200, &args));
    server.wait_for_log("running; http://");
    // More than the process has descriptors.
    let idle: Vec<TcpStream> = (0..400).map(|_| connect(&server)).collect();
    for id in 0..50 {
        let answer = post(&format!("{}/streams/posts/records", server.url()), RECORD.replace('1', &id.to_string()));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let closed = |mut socket: &TcpStream| {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        matches!(socket.read(&mut [0]), Ok(0))
    };
    assert!(idle.iter().filter(|socket| closed(socket)).count() > 200, "they were closed for others");
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
}
