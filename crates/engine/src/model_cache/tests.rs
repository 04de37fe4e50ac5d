//! What the cache promises.

use millstream_core::{HumanDuration, ManualClock};
use millstream_models::Task;

use super::*;

const TTL: Duration = Duration::from_secs(60);

fn info(digest: &str) -> ModelInfo {
    let labels = vec!["bad".into(), "good".into()];
    ModelInfo {
        name: "tone".into(),
        digest: digest.into(),
        task: Task::TextClassification,
        labels,
        multi_label: false,
        dimensions: None,
        reads: millstream_models::Reads::Text,
    }
}

fn scores(good: f32) -> Prediction {
    Prediction::Scores(vec![1.0 - good, good])
}

struct Fixture {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(1_000_000)) }
    }

    async fn open(&self, max_entries: Option<u64>) -> ModelCache {
        let config = CacheConfig { ttl: HumanDuration(TTL), max_entries };
        ModelCache::open((self.folder.path(), &StateOptions::default()), &"tone".into(), config, self.clock.clone())
            .await
            .unwrap()
    }

    fn advance(&self, time: Duration) {
        self.clock.advance_us(time.as_micros() as i64);
    }
}

async fn keep(cache: &ModelCache, texts: &[&str], good: f32) {
    let prediction = scores(good);
    cache.keep(texts.iter().map(|text| ("d1", *text, &prediction))).await.unwrap();
}

async fn known(cache: &ModelCache, texts: &[&str]) -> Vec<bool> {
    cache.lookup(&info("d1"), texts).await.unwrap().iter().map(Option::is_some).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_is_there_after_a_crash_for_that_model_and_text_only() {
    let fixture = Fixture::new();
    let cache = fixture.open(None).await;
    keep(&cache, &["up", ""], 0.75).await;
    // No close: as after `kill -9`.
    drop(cache);
    let cache = fixture.open(None).await;
    let found = cache.lookup(&info("d1"), &["up", "", "Up", "up "]).await.unwrap();
    assert_eq!(found, [Some(scores(0.75)), Some(scores(0.75)), None, None]);
    assert_eq!(cache.lookup(&info("d2"), &["up"]).await.unwrap(), [None]);
    let three_labels = ModelInfo { labels: vec!["a".into(), "b".into(), "c".into()], ..info("d1") };
    assert_eq!(cache.lookup(&three_labels, &["up"]).await.unwrap(), [None], "it would not fit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_used_until_its_ttl_is_over_and_then_deleted() {
    let fixture = Fixture::new();
    let cache = fixture.open(None).await;
    keep(&cache, &["old"], 0.5).await;
    fixture.advance(TTL - Duration::from_secs(1));
    keep(&cache, &["young"], 0.5).await;
    assert_eq!(known(&cache, &["old", "young"]).await, [true, true]);
    assert_eq!(cache.sweep().await.unwrap(), 0);
    fixture.advance(Duration::from_secs(1));
    assert_eq!(known(&cache, &["old", "young"]).await, [false, true]);
    assert_eq!(cache.sweep().await.unwrap(), 1);
    assert_eq!(cache.state.get(&entry::key("d1", "old")).await.unwrap(), None, "it takes no space");
    assert_eq!(cache.count().await.unwrap(), 1);
    assert_eq!(known(&cache, &["young"]).await, [true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_was_written_again_outlives_its_first_ttl() {
    let fixture = Fixture::new();
    let cache = fixture.open(None).await;
    keep(&cache, &["text"], 0.1).await;
    fixture.advance(TTL);
    keep(&cache, &["text"], 0.9).await;
    assert_eq!(cache.sweep().await.unwrap(), 1);
    assert_eq!(cache.lookup(&info("d1"), &["text"]).await.unwrap(), [Some(scores(0.9))]);
    fixture.advance(TTL);
    assert_eq!(cache.sweep().await.unwrap(), 1);
    assert_eq!(cache.count().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_max_entries_the_oldest_go_also_after_a_restart() {
    let fixture = Fixture::new();
    let texts: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let cache = fixture.open(Some(6)).await;
    for text in &texts {
        keep(&cache, &[text], 0.5).await;
        fixture.advance(Duration::from_secs(1));
    }
    assert_eq!(cache.sweep().await.unwrap(), 4);
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
    let expected: Vec<bool> = (0..10).map(|i| i >= 4).collect();
    assert_eq!(known(&cache, &all).await, expected);
    drop(cache);
    let cache = fixture.open(Some(2)).await;
    assert_eq!(cache.sweep().await.unwrap(), 4);
    assert_eq!(known(&cache, &all).await.iter().filter(|known| **known).count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_is_a_miss_and_never_an_answer() {
    let fixture = Fixture::new();
    let cache = fixture.open(None).await;
    keep(&cache, &["text", "other"], 0.5).await;
    let key = entry::key("d1", "text");
    let good = cache.state.get(&key).await.unwrap().unwrap();
    let of_another = cache.state.get(&entry::key("d1", "other")).await.unwrap().unwrap();
    let mut damaged: Vec<Bytes> = (0..good.len() * 8)
        .map(|bit| {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.into()
        })
        .collect();
    damaged.extend((0..good.len()).map(|length| good.slice(..length)));
    damaged.push(of_another);
    for value in &damaged {
        assert_eq!(entry::decode(&key, value, &info("d1")), None, "{value:?}");
    }
    for value in [damaged[100].clone(), Bytes::from_static(b"nonsense")] {
        let mut writes = Writes::new();
        writes.put(key.clone(), value);
        cache.state.commit(writes).await.unwrap();
        assert_eq!(known(&cache, &["text"]).await, [false]);
    }
    keep(&cache, &["text"], 0.25).await;
    assert_eq!(cache.lookup(&info("d1"), &["text"]).await.unwrap(), [Some(scores(0.25))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_keep_at_once_is_durable_when_each_of_them_goes_on() {
    let fixture = Fixture::new();
    let cache = Arc::new(fixture.open(None).await);
    let writers: Vec<_> = (0..40)
        .map(|i| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let text = i.to_string();
                keep(&cache, &[&text], 0.5).await;
                // The state shows only what is durable.
                assert_eq!(known(&cache, &[&text]).await, [true]);
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(cache.count().await.unwrap(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_written_later_and_as_much_as_there_is_room_for() {
    let fixture = Fixture::new();
    let cache = fixture.open(None).await;
    let info = ModelInfo { task: Task::Embedding, labels: vec![], dimensions: None, ..info("d1") };
    let large = Prediction::Embedding(vec![0.5; LATER_BYTES_MAX / 4 / 4]);
    let texts: Vec<String> = (0..6).map(|i| i.to_string()).collect();
    for text in &texts {
        cache.keep_later([("d1", text.as_str(), &large)].into_iter());
    }
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert!(cache.lookup(&info, &all).await.unwrap().iter().all(Option::is_none), "nothing is written yet");
    cache.keep_what_waits().await.unwrap();
    let known = cache.lookup(&info, &all).await.unwrap();
    assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, true, false, false]);
    cache.keep_later([("d1", "5", &large)].into_iter());
    cache.keep_what_waits().await.unwrap();
    assert_eq!(cache.lookup(&info, &["5"]).await.unwrap(), [Some(large)], "there is room again");
}

#[test]
fn embeddings_and_times_come_back_bit_by_bit() {
    let info = ModelInfo { task: Task::Embedding, labels: vec![], dimensions: Some(3), ..info("d1") };
    let key = entry::key("d1", "text");
    let prediction = Prediction::Embedding(vec![f32::MIN_POSITIVE, -0.0, 1e30]);
    for time in [i64::MIN, -1, 0, 1, i64::MAX] {
        let value = entry::encode(&key, time, &prediction);
        assert_eq!(entry::decode(&key, &value, &info), Some((time, prediction.clone())));
        assert_eq!(entry::of_index_key(&entry::index_key(&key, time)), Some((time, key.clone())));
    }
    assert!(entry::index_key(&key, -1) < entry::index_key(&key, 0), "older first");
}
