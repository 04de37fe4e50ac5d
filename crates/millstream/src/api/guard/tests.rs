//! Who is let in by name, and which pages are kept out.

use axum::body::Body;
use axum::http::Request;

use super::*;

const LOCAL: &str = "127.0.0.1:8080";

fn guard(bound: &str, hosts: &[&str], origins: &[&str]) -> Guard {
    let owned = |list: &[&str]| list.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
    Guard::new(bound, bound.parse().unwrap(), &owned(hosts), &owned(origins)).unwrap()
}

/// The status with which a request is refused.
fn refused(guard: &Guard, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<u16> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let (method, uri, headers) = (request.method(), request.uri(), request.headers());
    let local = Some("127.0.0.1".parse().unwrap());
    let asked = guard.check_host((uri, headers, request.version()), local);
    asked.and_then(|asked| guard.check_page((method, uri, headers), asked.as_ref())).err().map(|e| e.status().as_u16())
}

#[test]
fn a_server_on_loopback_answers_to_its_own_names_only() {
    let guard = guard(LOCAL, &["news.internal"], &[]);
    for host in ["127.0.0.1:8080", "localhost", "LocalHost.:9999", "[::1]:8080", "127.0.0.2", "news.internal:80"] {
        assert_eq!(refused(&guard, "POST", "/api/v1/query", &[("host", host)]), None, "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example"] {
        assert_eq!(refused(&guard, "GET", "/metrics", &[("host", host)]), Some(403), "{host}");
    }
    for host in ["user@127.0.0.1", "", "a b"] {
        assert_eq!(refused(&guard, "GET", "/metrics", &[("host", host)]), Some(400), "{host}");
    }
    assert_eq!(refused(&guard, "GET", "/metrics", &[]), Some(400));
    assert_eq!(refused(&guard, "GET", "/", &[("host", "localhost"), ("host", "localhost")]), Some(400));
    assert_eq!(refused(&guard, "GET", "http://evil.example/metrics", &[("host", "localhost")]), Some(403));
}

#[test]
fn a_server_on_the_network_answers_to_addresses_and_names_that_it_was_told() {
    let guard = guard("0.0.0.0:8080", &["news.example.com"], &[]);
    for host in ["10.1.2.3:8080", "localhost:8080", "news.example.com"] {
        assert_eq!(refused(&guard, "POST", "/api/v1/query", &[("host", host)]), None, "{host}");
    }
    assert_eq!(refused(&guard, "GET", "/", &[("host", "evil.example")]), Some(403));
    assert_eq!(refused(&self::guard("0.0.0.0:8080", &["*"], &[]), "GET", "/", &[("host", "evil.example")]), None);
}

#[test]
fn the_page_of_another_server_may_not_ask() {
    let guard = guard(LOCAL, &[], &[]);
    let host = ("host", "localhost:8080");
    for origin in ["http://evil.example", "null", "http://localhost:9999", "https://localhost.evil.example:8080", "x"] {
        assert_eq!(refused(&guard, "POST", "/streams/a/records", &[host, ("origin", origin)]), Some(403), "{origin}");
        assert_eq!(refused(&guard, "GET", "/api/v1/streams/a/tap", &[host, ("origin", origin)]), Some(403), "{origin}");
    }
    assert_eq!(refused(&guard, "POST", "/api/v1/query", &[host, ("origin", "http://localhost:8080")]), None);
    for site in ["cross-site", "same-site"] {
        let image = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
        assert_eq!(refused(&guard, "GET", "/api/v1/dlq", &image), Some(403));
        let link = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert_eq!(refused(&guard, "GET", "/", &link), None);
        assert_eq!(refused(&guard, "GET", "/api/v1/dlq", &link), Some(403));
        assert_eq!(refused(&guard, "POST", "/api/v1/dlq/redrive", &link), Some(403));
        let frame = [host, ("sec-fetch-site", site), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        assert_eq!(refused(&guard, "GET", "/", &frame), Some(403));
    }
    assert_eq!(refused(&guard, "POST", "/x", &[host, ("referer", "http://evil.example/form")]), Some(403));
    assert_eq!(refused(&guard, "POST", "/x", &[host, ("referer", "http://localhost:8080/")]), None);
    // curl.
    assert_eq!(refused(&guard, "POST", "/streams/a/records", &[host]), None);
}

#[test]
fn an_origin_that_is_configured_may() {
    let guard = guard(LOCAL, &[], &["https://board.example.com", "http://localhost:3000"]);
    let host = ("host", "localhost:8080");
    for origin in ["https://board.example.com", "http://localhost:3000"] {
        let headers = [host, ("origin", origin), ("sec-fetch-site", "cross-site")];
        assert_eq!(refused(&guard, "POST", "/api/v1/query", &headers), None, "{origin}");
    }
    for origin in
        ["http://board.example.com", "https://board.example.com:8443", "https://board.example.com.evil.example"]
    {
        assert_eq!(refused(&guard, "POST", "/api/v1/query", &[host, ("origin", origin)]), Some(403), "{origin}");
    }
}

#[test]
fn what_is_no_host_or_origin_is_refused_at_the_start() {
    let bound: SocketAddr = LOCAL.parse().unwrap();
    for host in ["a:80", "http://a", "a/b", "u@a"] {
        assert!(Guard::new(LOCAL, bound, &[host.to_owned()], &[]).is_err(), "{host}");
    }
    for origin in ["*", "null", "news.example.com", "file:///x"] {
        assert!(Guard::new(LOCAL, bound, &[], &[origin.to_owned()]).is_err(), "{origin}");
    }
}
