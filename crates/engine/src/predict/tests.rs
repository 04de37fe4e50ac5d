//! What the step does where its model can't answer.

use arrow::array::{AsArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_core::Clock;
use millstream_models::{
    BatchConfig, BreakerState, Fallback, FallbackConfig, Model, ModelConfig, ModelFactory, ModelHandle, Prediction,
    Task, output_type,
};
use serde_json::{Value, json};

use super::*;
use crate::health::{ComponentKind, Health, Part};
use crate::spec::{PredictInput, RetrySpec};
use crate::step_waits::StepWaits;

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn endpoint(extra: Value) -> ModelHandle {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = json!({
        "task": "text-classification", "source": nowhere(), "labels": ["positive", "negative", "neutral"]
    });
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    serde_json::from_value::<ModelConfig>(config).unwrap().load("tone").unwrap()
}

fn step(model: ModelHandle, attempts: u32, fallback: Option<Value>) -> PredictStep {
    let fallback = fallback.map(|value| {
        let linear = ModelConfig::new(Task::TextClassification, "builtin:headline-sentiment-linear").load("linear");
        let linear = linear.unwrap();
        let config: FallbackConfig = serde_json::from_value(value).unwrap();
        Fallback::new(&model.info(), &config, |_| Some(linear.clone())).unwrap()
    });
    let schema = Arc::new(Schema::new(vec![
        Field::new("headline", DataType::Utf8, true),
        Field::new("tone", output_type(&model.info()), true),
    ]));
    let pause = Duration::from_micros(1);
    let spec = PredictSpec {
        from: "wire".into(),
        model: "tone".into(),
        fallback: None,
        input: PredictInput::Text(0),
        output: "tone".into(),
        timeout: Duration::from_secs(30),
        max_in_flight: 64,
        retry: RetrySpec { attempts, initial: pause, max: pause },
        give_up_after: Some(Duration::ZERO),
        default: None,
    };
    let scorer = Scorer::alone(model).with_fallback(fallback);
    let told = Arc::new(StepWaits::new("tone".into(), part()));
    PredictStep::new(spec, schema, OnError::DeadLetter, scorer, CancellationToken::new(), told).unwrap()
}

fn rows() -> Rows {
    let schema = Arc::new(Schema::new(vec![Field::new("headline", DataType::Utf8, true)]));
    let headlines = StringArray::from(vec![Some("Company reports record profit"), None, Some("Shares fall")]);
    Rows::all(RecordBatch::try_new(schema, vec![Arc::new(headlines)]).unwrap())
}

fn field(rows: &Rows, name: &str) -> Vec<String> {
    let column = rows.batch.column(1).as_struct().column_by_name(name).unwrap().as_string::<i32>().clone();
    column.iter().map(|value| value.unwrap().to_owned()).collect()
}

fn part() -> Part {
    let clock: Arc<dyn Clock> = Arc::new(millstream_core::SystemClock);
    Health::default().of(ComponentKind::Transform, &"scored".into(), &clock).part()
}

#[tokio::test]
async fn without_a_fallback_records_fail_when_they_have_waited_long_enough() {
    let (good, failures) = step(endpoint(json!({})), 2, None).run(&rows()).await.unwrap();
    assert_eq!((good.len(), failures.len()), (0, 3));
    let failure = &failures[0].failure;
    assert!(failure.message.contains("can't connect"), "{failure:?}");
    assert_eq!(failure.kind, FailureKind::Unavailable);
}

#[tokio::test]
async fn rows_that_a_fallback_scored_say_so() {
    let value = step(endpoint(json!({})), 2, Some(json!({ "label": "neutral" })));
    let (good, failures) = value.run(&rows()).await.unwrap();
    assert_eq!((failures.len(), failures[0].row), (1, 1), "a missing text is no matter of the model");
    assert_eq!(field(&good, "label"), ["neutral", "neutral"]);
    assert_eq!(field(&good, "model"), ["tone.fallback", "tone.fallback"]);
    assert_ne!(field(&good, "model_digest")[0], value.scorer.info().digest.to_string());

    let (good, _) = step(endpoint(json!({})), 1, Some(json!("linear"))).run(&rows()).await.unwrap();
    assert_eq!(field(&good, "label"), ["positive", "negative"]);
    assert_eq!(field(&good, "model"), ["linear", "linear"]);
}

#[tokio::test]
async fn while_the_breaker_is_open_the_fallback_answers_without_further_attempts() {
    let model = endpoint(json!({ "circuit_breaker": { "failures": 2, "open_for": "1h" } }));
    let step = step(model.clone(), 100, Some(json!({ "label": "neutral" })));
    for _ in 0..3 {
        assert_eq!(field(&step.run(&rows()).await.unwrap().0, "label"), ["neutral", "neutral"]);
    }
    let stats = model.stats().endpoint.unwrap();
    assert_eq!((stats.requests, stats.breaker), (2, BreakerState::Open));
}

/// Hangs at `hang` while `stuck` is set, and says the same of every other text.
struct Hanging {
    info: ModelInfo,
    stuck: Arc<AtomicBool>,
}

impl Model for Hanging {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<std::result::Result<Prediction, Failure>>> {
        while inputs.contains(&"hang") && self.stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(inputs.iter().map(|_| Ok(Prediction::Scores(vec![0.5, 0.25, 0.25]))).collect())
    }

    fn factory(&self) -> Option<ModelFactory> {
        let (info, stuck) = (self.info.clone(), self.stuck.clone());
        Some(Arc::new(move || Ok(Box::new(Self { info: info.clone(), stuck: stuck.clone() }))))
    }
}

async fn hang_in_a_call(threads: usize, stall_timeout: Duration, timeout: Duration) -> (Rows, Vec<RowFailure>) {
    let labels = ["positive", "negative", "neutral"].map(Arc::from).to_vec();
    let (name, digest) = ("tone".into(), "1".into());
    let info = ModelInfo {
        name,
        digest,
        task: Task::TextClassification,
        labels,
        multi_label: false,
        dimensions: None,
        reads: millstream_models::Reads::Text,
    };
    let stuck = Arc::new(AtomicBool::new(true));
    let model = |_| Box::new(Hanging { info: info.clone(), stuck: stuck.clone() }) as Box<dyn Model>;
    let handle = ModelHandle::spawn((0..threads).map(model).collect(), BatchConfig::default()).unwrap();
    handle.set_stall_timeout(stall_timeout);
    let mut step = step(handle, 3, None);
    step.asking.timeout = timeout;
    let schema = Arc::new(Schema::new(vec![Field::new("headline", DataType::Utf8, true)]));
    let headlines = StringArray::from(vec!["up", "down", "hang", "flat"]);
    let rows = Rows::all(RecordBatch::try_new(schema, vec![Arc::new(headlines)]).unwrap());
    let ran = step.run(&rows).await.unwrap();
    stuck.store(false, Ordering::SeqCst);
    ran
}

#[tokio::test]
async fn a_record_that_the_model_hangs_on_takes_no_other_record_of_its_call_with_it() {
    let minute = Duration::from_secs(60);
    // The queue gives the thread up, or the step gives the call up.
    for (threads, stall_timeout, timeout) in
        [(1, Duration::from_millis(50), minute), (3, minute, Duration::from_secs(1))]
    {
        let (scored, failures) = hang_in_a_call(threads, stall_timeout, timeout).await;
        assert_eq!((scored.origin.len(), failures.len()), (3, 1), "{failures:?}");
        assert_eq!((failures[0].row, failures[0].failure.kind), (2, FailureKind::Timeout));
    }
}
