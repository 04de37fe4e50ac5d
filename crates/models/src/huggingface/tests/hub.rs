//! The hub's cache, and downloads from a hub that is played by a small server in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use parking_lot::Mutex;

use super::*;
use crate::huggingface::hub::{Hub, Repository, locate, pull};
use crate::text_model::{Settings, find};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Closes the connection in the middle of the weights.
    CutsWeights,
    /// Sends other weights than it names.
    ChangesWeights,
    /// Answers every request with this status.
    Status(u16),
}

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    fault: Arc<Mutex<Fault>>,
}

/// Serves a folder of the test data as the model `org/name`; weights come from a second host, as on the hub.
fn serve(name: &'static str) -> Server {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let fault = Arc::new(Mutex::new(Fault::None));
    let store = start(name, None, asked.clone(), fault.clone());
    let url = start(name, Some(store), asked.clone(), fault.clone());
    Server { url, asked, fault }
}

fn start(
    name: &'static str,
    store: Option<String>,
    asked: Arc<Mutex<Vec<String>>>,
    fault: Arc<Mutex<Fault>>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (store, asked, fault) = (store.clone(), asked.clone(), *fault.lock());
            std::thread::spawn(move || answer(stream, &testdata(name), store.as_deref(), &asked, fault));
        }
    });
    url
}

fn answer(stream: TcpStream, folder: &Path, store: Option<&str>, asked: &Mutex<Vec<String>>, fault: Fault) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let path = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().push(head.to_ascii_lowercase());
    let mut stream = stream;
    let mut send = |status: u16, headers: &str, body: &[u8], length: usize| {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).and_then(|()| stream.flush()).ok();
    };
    if let Fault::Status(status) = fault {
        return send(status, "", b"", 0);
    }
    if path == "/api/models/org/name/revision/main" {
        let mut files = Vec::new();
        list(folder, "", &mut files);
        let files: Vec<Value> = files.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string();
        return send(200, "", body.as_bytes(), body.len());
    }
    let Some(name) = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")) else { return send(404, "", b"", 0) };
    let mut body = Vec::new();
    fs::File::open(folder.join(name)).unwrap().read_to_end(&mut body).unwrap();
    if !name.ends_with(".safetensors") {
        return send(200, &format!("etag: \"{}\"\r\n", &hash(&body)[..40]), &body, body.len());
    }
    if let Some(store) = store {
        let headers = format!("location: {store}{path}\r\nx-linked-etag: \"{}\"\r\netag: \"other\"\r\n", hash(&body));
        return send(302, &headers, b"", 0);
    }
    let length = body.len();
    match fault {
        Fault::CutsWeights => body.truncate(length / 2),
        Fault::ChangesWeights => body[length / 2] ^= 1,
        _ => {}
    }
    send(200, "", &body, length);
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() { list(&entry.path(), &format!("{name}/"), names) } else { names.push(name) }
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hub(cache: &Path, endpoint: &str) -> Hub {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let variables = [("HF_HUB_CACHE", cache.to_str().unwrap()), ("HF_ENDPOINT", endpoint), ("HF_TOKEN", "hush")];
    variables_of(&variables)
}

fn variables_of(variables: &[(&str, &str)]) -> Hub {
    let variable =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Hub::from_variables(&variable).unwrap()
}

fn repository() -> Repository {
    Repository::parse("hf://org/name").unwrap()
}

/// Every file below a folder, links followed.
fn all_files(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    list(folder, "", &mut names);
    names.sort();
    names
}

#[tokio::test]
async fn a_model_is_downloaded_once_and_then_used_without_the_network() {
    let (server, cache) = (serve("roberta-embedding"), tempfile::tempdir().unwrap());
    let hub = hub(cache.path(), &server.url);
    let message = locate(&hub, &repository()).unwrap_err().to_string();
    assert!(message.contains("millstream models pull hf://org/name"), "{message}");
    assert!(server.asked.lock().is_empty(), "looking is no network call");

    let mut last: HashMap<String, u64> = HashMap::new();
    let folder = pull(&hub, &repository(), &mut |progress| {
        last.insert(progress.file.to_owned(), progress.bytes);
        assert!(progress.bytes_total.is_some());
    })
    .await
    .unwrap();
    assert_eq!(folder, cache.path().join("models--org--name/snapshots").join(COMMIT));
    assert_eq!(all_files(&folder), all_files(&testdata("roberta-embedding")));
    let weights = fs::read(testdata("roberta-embedding/model.safetensors")).unwrap();
    assert_eq!(last["model.safetensors"], weights.len() as u64);
    // The layout of the hub's own libraries.
    assert_eq!(fs::read_to_string(cache.path().join("models--org--name/refs/main")).unwrap(), COMMIT);
    let blob = cache.path().join("models--org--name/blobs").join(hash(&weights));
    assert_eq!(fs::canonicalize(folder.join("model.safetensors")).unwrap(), fs::canonicalize(blob).unwrap());
    assert!(fs::read_link(folder.join("2_Dense/config.json")).unwrap().starts_with("../../../blobs"));

    let asked = server.asked.lock().len();
    assert_eq!(locate(&hub, &repository()).unwrap(), folder);
    assert_eq!(locate(&hub, &Repository { revision: COMMIT.into(), ..repository() }).unwrap(), folder);
    assert_eq!(find(&folder, Task::Embedding, &Settings::default()).unwrap().info.dimensions, Some(24));
    assert_eq!(server.asked.lock().len(), asked);
    // Pulling again looks the branch up, and downloads nothing.
    pull(&hub, &repository(), &mut |_| {}).await.unwrap();
    assert_eq!(server.asked.lock().len(), asked + 1);
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let (server, cache) = (serve("bert-classifier"), tempfile::tempdir().unwrap());
    pull(&hub(cache.path(), &server.url), &repository(), &mut |_| {}).await.unwrap();
    let hub_host = server.url.strip_prefix("http://").unwrap();
    let asked = server.asked.lock();
    let (to_hub, to_store): (Vec<_>, Vec<_>) =
        asked.iter().partition(|head| head.contains(&format!("host: {hub_host}")));
    assert!(to_hub.iter().all(|head| head.contains("authorization: bearer hush")));
    assert_eq!(to_store.len(), 1, "the weights");
    assert!(!to_store[0].contains("hush"), "{}", to_store[0]);
}

#[tokio::test]
async fn a_download_that_breaks_leaves_nothing_that_looks_whole() {
    let (server, cache) = (serve("bert-classifier"), tempfile::tempdir().unwrap());
    let hub = hub(cache.path(), &server.url);
    for (fault, expected) in [(Fault::CutsWeights, "model.safetensors"), (Fault::ChangesWeights, "SHA-256")] {
        *server.fault.lock() = fault;
        let error = pull(&hub, &repository(), &mut |_| {}).await.unwrap_err();
        assert!(error.is_retry() && error.to_string().contains(expected), "{error}");
        assert!(hub.cached(&repository()).is_none());
        let files = all_files(&cache.path().join("models--org--name"));
        assert!(
            !files.iter().any(|name| name.contains("incomplete") || name.ends_with("model.safetensors")),
            "{files:?}"
        );
    }
    *server.fault.lock() = Fault::None;
    let folder = pull(&hub, &repository(), &mut |_| {}).await.unwrap();
    assert_eq!(locate(&hub, &repository()).unwrap(), folder);
}

#[tokio::test]
async fn a_hub_that_refuses_or_is_away_says_what_to_do() {
    let (server, cache) = (serve("bert-classifier"), tempfile::tempdir().unwrap());
    let hub = hub(cache.path(), &server.url);
    for (status, expected, is_retry) in [
        (401, "HF_TOKEN", false),
        (404, "no model `org/name`", false),
        (429, "try again", true),
        (503, "try again", true),
    ] {
        *server.fault.lock() = Fault::Status(status);
        let error = pull(&hub, &repository(), &mut |_| {}).await.unwrap_err();
        assert!(error.to_string().contains(expected) && error.is_retry() == is_retry, "{error}");
    }
    // A port that a test has let go of may be another test's by now; nobody is given this one.
    let away = self::hub(cache.path(), "http://127.0.0.1:1");
    let message = pull(&away, &repository(), &mut |_| {}).await.unwrap_err().to_string();
    assert!(message.contains("HF_ENDPOINT") && message.contains("copy the model's folder"), "{message}");
    assert!(!message.contains("hush"), "{message}");
    let offline = Hub { offline: true, ..hub };
    let message = pull(&offline, &repository(), &mut |_| {}).await.unwrap_err().to_string();
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn the_cache_is_where_the_hubs_own_libraries_have_it() {
    let cache = |variables: &[(&str, &str)]| variables_of(variables).cache;
    assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/huggingface/hub"));
    assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
    assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "/f")]), Path::new("/f/hub"));
    assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
    assert!(Hub::from_variables(&|_| None).is_err());
    assert!(variables_of(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "1")]).offline);
    assert!(!variables_of(&[("HOME", "/h"), ("HF_HUB_OFFLINE", "0")]).offline);
    assert_eq!(variables_of(&[("HOME", "/h")]).endpoint.as_str(), "https://huggingface.co/");
}
