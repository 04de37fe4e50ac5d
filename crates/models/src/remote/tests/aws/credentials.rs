//! Where credentials come from, played by a small server.

use std::collections::HashMap;

use aws_credential_types::provider::error::CredentialsError;

use super::*;
use crate::remote::aws::credentials::Environment;
use crate::remote::aws::metadata::{Container, InstanceMetadata, WebIdentity};

const ANSWER: &str = "{\"Code\":\"Success\",\"AccessKeyId\":\"AKID\",\"SecretAccessKey\":\"hush\",\"Token\":\"t\",\
\"Expiration\":\"2015-08-30T13:36:00Z\"}";
const EXPIRY_S: u64 = 1_440_941_760;

fn environment(variables: &[(&str, &str)]) -> Environment {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let variables: HashMap<String, String> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Environment::new(move |name| variables.get(name).cloned())
}

fn assert_answer(credentials: &Credentials) {
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
    assert_answer(&container.unwrap().provide_credentials().await.unwrap());
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
        let error = container.provide_credentials().await.unwrap_err();
        assert!(matches!(error, CredentialsError::InvalidConfiguration(_)), "{url}: {error:?}");
    }
    let nowhere = Container::new(environment(&[])).unwrap().provide_credentials().await.unwrap_err();
    assert!(matches!(nowhere, CredentialsError::CredentialsNotLoaded(_)));
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
    assert_answer(&of("").provide_credentials().await.unwrap());
    let disabled = of("true").provide_credentials().await.unwrap_err();
    assert!(matches!(disabled, CredentialsError::CredentialsNotLoaded(_)));
    assert_eq!(server.asked.lock().len(), 3);
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_a_role() {
    let server = serve(|asked| {
        if asked.raw.contains("refused") {
            return (403, "", "<ErrorResponse><Error><Message>Not authorized</Message></Error></ErrorResponse>".into());
        }
        let answer = "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
            <AccessKeyId>AKID</AccessKeyId><SecretAccessKey>hush</SecretAccessKey><SessionToken>t</SessionToken>\
            <Expiration>2015-08-30T13:36:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
            </AssumeRoleWithWebIdentityResponse>";
        (200, "", answer.into())
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a.b+c=\n").unwrap();
    let of = |role: &str| {
        let variables = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", role),
            ("AWS_ENDPOINT_URL_STS", server.url.as_str()),
        ];
        WebIdentity::new(environment(&variables), "eu-west-1").unwrap()
    };
    assert_answer(&of("arn:aws:iam::1:role/tone").provide_credentials().await.unwrap());
    assert_eq!(
        server.asked.lock()[0].raw,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Ftone\
         &RoleSessionName=millstream&WebIdentityToken=a.b%2Bc%3D"
    );
    let error = of("refused").provide_credentials().await.unwrap_err();
    assert!(format!("{error:?}").contains("Not authorized"), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_holds_half_a_secret_is_not_shown() {
    let server = serve(|_| (200, "", "{\"SecretAccessKey\":\"hush\"}".into())).await;
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.url.as_str())];
    let container = Container::new(environment(&variables)).unwrap();
    let error = CredentialSource::of(container, Arc::new(ManualClock::new(NOW_US))).get().await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("no credentials"), "{error}");
    assert!(!error.to_string().contains("hush") && !format!("{error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn credentials_are_kept_until_shortly_before_they_end() {
    let server = serve(|_| (200, "", ANSWER.into())).await;
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.url.as_str())];
    let clock = Arc::new(ManualClock::new(NOW_US));
    let source = CredentialSource::of(Container::new(environment(&variables)).unwrap(), clock.clone());
    for (minutes, requests) in [(0, 1), (54, 1), (1, 2)] {
        clock.advance_us(minutes * 60_000_000);
        assert_answer(&source.get().await.unwrap());
        assert_eq!(server.asked.lock().len(), requests, "after {minutes} more minutes");
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
async fn a_model_on_aws_is_loaded_without_looking_for_credentials() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = model("lambda://tone", Protocol::Json, Task::TextClassification);
    config.endpoint.region = Some("eu-west-1".into());
    let handle = config.load("tone").unwrap();
    assert_eq!(handle.info().labels.len(), 2);
}
