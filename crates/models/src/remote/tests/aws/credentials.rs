//! Places that have credentials of themselves, and what the tests of all places share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::remote::aws::credentials::environment::Environment;
use crate::remote::aws::credentials::metadata::{Container, InstanceMetadata};
use crate::remote::aws::credentials::search::Search;

pub const ANSWER: &str = "{\"Code\":\"Success\",\"AccessKeyId\":\"AKID\",\"SecretAccessKey\":\"hush\",\"Token\":\"t\",\
\"Expiration\":\"2015-08-30T13:36:00Z\"}";
const EXPIRY_S: u64 = 1_440_941_760;

pub fn environment(variables: &[(&str, &str)]) -> Environment {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment::new(move |name| variables.get(name).cloned())
}

/// A home folder with the two files of AWS, and the variables that lead there.
pub struct Home {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Home {
    pub fn new(config: &str, credentials: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { folder, variables: Vec::new() };
        std::fs::write(home.path("config"), config).unwrap();
        std::fs::write(home.path("credentials"), credentials).unwrap();
        let (at, files) = (home.path(""), [home.path("config"), home.path("credentials")]);
        home.with("HOME", at.to_str().unwrap())
            .with("AWS_CONFIG_FILE", files[0].to_str().unwrap())
            .with("AWS_SHARED_CREDENTIALS_FILE", files[1].to_str().unwrap())
            .with("AWS_EC2_METADATA_DISABLED", "true")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    pub fn environment(&self) -> Environment {
        let variables: Vec<(&str, &str)> = self.variables.iter().map(|(name, value)| (&**name, &**value)).collect();
        environment(&variables)
    }

    /// What is found for a model in eu-west-1.
    pub async fn find(&self) -> Result<Option<Credentials>> {
        let clock = Arc::new(ManualClock::new(NOW_US));
        Search::new(self.environment(), "eu-west-1", clock).unwrap().find().await
    }

    /// The failure of the search: its kind and all that it says. The secrets of these tests are never in it.
    pub async fn failure(&self) -> (ErrorKind, String) {
        let error = self.find().await.unwrap_err();
        let message = error.to_string();
        for secret in ["hush", SECRET] {
            assert!(!message.contains(secret) && !format!("{error:?}").contains(secret), "{message}");
        }
        (error.kind(), message)
    }
}

pub fn assert_answer(credentials: &Credentials) {
    assert_eq!((credentials.access_key_id(), credentials.secret_access_key()), ("AKID", "hush"));
    assert_eq!(credentials.session_token(), Some("t"));
    let expiry = credentials.expiry().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(expiry.as_secs(), EXPIRY_S);
}

#[tokio::test]
async fn the_agent_of_a_container_is_asked_with_its_token() {
    let server = serve(|_| (200, "", ANSWER.into())).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "from a file\n").unwrap();
    let url = format!("{}/role", server.url);
    let container = Container::new(environment(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.to_str().unwrap()),
    ]));
    assert_answer(&container.unwrap().find().await.unwrap().unwrap());
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("GET /role HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("authorization"), Some("from a file"));
}

#[tokio::test]
async fn the_token_of_a_container_goes_to_no_other_machine() {
    for url in
        ["http://example.com/role", "http://169.254.170.2.example.com/", "http://127.0.0.1@example.com/", "nonsense"]
    {
        let container = Container::new(environment(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)])).unwrap();
        assert_eq!(container.find().await.unwrap_err().kind(), ErrorKind::Environment, "{url}");
    }
    assert!(Container::new(environment(&[])).unwrap().find().await.unwrap().is_none());
    // Nor along a redirect.
    let other = serve(|_| (200, "", ANSWER.into())).await;
    let location: &'static str = format!("location: {}\r\n", other.url).leak();
    let server = serve(move |_| (302, location, String::new())).await;
    let container = Container::new(environment(&[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &server.url)])).unwrap();
    assert!(container.find().await.unwrap_err().to_string().contains("302"));
    assert!(other.asked.lock().is_empty());
}

#[tokio::test]
async fn the_role_of_an_instance_is_read_with_a_session_token() {
    let server = serve(|asked| {
        let mut line = asked.head.split(' ');
        let is_known = asked.header("x-aws-ec2-metadata-token") == Some("session");
        match (line.next().unwrap(), line.next().unwrap(), is_known) {
            ("PUT", "/latest/api/token", _) => (200, "", "session".into()),
            ("GET", "/latest/meta-data/iam/security-credentials/", true) => (200, "", "tone-role\n".into()),
            ("GET", "/latest/meta-data/iam/security-credentials/tone-role", true) => (200, "", ANSWER.into()),
            _ => (401, "", String::new()),
        }
    })
    .await;
    let of = |disabled: &str| {
        let variables =
            [("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.as_str()), ("AWS_EC2_METADATA_DISABLED", disabled)];
        InstanceMetadata::new(environment(&variables)).unwrap()
    };
    assert_answer(&of("").find().await.unwrap().unwrap());
    assert!(of("true").find().await.unwrap().is_none());
    assert_eq!(server.asked.lock().len(), 3);
}

#[tokio::test]
async fn variables_come_first_and_half_of_them_is_an_error() {
    let both = Home::new("", "[default]\naws_access_key_id = FILE\naws_secret_access_key = hush\n");
    assert_eq!(both.find().await.unwrap().unwrap().access_key_id(), "FILE");
    let both = both.with("AWS_ACCESS_KEY_ID", "VARIABLE");
    let (kind, message) = both.failure().await;
    assert_eq!(kind, ErrorKind::Environment);
    assert!(message.contains("AWS_ACCESS_KEY_ID is set, but not AWS_SECRET_ACCESS_KEY"), "{message}");
    let both = both.with("AWS_SECRET_ACCESS_KEY", "hush").with("AWS_SESSION_TOKEN", "t");
    let found = both.find().await.unwrap().unwrap();
    assert_eq!((found.access_key_id(), found.session_token()), ("VARIABLE", Some("t")));
}

#[tokio::test]
async fn a_profile_that_says_nothing_of_credentials_leaves_them_to_the_next_place() {
    let server = serve(|_| (200, "", ANSWER.into())).await;
    for config in ["", "[default]\nregion = eu-west-1\n", "[profile other]\nrole_arn = arn:x\n"] {
        let home = Home::new(config, "");
        assert!(home.find().await.unwrap().is_none(), "{config}");
        let home = home.with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &server.url);
        assert_answer(&home.find().await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn without_credentials_the_message_says_where_to_put_them() {
    let nowhere = Container::new(environment(&[])).unwrap();
    let error = CredentialSource::of(nowhere, Arc::new(ManualClock::new(NOW_US))).get().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
}

#[tokio::test]
async fn an_answer_that_holds_half_a_secret_is_not_shown() {
    let server = serve(|_| (200, "", "{\"SecretAccessKey\":\"hush\"}".into())).await;
    let home = Home::new("", "").with("AWS_CONTAINER_CREDENTIALS_FULL_URI", &server.url);
    let (kind, message) = home.failure().await;
    assert_eq!(kind, ErrorKind::Retry);
    assert!(message.contains("no credentials"), "{message}");
}

#[tokio::test]
async fn a_model_on_aws_is_loaded_without_looking_for_credentials() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = model("lambda://tone", Protocol::Json, Task::TextClassification);
    config.endpoint.region = Some("eu-west-1".into());
    let handle = config.load("tone").unwrap();
    assert_eq!(handle.info().labels.len(), 2);
}
