//! HTTPS: certificates, their replacement while the server runs, and those of clients.

use std::io::{Read, Write};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::{Value, json};

use crate::support::http::{Answer, block_on};
use crate::support::process::eventually;
use crate::support::{Place, Server, json_lines};

const PIPELINE: &str = "
pipeline: tls
sources: { posts: { type: http, schema: { id: int, text: string }, key: [id] } }
tables: { items: { from: posts, key: [id] } }
";

/// An authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key.
    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self, name: &str) -> (String, String) {
        self.issue(name, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

fn write_pair(place: &Place, (cert, key): &(String, String)) {
    place.write("server.pem", cert);
    place.write("server.key", key);
}

const PAIR: [&str; 4] = ["--tls-cert", "server.pem", "--tls-key", "server.key"];

/// Asks over a connection of its own.
fn ask(server: &Server, authority: &Authority, identity: Option<&(String, String)>) -> reqwest::Result<Answer> {
    block_on(async {
        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let mut client = reqwest::Client::builder().tls_certs_only([root]).no_proxy();
        if let Some((cert, key)) = identity {
            client = client.identity(reqwest::Identity::from_pem(format!("{key}{cert}").as_bytes()).unwrap());
        }
        let asked = client.build().unwrap().get(format!("{}/api/v1/pipeline", server.url())).send().await?;
        assert_eq!(asked.version(), reqwest::Version::HTTP_2, "by ALPN");
        let (status, headers) = (asked.status().as_u16(), asked.headers().clone());
        Ok(Answer { status, headers, text: asked.text().await? })
    })
}

#[test]
fn the_server_speaks_https_and_the_commands_do() {
    let (place, authority) = (Place::new(PIPELINE), Authority::new("The authority"));
    write_pair(&place, &authority.server("first"));
    place.write("ca.pem", authority.pem());
    let server = place.start(&PAIR);
    let url = server.url();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert_eq!(ask(&server, &authority, None).unwrap().status, 200);
    assert!(ask(&server, &Authority::new("Somebody else"), None).is_err());
    let with_ca = |args: &[&str]| place.stdout(&[args, &["--url", &url, "--ca", "ca.pem"]].concat());
    assert_eq!(json_lines(&with_ca(&["query", "SELECT 1 AS one", "--format", "jsonl"])), [json!({ "one": 1 })]);
    with_ca(&["tap", "posts", "--from-start", "--limit", "0"]);
    with_ca(&["dlq", "list"]);
    with_ca(&["models", "list"]);
    let said = place.fails(1, &["query", "SELECT 1", "--url", &url]);
    assert!(said.contains("--ca FILE"), "{said}");
    let said = place.fails(1, &["query", "SELECT 1", "--url", &url.replace("https", "http")]);
    assert!(said.contains("then write https://"), "{said}");
    place.write("no.pem", "nothing");
    let said = place.fails(2, &["query", "SELECT 1", "--url", &url, "--ca", "no.pem"]);
    assert!(said.contains("--ca no.pem: there is no certificate in it"), "{said}");
    // Who says nothing keeps nobody waiting.
    let silent: Vec<_> =
        (0..50).map(|_| std::net::TcpStream::connect(url.trim_start_matches("https://")).unwrap()).collect();
    assert_eq!(ask(&server, &authority, None).unwrap().status, 200);
    drop(silent);
    // HTTP without TLS gets no answer, and no record out of it.
    let mut plain = std::net::TcpStream::connect(url.trim_start_matches("https://")).unwrap();
    plain.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
}

#[test]
fn a_new_certificate_is_taken_while_the_server_runs_and_a_broken_one_is_not() {
    let place = Place::new(PIPELINE);
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    // As Kubernetes mounts a secret: links to links, of which one is turned around.
    write_in(&place, "..1", &old.server("first"));
    let link = |to: &str| {
        let _ = std::fs::remove_file(place.path("next"));
        std::os::unix::fs::symlink(to, place.path("next")).unwrap();
        std::fs::rename(place.path("next"), place.path("..data")).unwrap();
    };
    link("..1");
    std::os::unix::fs::symlink("..data/server.pem", place.path("server.pem")).unwrap();
    std::os::unix::fs::symlink("..data/server.key", place.path("server.key")).unwrap();
    let server = place.start(&PAIR);
    assert_eq!(ask(&server, &old, None).unwrap().status, 200);
    assert!(ask(&server, &new, None).is_err());
    write_in(&place, "..2", &new.server("second"));
    link("..2");
    eventually("the new certificate", || ask(&server, &new, None).ok());
    assert!(ask(&server, &old, None).is_err());
    // The key of another.
    let (cert, _) = new.server("third");
    write_in(&place, "..3", &(cert, new.server("fourth").1));
    link("..3");
    server.wait_for_log("server.key is not the key of --tls-cert server.pem");
    assert_eq!(ask(&server, &new, None).unwrap().status, 200);
    std::fs::remove_file(place.path("..data")).unwrap();
    server.wait_for_log("there is no such file");
    assert_eq!(ask(&server, &new, None).unwrap().status, 200);
    write_in(&place, "..4", &old.server("fifth"));
    link("..4");
    eventually("the certificate after that", || ask(&server, &old, None).ok());
}

fn write_in(place: &Place, folder: &str, (cert, key): &(String, String)) {
    place.write(&format!("{folder}/server.pem"), cert);
    place.write(&format!("{folder}/server.key"), key);
}

#[test]
fn a_client_without_a_certificate_of_the_authority_does_not_get_in() {
    let (place, authority) = (Place::new(PIPELINE), Authority::new("Servers"));
    let (clients, others) = (Authority::new("Clients"), Authority::new("Others"));
    write_pair(&place, &authority.server("first"));
    let client = clients.issue("dashboard", ExtendedKeyUsagePurpose::ClientAuth);
    for (name, content) in
        [("ca.pem", &authority.pem()), ("clients.pem", &clients.pem()), ("my.pem", &client.0), ("my.key", &client.1)]
    {
        place.write(name, content);
    }
    let server = place.start(&[&PAIR[..], &["--tls-client-ca", "clients.pem", "--audit-log", "audit.jsonl"]].concat());
    assert!(ask(&server, &authority, None).is_err());
    let stranger = others.issue("stranger", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(ask(&server, &authority, Some(&stranger)).is_err());
    assert_eq!(ask(&server, &authority, Some(&client)).unwrap().status, 200);
    let url = server.url();
    let with_ca = ["--url", &url, "--ca", "ca.pem"];
    let said = place.fails(1, &[&["query", "SELECT 1"], &with_ca[..]].concat());
    assert!(said.contains("--client-cert"), "{said}");
    let identity = ["--client-cert", "my.pem", "--client-key", "my.key"];
    place.stdout(&[&["query", "SELECT 1"], &with_ca[..], &identity].concat());
    // Who redrives is known by it.
    place.stdout(&[&["dlq", "discard", "--all", "--yes"], &with_ca[..], &identity].concat());
    let lines = json_lines(&std::fs::read_to_string(place.path("audit.jsonl")).unwrap());
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&line["who"], line["path"].as_str()), (&Value::Null, Some("/api/v1/dlq/discard")));
    assert!(line["certificate"].as_str().unwrap().contains("CN=dashboard"), "{line}");
}

#[test]
fn files_that_are_no_certificate_and_key_are_said_before_anything_runs() {
    let (place, authority) = (Place::new(PIPELINE), Authority::new("The authority"));
    let (cert, key) = authority.server("first");
    let says = |cert: &str, key: &str, more: &[&str], expected: &str| {
        write_pair(&place, &(cert.to_owned(), key.to_owned()));
        let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
        let said = place.fails(2, &[&args, &PAIR[..], more].concat());
        assert!(said.contains(expected) && !said.contains("BEGIN PRIVATE KEY-----\n"), "{said}");
    };
    says("", &key, &[], "--tls-cert server.pem: there is no certificate in it");
    says(&cert, &cert, &[], "--tls-key server.key: there is no private key in it");
    says(&cert, &authority.server("second").1, &[], "--tls-key server.key is not the key of --tls-cert server.pem");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    says(&cert, encrypted, &[], "the key is encrypted");
    says(&cert, &key, &["--tls-client-ca", "none.pem"], "--tls-client-ca none.pem: there is no such file");
    place.fails(2, &["run", "pipeline.yaml", "--tls-cert", "server.pem"]);
}
