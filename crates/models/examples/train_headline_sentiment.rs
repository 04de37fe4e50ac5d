//! Trains the built-in headline sentiment model.
//!
//! ```text
//! cargo run --release -p millstream-models --example train_headline_sentiment -- \
//!     --data ../shared/data/sentiment --out crates/models/weights/headline-sentiment-linear.bin
//! ```
//!
//! `--data` holds `sentfin_train.csv` and `tfns_train_clean.csv`. With `--folds 10` nothing is written: the training
//! set is cross-validated instead, which is the place for tuning. With `--check FILE.csv` the written weights are
//! evaluated on a file that was not trained on; it is printed last and decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use millstream_core::{Error, Result, ResultExt};
use millstream_models::linear::LinearModel;
use millstream_models::linear::train::{TrainConfig, TrainRow, train};
use millstream_models::linear::weights::Weights;
use millstream_models::{BatchConfig, EvalReport, EvalRow, ModelHandle, ModelInfo, Reads, Task, evaluate};

const LABELS: [&str; 3] = ["negative", "neutral", "positive"];
/// Tweets are not headlines, and there are more of them: they help a little, at this weight.
const TWEET_WEIGHT: f32 = 0.1;

#[derive(Default)]
struct Arguments {
    data: PathBuf,
    out: Option<PathBuf>,
    folds: Option<usize>,
    check: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = arguments()?;
    let headlines = rows(&arguments.data.join("sentfin_train.csv"), 1.0)?;
    let tweets = rows(&arguments.data.join("tfns_train_clean.csv"), TWEET_WEIGHT)?;
    println!("{} headlines, {} tweets at weight {TWEET_WEIGHT}", headlines.len(), tweets.len());
    if let Some(folds) = arguments.folds {
        return cross_validate(&headlines, &tweets, folds).await;
    }
    let started = Instant::now();
    let weights = train(&labels(), &[headlines, tweets].concat(), &TrainConfig::default())?;
    let bytes = weights.to_bytes();
    println!("trained in {:.1} s; {} bytes", started.elapsed().as_secs_f64(), bytes.len());
    if let Some(out) = &arguments.out {
        std::fs::write(out, &bytes).doing(|| format!("write {}", out.display()))?;
    }
    for path in &arguments.check {
        let report = evaluate(&handle(weights.clone())?, &EvalRow::read_csv(path, "text", "label")?).await?;
        print(&path.display().to_string(), &report);
    }
    Ok(())
}

fn arguments() -> Result<Arguments> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| Error::config(format!("`{word}` needs a value")))?;
        match word.as_str() {
            "--data" => arguments.data = value.into(),
            "--out" => arguments.out = Some(value.into()),
            "--check" => arguments.check.push(value.into()),
            "--folds" => {
                let folds = value.parse().ok().filter(|n| (2..=100).contains(n));
                arguments.folds = Some(folds.ok_or_else(|| Error::config("`--folds` takes 2 to 100"))?);
            }
            other => {
                return Err(Error::config(format!("unknown `{other}`: known are --data, --out, --folds, --check")));
            }
        }
    }
    Ok(arguments)
}

fn labels() -> Vec<Arc<str>> {
    LABELS.map(Arc::from).to_vec()
}

fn rows(path: &Path, weight: f32) -> Result<Vec<TrainRow>> {
    let row = |row: EvalRow| {
        let label = LABELS.iter().position(|label| **label == *row.label);
        let label =
            label.ok_or_else(|| Error::input(format!("unknown label `{}` in {}", row.label, path.display())))?;
        let text = row.input.as_text().unwrap_or_default().into();
        Ok(TrainRow { text, label, weight })
    };
    EvalRow::read_csv(path, "text", "label")?.into_iter().map(row).collect()
}

/// Headlines are held out in turn; tweets are always trained on, never judged by.
async fn cross_validate(headlines: &[TrainRow], tweets: &[TrainRow], folds: usize) -> Result<()> {
    let mut sum = 0.0;
    for fold in 0..folds {
        let is_held_out = |i: usize| i % folds == fold;
        let kept = headlines.iter().enumerate().filter(|(i, _)| !is_held_out(*i)).map(|(_, row)| row.clone());
        let held_out = headlines.iter().enumerate().filter(|(i, _)| is_held_out(*i));
        let held_out: Vec<EvalRow> = held_out
            .map(|(_, row)| EvalRow { input: row.text.clone().into(), label: LABELS[row.label].into() })
            .collect();
        let rows: Vec<TrainRow> = kept.chain(tweets.iter().cloned()).collect();
        let weights = train(&labels(), &rows, &TrainConfig::default())?;
        let report = evaluate(&handle(weights)?, &held_out).await?;
        print(&format!("fold {}", fold + 1), &report);
        sum += report.macro_f1;
    }
    println!("mean macro-F1 over {folds} folds: {:.4}", sum / folds as f64);
    Ok(())
}

fn handle(weights: Weights) -> Result<ModelHandle> {
    let (name, digest) = ("trained".into(), "".into());
    let info = ModelInfo {
        name,
        digest,
        task: Task::TextClassification,
        labels: labels(),
        multi_label: false,
        dimensions: None,
        reads: Reads::Text,
    };
    ModelHandle::spawn(vec![Box::new(LinearModel::new(info, Arc::new(weights)))], BatchConfig::default())
}

fn print(what: &str, report: &EvalReport) {
    println!(
        "{what}: n {}, macro-F1 {:.4}, accuracy {:.4}, {:.1} µs per text",
        report.n,
        report.macro_f1,
        report.accuracy,
        report.seconds / report.n as f64 * 1e6
    );
    for class in &report.per_class {
        println!("  {:8} precision {:.3} recall {:.3} F1 {:.3}", class.label, class.precision, class.recall, class.f1);
    }
}
