//! Redirects over real connections: what is followed, and what goes along.

use reqwest::header::{AUTHORIZATION, HeaderValue};

use super::*;
use crate::test_server::{Requests, answer, install_tls, serve};

fn client(access: Access) -> HttpClient {
    install_tls();
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("hush"));
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer hush"));
    HttpClient::new(headers, Some(Duration::from_secs(10)), access).unwrap()
}

/// A server that sends everything but `/end` to `to`, and one that answers everything.
async fn redirecting(status: &'static str, to: impl Fn(&str) -> String) -> (String, Requests, Requests) {
    let (end, at_end) = serve(|_, _| answer("200 OK", &[], "the end")).await;
    let to = to(&end);
    let (begin, at_begin) = serve(move |_, request| {
        if request.starts_with("GET /end") || request.starts_with("POST /end") {
            return answer("200 OK", &[], "the end");
        }
        answer(status, &[("location", &to)], "")
    })
    .await;
    (begin, at_begin, at_end)
}

async fn send(client: &HttpClient, url: &str, what: Outgoing) -> Result<String, String> {
    let url = Url::parse(url).unwrap();
    Ok(client.send(&url, what).await?.text().await.unwrap())
}

fn at(url: &str, path: &str) -> String {
    url.replace("http://", "http://user:hush@") + path
}

#[tokio::test]
async fn within_its_origin_a_redirect_is_followed_with_everything() {
    let (begin, seen, _) = redirecting("302 Found", |_| "/end".into()).await;
    let said = send(&client(Access::default()), &at(&begin, "/token?key=hush"), Outgoing::default()).await;
    assert_eq!(said.as_deref(), Ok("the end"));
    let last = seen.lock()[1].to_ascii_lowercase();
    assert!(last.contains("x-api-key: hush") && last.contains("authorization: "), "{last}");
    assert!(!last.contains("referer"), "{last}");
}

#[tokio::test]
async fn to_another_origin_a_redirect_is_followed_only_where_it_is_allowed_and_takes_nothing_along() {
    for status in
        ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        // Another port is another origin.
        let (begin, _, at_end) = redirecting(status, |end| at(end, "/x")).await;
        let refused =
            send(&client(Access::default()), &at(&begin, "/?key=hush"), Outgoing::default()).await.unwrap_err();
        assert!(refused.contains("another origin, http://127.0.0.1:") && refused.contains("allow_hosts"), "{refused}");
        assert!(!refused.contains("hush"), "{refused}");
        assert!(at_end.lock().is_empty(), "nothing was sent there");

        let access = Access { allow_hosts: vec!["127.0.0.1".into()], ..Access::default() };
        let said = send(&client(access), &at(&begin, "/token?key=hush"), Outgoing::default()).await;
        assert_eq!(said.as_deref(), Ok("the end"), "{status}");
        let last = at_end.lock()[0].clone();
        assert!(!last.contains("hush") && !last.to_ascii_lowercase().contains("authorization"), "{status}: {last}");
    }
}

#[tokio::test]
async fn back_at_its_origin_a_request_has_its_headers_again() {
    let (begin, seen, _) = redirecting("302 Found", |_| "/end".into()).await;
    let back = format!("{begin}/end");
    let (between, _) = serve(move |_, _| answer("302 Found", &[("location", &back)], "")).await;
    let away = format!("{between}/x");
    let (start, at_start) = serve(move |n, _| match n {
        0 => answer("302 Found", &[("location", &away)], ""),
        _ => answer("200 OK", &[], "never"),
    })
    .await;
    let access = Access { allow_hosts: vec!["*".into()], ..Access::default() };
    assert_eq!(send(&client(access), &start, Outgoing::default()).await.as_deref(), Ok("the end"));
    assert!(at_start.lock()[0].contains("hush"));
    assert!(!seen.lock()[0].contains("hush"), "a third origin");
}

#[tokio::test]
async fn a_body_stays_with_its_origin_and_a_post_does_not_become_a_get() {
    let post = || Outgoing { method: Method::POST, body: Some(b"hush".to_vec()), ..Outgoing::default() };
    let any = || client(Access { allow_hosts: vec!["*".into()], ..Access::default() });
    let (begin, _, at_end) = redirecting("307 Temporary Redirect", |end| format!("{end}/x")).await;
    assert!(send(&any(), &begin, post()).await.unwrap_err().contains("is not followed"));
    assert!(at_end.lock().is_empty());
    let (begin, seen, _) = redirecting("302 Found", |_| "/end".into()).await;
    assert!(send(&any(), &begin, post()).await.unwrap_err().contains("is not followed"));
    assert_eq!(seen.lock().len(), 1);
    let (begin, seen, _) = redirecting("307 Temporary Redirect", |_| "/end".into()).await;
    assert_eq!(send(&any(), &begin, post()).await.as_deref(), Ok("the end"));
    assert!(seen.lock()[1].starts_with("POST /end") && seen.lock()[1].ends_with("hush"));
}

#[tokio::test]
async fn a_redirect_leads_to_no_other_scheme_and_comes_to_an_end() {
    let any = || client(Access { allow_hosts: vec!["*".into()], ..Access::default() });
    for (location, wanted) in [
        ("file:///etc/passwd", "no address of the web"),
        ("ftp://127.0.0.1/x", "no address of the web"),
        ("http://[", "no address"),
        ("/again", "more than 10 redirects"),
    ] {
        let (begin, _, _) = redirecting("302 Found", |_| location.into()).await;
        let refused = send(&any(), &begin, Outgoing::default()).await.unwrap_err();
        assert!(refused.contains(wanted), "{location}: {refused}");
    }
    let url = |text: &str| Url::parse(text).unwrap();
    let follow = |from: &str, to: &str, access: Access| {
        client(access).follow(&url(from), &url(from), url(to), &Outgoing::default(), StatusCode::FOUND)
    };
    assert!(follow("https://a.example/", "http://a.example/", any().access).unwrap_err().contains("without TLS"));
    assert!(follow("http://a.example/", "https://a.example/x", Access::default()).is_ok(), "the usual upgrade");
    assert!(follow("http://a.example/", "https://a.example:8443/x", Access::default()).is_err());
    assert!(follow("http://a.example/", "https://b.example/x", Access::default()).is_err());
}

#[tokio::test]
async fn private_addresses_are_not_connected_to_by_number_or_by_name() {
    let (url, seen) = serve(|_, _| answer("200 OK", &[], "")).await;
    let denying = || client(Access { deny_private: true, allow_hosts: vec!["*".into()] });
    let port = Url::parse(&url).unwrap().port().unwrap();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let refused = send(&denying(), &format!("http://{host}:{port}/"), Outgoing::default()).await.unwrap_err();
        assert!(refused.contains("deny_private"), "{host}: {refused}");
    }
    assert!(seen.lock().is_empty());
    // A redirect is looked at like the first address.
    let answering = client(Access::default());
    assert!(send(&answering, &url, Outgoing::default()).await.is_ok());
}

#[test]
fn hosts_are_allowed_by_name_or_by_domain() {
    let access = Access { allow_hosts: vec!["cdn.example.com".into(), "*.news.example".into()], ..Access::default() };
    for host in ["cdn.example.com", "CDN.example.com", "a.news.example", "a.b.news.example", "cdn.example.com."] {
        assert!(access.allows(host), "{host}");
    }
    for host in ["example.com", "news.example", "evilnews.example", "cdn.example.com.evil.example", "xcdn.example.com"]
    {
        assert!(!access.allows(host), "{host}");
    }
    for wrong in ["https://a.example", "a.example/x", "", "*.", "a.example:80", "*a.example", "a b"] {
        assert!(wrong_host(wrong).is_some(), "{wrong}");
    }
    for right in ["a.example", "*.a.example", "*", "127.0.0.1", "[::1]"] {
        assert!(wrong_host(right).is_none(), "{right}");
    }
}
