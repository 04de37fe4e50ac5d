//! Models on AWS: requests, signatures, errors, credentials.

mod credentials;
mod keeping;
mod process;
mod profiles;
mod roles;
mod sigv4;
mod sso;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use millstream_core::{ErrorKind, ManualClock, Result};

use super::*;
use crate::BreakerState;
use crate::remote::Remote;
use crate::remote::aws::credentials::{CredentialSource, Place};

/// The headers of a request to a model that must be signed.
const SIGNED: [&str; 5] =
    ["host", "content-type", "x-amz-date", "x-amz-security-token", "x-amzn-sagemaker-target-variant"];

/// 2015-08-30T12:36:00Z, the moment of AWS's own examples.
const NOW_US: i64 = 1_440_938_160_000_000;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// Credentials that change each time they are asked for.
#[derive(Debug, Default)]
struct Rotating(AtomicUsize);

#[async_trait::async_trait]
impl Place for Rotating {
    async fn find(&self) -> Result<Option<Credentials>> {
        let id = format!("AKID{}", self.0.fetch_add(1, Ordering::SeqCst));
        Ok(Some(Credentials::new(id, SECRET, Some("session/token+1".into()), None, "test")))
    }
}

fn on_aws(source: &str, server: &str, protocol: Option<Protocol>) -> Remote {
    let mut config = model(source, Protocol::Json, Task::TextClassification);
    config.endpoint.protocol = protocol;
    config.endpoint.region = Some("eu-west-1".into());
    config.endpoint.endpoint_url = Some(server.into());
    config.endpoint.headers =
        [("X-Amzn-SageMaker-Target-Variant".to_owned(), millstream_core::Secret::new("blue  green"))].into();
    let (endpoint, info) = config.endpoint.resolve(source, config.task, &config.labels).unwrap();
    let clock = Arc::new(ManualClock::new(NOW_US));
    let mut remote = Remote::with_clock(endpoint, info, clock.clone()).unwrap();
    remote.sign_with(CredentialSource::of(Rotating::default(), clock));
    remote
}

#[tokio::test]
async fn sagemaker_is_asked_as_its_api_says_with_a_signature_that_holds() {
    let server = serve(|asked| {
        let predictions = items(&asked.body["instances"]);
        (200, "x-Amzn-Invoked-Production-Variant: blue\r\n", json!({ "predictions": predictions }).to_string())
    })
    .await;
    let remote = on_aws("sagemaker://tone-1", &server.url, None);
    let answers = remote.predict(&["x".repeat(16).as_str(), "ü\u{1F600}"], None).await.unwrap();
    assert_eq!(scores(answers)[0], [0.75, 0.25]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /endpoints/tone-1/invocations HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("x-amz-date"), Some("20150830T123600Z"));
    assert_eq!(asked.header("x-amz-security-token"), Some("session/token+1"));
    assert_eq!(asked.raw, json!({ "instances": ["x".repeat(16), "ü\u{1F600}"] }).to_string());
    sigv4::assert_signed(&asked, "AKID0", SECRET, "eu-west-1/sagemaker", &SIGNED);
}

#[tokio::test]
async fn the_body_for_sagemaker_can_be_chosen() {
    let server = serve(|asked| (200, "", Value::from(items(&asked.body["inputs"])).to_string())).await;
    let remote = on_aws("sagemaker://tone", &server.url, Some(Protocol::Json));
    assert_eq!(scores(remote.predict(&["x".repeat(16).as_str()], None).await.unwrap()), [[0.75, 0.25]]);
    assert_eq!(server.asked.lock()[0].body, json!({ "inputs": ["x".repeat(16)] }));
}

#[tokio::test]
async fn a_lambda_function_is_invoked_and_a_text_that_it_fails_on_fails_alone() {
    let server = serve(|asked| {
        let texts = &asked.body["inputs"];
        if texts.as_array().unwrap().contains(&json!("poison")) {
            let error = "{\"errorMessage\":\"index out of range\",\"errorType\":\"IndexError\"}";
            return (200, "x-amz-function-error: Unhandled\r\n", error.into());
        }
        (200, "", Value::from(items(texts)).to_string())
    })
    .await;
    let remote = on_aws("lambda://tone:$LATEST", &server.url, None);
    let mut answers = remote.predict(&["a", "poison", "ccc"], None).await.unwrap();
    let failure = answers.remove(1).unwrap_err();
    assert!(
        failure.message.contains("lambda://tone:$LATEST") && failure.message.contains("index out of range"),
        "{failure:?}"
    );
    assert_eq!(scores(answers).len(), 2);
    let asked = server.asked.lock()[0].clone();
    assert!(
        asked.head.starts_with("POST /2015-03-31/functions/tone%3A%24LATEST/invocations HTTP/1.1\r\n"),
        "{}",
        asked.head
    );
    sigv4::assert_signed(&asked, "AKID0", SECRET, "eu-west-1/lambda", &SIGNED);
}

#[tokio::test]
async fn what_aws_says_without_a_word_about_a_text_is_no_fault_of_the_texts() {
    let sagemaker_error = |name: &str| format!("{{\"Code\":\"{name}\",\"Message\":\"why\"}}");
    for (status, headers, body, is_away, breaker_counts) in [
        (429, "x-amzn-errortype: ModelNotReadyException:http://x/\r\n", "{\"Message\":\"why\"}".into(), true, false),
        (400, "x-amzn-errortype: ThrottlingException\r\n", "{\"message\":\"why\"}".into(), true, false),
        (503, "", sagemaker_error("ServiceUnavailable"), false, true),
        (530, "", sagemaker_error("InternalDependencyException"), false, true),
        (
            424,
            "x-amzn-errortype: ModelError\r\n",
            "{\"OriginalStatusCode\":500,\"Message\":\"why\"}".into(),
            false,
            true,
        ),
        (
            424,
            "x-amzn-errortype: ModelError\r\n",
            "{\"OriginalStatusCode\":404,\"Message\":\"why\"}".into(),
            false,
            false,
        ),
        (400, "x-amzn-errortype: ValidationError\r\n", "{\"message\":\"why\"}".into(), false, false),
        (403, "x-amzn-errortype: AccessDeniedException\r\n", "{\"Message\":\"why\"}".into(), false, false),
    ] as [(u16, &'static str, String, bool, bool); 8]
    {
        let case = format!("{status} {headers} {body}");
        let server = serve(move |_| (status, headers, body.clone())).await;
        let remote = on_aws("sagemaker://tone", &server.url, None);
        for _ in 0..5 {
            let error = remote.predict(&["x", "y"], None).await.unwrap_err();
            assert!(error.is_retry() && is_away == (error.kind() == ErrorKind::Unavailable), "{case}: {error}");
            let message = error.to_string();
            assert!(message.contains("why") && message.contains("sagemaker://tone"), "{case}: {message}");
        }
        assert_eq!(server.asked.lock().len(), 5, "{case}: nothing is sent twice");
        let opened = remote.gate().stats().breaker == BreakerState::Open;
        assert_eq!(opened, breaker_counts, "{case}");
    }
}

#[tokio::test]
async fn a_text_that_the_container_refuses_fails_alone() {
    let server = serve(|asked| {
        let texts = &asked.body["instances"];
        if texts.as_array().unwrap().contains(&json!("poison")) {
            let error = "{\"OriginalStatusCode\":400,\"OriginalMessage\":\"too long\"}";
            return (424, "x-amzn-errortype: ModelError\r\n", error.into());
        }
        (200, "", json!({ "predictions": items(texts) }).to_string())
    })
    .await;
    let answers = on_aws("sagemaker://tone", &server.url, None).predict(&["a", "b", "poison"], None).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test]
async fn expired_credentials_are_replaced_for_the_next_attempt() {
    let server = serve(|asked| match asked.header("authorization").unwrap().contains("AKID0") {
        true => (403, "x-amzn-errortype: ExpiredTokenException\r\n", "{}".into()),
        false => (200, "", json!({ "predictions": items(&asked.body["instances"]) }).to_string()),
    })
    .await;
    let remote = on_aws("sagemaker://tone", &server.url, None);
    let error = remote.predict(&["x"], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(scores(remote.predict(&["x"], None).await.unwrap()).len(), 1);
    assert_eq!(scores(remote.predict(&["x"], None).await.unwrap()).len(), 1);
    sigv4::assert_signed(&server.asked.lock()[2], "AKID1", SECRET, "eu-west-1/sagemaker", &SIGNED);
}
