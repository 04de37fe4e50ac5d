//! What may be written under `models:`.

use serde_json::json;
use url::Url;

use super::*;
use crate::Protocol;
use crate::source::BUILTINS;

fn read(value: serde_json::Value) -> ModelConfig {
    serde_json::from_value(value).unwrap()
}

fn refused(value: serde_json::Value) -> String {
    let error = read(value).check().unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Config);
    error.to_string()
}

#[test]
fn a_builtin_needs_two_lines_and_knows_its_labels() {
    for source in BUILTINS {
        let info = read(json!({ "task": "text-classification", "source": source })).check().unwrap();
        assert_eq!(info.labels, ["negative", "neutral", "positive"].map(Arc::from));
        assert_eq!(info.digest.len(), 16);
    }
}

#[test]
fn an_endpoint_is_checked_without_the_network() {
    let info = read(json!({
        "task": "text-classification", "source": "https://models.example/v1?key=k", "labels": ["a", "b"],
        "protocol": "kserve", "model_name": "tone", "headers": { "Authorization": "Bearer t" },
        "batch": { "max": 8, "max_delay": "2ms" }, "concurrency": 4, "timeout": "1s"
    }))
    .check()
    .unwrap();
    assert_eq!((&*info.name, info.labels.len()), ("tone", 2));
}

#[test]
fn what_cannot_work_is_refused_with_a_way_out() {
    let remote = |extra: serde_json::Value| {
        let mut value = json!({ "task": "text-classification", "source": "http://h/x", "labels": ["a", "b"] });
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        refused(value)
    };
    assert!(
        refused(json!({ "task": "embedding", "source": "builtin:headline-sentiment" })).contains("text-classification")
    );
    assert!(refused(json!({ "task": "embedding", "source": "builtin:x" })).contains("builtin:headline-sentiment"));
    let with_labels = json!({ "task": "text-classification", "source": BUILTINS[0], "labels": ["positive"] });
    assert!(refused(with_labels).contains("leave out `labels`"));
    let with_protocol = json!({ "task": "text-classification", "source": BUILTINS[0], "protocol": "json" });
    assert!(refused(with_protocol).contains("`protocol` is for endpoints"));
    assert!(refused(json!({ "task": "text-classification", "source": "https://h/x" })).contains("`labels` is missing"));
    assert!(remote(json!({ "labels": ["a"] })).contains("one label"));
    assert!(remote(json!({ "labels": ["a", "a"] })).contains("stands twice"));
    assert!(remote(json!({ "task": "embedding" })).contains("leave out `labels`"));
    assert!(remote(json!({ "protocol": "kserve" })).contains("`model_name` is missing"));
    assert!(remote(json!({ "model_name": "m" })).contains("protocol: kserve"));
    assert!(remote(json!({ "batch": { "max": 0 } })).contains("batch.max"));
    assert!(remote(json!({ "concurrency": 0 })).contains("concurrency"));
    assert!(remote(json!({ "timeout": "0s" })).contains("timeout"));
    assert!(remote(json!({ "source": "http://" })).contains("no URL"));
    let secret = remote(json!({ "headers": { "Authorization": "line\nbreak" } }));
    assert!(secret.contains("Authorization") && !secret.contains("break"), "{secret}");
}

#[test]
fn secrets_are_not_printed() {
    let config = read(json!({
        "task": "embedding", "source": "https://user:pass@h/x?token=hush", "headers": { "X-Key": "hush" }
    }));
    for printed in [format!("{config:?}"), serde_json::to_string(&config).unwrap(), format!("{:?}", config.check())] {
        assert!(!printed.contains("hush") && !printed.contains("pass"), "{printed}");
    }
}

#[test]
fn the_address_of_an_endpoint_follows_its_protocol() {
    let url = |source: &str, protocol, name| {
        let task = Task::TextClassification;
        remote::protocol::request_url(&Url::parse(source).unwrap(), protocol, name, task).unwrap().to_string()
    };
    assert_eq!(url("http://h/a", Protocol::Json, None), "http://h/a");
    assert_eq!(url("http://h", Protocol::Sagemaker, None), "http://h/invocations");
    assert_eq!(url("http://h/p/invocations", Protocol::Sagemaker, None), "http://h/p/invocations");
    assert_eq!(url("http://h/base/", Protocol::Kserve, Some("a/b")), "http://h/base/v2/models/a%2Fb/infer");
    assert_eq!(
        url("http://h/v2/models/m/versions/2/infer", Protocol::Kserve, None),
        "http://h/v2/models/m/versions/2/infer"
    );
}

// Without the feature, sources on AWS are refused before their settings are looked at.
#[cfg(feature = "aws")]
#[test]
fn settings_that_do_not_go_together_are_refused_with_a_way_out() {
    let with = |source: &str, task: &str, extra: serde_json::Value| {
        let mut value = json!({ "task": task, "source": source });
        if task == "text-classification" {
            value["labels"] = json!(["a", "b"]);
        }
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(value).check()
    };
    let classify = |source: &str, extra| with(source, "text-classification", extra).unwrap_err().to_string();
    let own = |extra: serde_json::Value| {
        let mut all = json!({ "protocol": "template", "request": { "x": "{{inputs}}" } });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        classify("http://h/x", all)
    };
    for (message, expected) in [
        (classify("http://h", json!({ "region": "eu-west-1" })), "`region` is for `sagemaker://`"),
        (classify("http://h", json!({ "endpoint_url": "http://h" })), "`endpoint_url` is for `sagemaker://`"),
        (classify("http://h", json!({ "tensors": {} })), "`tensors` is for `protocol: kserve`"),
        (classify("http://h", json!({ "instructions": "x" })), "`instructions` is for `protocol: openai`"),
        (classify("http://h", json!({ "request": {} })), "`request` is for `protocol: template`"),
        (classify("http://h", json!({ "answer": "/x" })), "`answer` is for `protocol: template`"),
        (classify("http://h", json!({ "protocol": "openai" })), "`model_name` is missing"),
        (classify("http://h/v1/embeddings", json!({ "protocol": "openai", "model_name": "m" })), "/chat/completions"),
        (classify("http://h/embed", json!({ "protocol": "tei" })), "needs `/predict`"),
        (classify("sagemaker://tone", json!({ "protocol": "tei" })), "is for http:// and https://"),
        (classify("sagemaker://tone", json!({ "protocol": "kserve", "model_name": "m" })), "`model_name` is for"),
        (classify("sagemaker://to_ne", json!({})), "sagemaker://my-endpoint"),
        (classify("sagemaker://tone", json!({ "region": "eu west" })), "eu-west-1"),
        (classify("sagemaker://tone", json!({ "endpoint_url": "ftp://h" })), "http:// or https://"),
        (classify("lambda://arn:aws:lambda:us-east-1:1:function:f", json!({ "region": "eu-west-1" })), "elsewhere"),
        (
            classify("http://h", json!({ "protocol": "kserve", "model_name": "m", "tensors": { "rank": 3 } })),
            "`tensors.rank`",
        ),
        (classify("http://h", json!({ "circuit_breaker": { "open_for": "0s" } })), "`circuit_breaker.open_for`"),
        (classify("http://h", json!({ "fallback": { "label": "c" } })), "`fallback` has the label `c`"),
        (classify("http://h", json!({ "protocol": "template" })), "`request` is missing"),
        (own(json!({ "request": { "x": 1 } })), "no placeholder"),
        (own(json!({ "request": { "x": "{{inputs}}", "y": "{{input}}" } })), "write one of them"),
        (own(json!({ "answer": "results" })), "JSON pointer"),
        (own(json!({ "answer": "/a/*/b/*" })), "JSON pointer"),
        (own(json!({ "extra_body": {} })), "`request`"),
        (
            refused(json!({ "task": "text-classification", "source": BUILTINS[0], "rate": "1/s" })),
            "`rate` is for endpoints",
        ),
        (
            refused(json!({ "task": "text-classification", "source": BUILTINS[0], "fallback": "x" })),
            "`fallback` is for endpoints",
        ),
    ] {
        assert!(message.contains(expected), "{message} does not say {expected}");
    }
    let embed = |source: &str, extra| with(source, "embedding", extra);
    assert!(embed("http://h/v1/chat/completions", json!({ "protocol": "openai", "model_name": "m" })).is_err());
    embed("http://h/v1", json!({ "protocol": "openai", "model_name": "m", "extra_body": { "dimensions": 256 } }))
        .unwrap();
    embed("sagemaker://tone", json!({ "rate": "5/s", "circuit_breaker": { "failures": 0 } })).unwrap();
}

#[test]
fn unknown_keys_and_rates_are_refused_beside_the_settings_of_endpoints() {
    let read = |extra: serde_json::Value| {
        let mut value = json!({ "task": "embedding", "source": "http://h" });
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value::<ModelConfig>(value)
    };
    assert!(read(json!({ "protocl": "json" })).unwrap_err().to_string().contains("protocl"));
    assert!(read(json!({ "rate": "fast" })).unwrap_err().to_string().contains("50/s"));
    read(json!({ "protocol": "tei", "rate": "5/s" })).unwrap();
}

#[test]
fn what_decides_an_answer_changes_the_digest_and_secrets_in_bodies_are_not_printed() {
    let of = |extra: serde_json::Value| {
        let mut value = json!({ "task": "embedding", "source": "http://h", "protocol": "openai", "model_name": "m" });
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        read(value)
    };
    let digests: std::collections::BTreeSet<_> = [
        json!({}),
        json!({ "model_name": "n" }),
        json!({ "extra_body": { "dimensions": 8 } }),
        json!({ "source": "http://h/v2/embeddings" }),
    ]
    .map(|extra| of(extra).check().unwrap().digest)
    .into();
    assert_eq!(digests.len(), 4);
    let config = of(json!({ "extra_body": { "key": "hush" }, "headers": { "X-Key": "hush" } }));
    for printed in [format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
        assert!(!printed.contains("hush"), "{printed}");
    }
}
