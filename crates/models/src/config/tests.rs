//! What may be written under `models:`.

use serde_json::json;

use super::*;
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
        remote::shape::request_url(&Url::parse(source).unwrap(), protocol, name).unwrap().to_string()
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
