//! A blocking HTTP client, and a small server that stands for a model's endpoint.

use std::net::SocketAddr;
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // Fails only where it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Runtime::new().unwrap()
});
static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    LazyLock::force(&RUNTIME);
    // A connection that is kept would outlive the process that it leads to.
    reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap()
});

/// Waits for a future.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: reqwest::header::HeaderMap,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text))
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Sends a request; an error where the connection fails or breaks off.
pub fn try_send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> reqwest::Result<Answer> {
    let mut request = CLIENT.request(method, url).body(body.into());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    RUNTIME.block_on(async {
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { status, headers, text: answer.text().await? })
    })
}

/// GET.
pub fn get(url: &str) -> Answer {
    try_send(Method::GET, url, &[], Vec::new()).unwrap()
}

/// POST.
pub fn post(url: &str, body: impl Into<Vec<u8>>) -> Answer {
    try_send(Method::POST, url, &[("content-type", "application/json")], body).unwrap()
}

/// Reads an endless answer until it holds so many lines.
pub fn read_lines(url: &str, headers: &[(&str, &str)], lines: usize) -> (Answer, Vec<String>) {
    let mut request = CLIENT.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    RUNTIME.block_on(async {
        let mut answer = request.send().await.unwrap();
        let head = Answer { status: answer.status().as_u16(), headers: answer.headers().clone(), text: String::new() };
        let mut text = String::new();
        while text.matches('\n').count() < lines {
            let piece =
                tokio::time::timeout(super::process::PATIENCE, answer.chunk()).await.expect("the answer stalls");
            let Some(piece) = piece.unwrap() else { break };
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        (head, text.lines().map(str::to_owned).collect())
    })
}

/// Runs an axum application on a free port of this machine until the test process ends.
pub fn serve(app: axum::Router) -> SocketAddr {
    RUNTIME.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    })
}
