//! How fast the encoder is on this machine, with random weights of a real shape; prints one JSON object a line.
//!
//! ```text
//! cargo run --release -p millstream-models --example bench_encoder -- \
//!     --shape base --precision int8 --batch 32 --threads 2 --seconds 3
//! ```
//!
//! `--shape base` is BERT-base (12 layers, 768), `mini` is MiniLM-L6 (6 layers, 384). `--precision` and `--batch` take
//! lists (`f32,bf16,int8`, `1,8,32`); what is listed together is measured in turns, so that a disturbance hits all of
//! it, and the best of the turns counts. The texts are 512 (`--texts`), of 6 to 48 random tokens, 19 on average.
//! `sequences_per_second_of_least_times` takes each batch at the least time that it ever had: with few texts and
//! many rounds, what the machine does while nothing disturbs it. `--first` computes the states of
//! the first tokens only, as a classifier does. `--cpu-time` (Linux) counts the time that the calling thread was on a
//! processor instead of what passed: with one thread, that is the machine's speed even while it is busy with other
//! things. `peak_share` is the share of the time in which the instruction that the
//! tiles are made of could have done the multiplications of the weights alone.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use millstream_core::{Error, Result};
use millstream_models::transformer::kernels::peak;
use millstream_models::transformer::{
    Activation, Encoder, EncoderSpec, PackedEncoder, Precision, Tokens, default_precision, random_weights,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Measurements are cut into so many turns.
const TURNS: u32 = 6;

struct Arguments {
    shape: String,
    precisions: Vec<Precision>,
    batches: Vec<usize>,
    threads: usize,
    seconds: f64,
    texts: usize,
    first_only: bool,
    clock: fn() -> Duration,
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let spec = spec(&arguments.shape)?;
    let weights = random_weights(&spec, 1);
    let texts = texts(&spec, arguments.texts);
    let mut runs = Vec::new();
    for &precision in &arguments.precisions {
        let layers = weights.layers.iter().map(Ok);
        let packed = Arc::new(PackedEncoder::new(spec.clone(), weights.embeddings.clone(), layers, precision)?);
        for &batch in &arguments.batches {
            let encoder = Encoder::new(packed.clone(), arguments.threads)?;
            runs.push(Run {
                precision,
                packed: packed.clone(),
                encoder,
                batches: batches(&texts, batch),
                batch,
                best: 0.0,
                times: Vec::new(),
                least: Vec::new(),
            });
        }
    }
    let turn = Duration::from_secs_f64(arguments.seconds / f64::from(TURNS));
    for _ in 0..TURNS {
        runs.iter_mut().for_each(|run| run.turn(turn, &arguments));
    }
    for run in &mut runs {
        run.print(&arguments, &texts);
    }
    Ok(())
}

/// One combination of precision and batch.
struct Run {
    precision: Precision,
    packed: Arc<PackedEncoder>,
    encoder: Encoder,
    batches: Vec<Tokens>,
    batch: usize,
    /// Tokens a second in the best turn: texts differ in length, and a turn does not have all of them.
    best: f64,
    /// Of single batches, in milliseconds.
    times: Vec<f64>,
    /// The least of each batch.
    least: Vec<f64>,
}

impl Run {
    fn turn(&mut self, turn: Duration, arguments: &Arguments) {
        let (mut tokens, started) = (0, (arguments.clock)());
        while (arguments.clock)() - started < turn {
            let index = self.times.len() % self.batches.len();
            let batch = &self.batches[index];
            let begun = (arguments.clock)();
            let states =
                if arguments.first_only { self.encoder.encode_first(batch) } else { self.encoder.encode(batch) };
            std::hint::black_box(states);
            let time = ((arguments.clock)() - begun).as_secs_f64() * 1e3;
            self.times.push(time);
            match self.least.get_mut(index) {
                Some(least) => *least = least.min(time),
                None => self.least.push(time),
            }
            tokens += batch.ids.len();
        }
        self.best = self.best.max(tokens as f64 / ((arguments.clock)() - started).as_secs_f64());
    }

    fn print(&mut self, arguments: &Arguments, texts: &[Tokens]) {
        self.times.sort_by(f64::total_cmp);
        let quantile = |q: f64| self.times[((self.times.len() - 1) as f64 * q) as usize];
        let tokens: usize = texts.iter().map(|text| text.ids.len()).sum();
        let multiplications = self.best * self.packed.multiplications_per_token() as f64;
        let sequences: usize = self.batches.iter().take(self.least.len()).map(|batch| batch.lengths.len()).sum();
        let undisturbed = sequences as f64 / self.least.iter().sum::<f64>() * 1e3;
        let peak = peak::multiplications_per_second(self.packed.kernels().path(), arguments.threads);
        let rounded = |x: f64| (x * 1e3).round() / 1e3;
        let line = serde_json::json!({
            "shape": arguments.shape,
            "precision": self.precision,
            "path": self.packed.kernels().path().as_str(),
            "threads": arguments.threads,
            "batch": self.batch,
            "first_only": arguments.first_only,
            "sequences_per_second": rounded(self.best * texts.len() as f64 / tokens as f64),
            "sequences_per_second_of_least_times": rounded(undisturbed),
            "batch_p50_ms": rounded(quantile(0.5)),
            "batch_p99_ms": rounded(quantile(0.99)),
            "peak_multiplications_per_second": peak.map(f64::round),
            "peak_share": peak.map(|peak| rounded(multiplications / peak)),
        });
        println!("{line}");
    }
}

fn spec(shape: &str) -> Result<EncoderSpec> {
    let (layers, hidden) = match shape {
        "base" => (12, 768),
        "mini" => (6, 384),
        other => return Err(Error::config(format!("unknown shape `{other}`: use base or mini"))),
    };
    Ok(EncoderSpec {
        hidden,
        layers,
        heads: 12,
        intermediate: 4 * hidden,
        vocabulary: 30_522,
        positions: 512,
        first_position: 0,
        token_types: 2,
        activation: Activation::Gelu,
        norm_epsilon: 1e-12,
    })
}

/// Lengths as those of headlines: most are short.
fn texts(spec: &EncoderSpec, count: usize) -> Vec<Tokens> {
    let mut random = StdRng::seed_from_u64(7);
    let mut text = || {
        let length = (6.0 + 43.0 * random.random::<f64>().powf(2.23)) as usize;
        let ids = (0..length).map(|_| random.random_range(0..spec.vocabulary as u32)).collect();
        Tokens { ids, types: vec![0; length], lengths: vec![length] }
    };
    (0..count).map(|_| text()).collect()
}

fn batches(texts: &[Tokens], size: usize) -> Vec<Tokens> {
    let join = |texts: &[Tokens]| Tokens {
        ids: texts.iter().flat_map(|text| text.ids.clone()).collect(),
        types: texts.iter().flat_map(|text| text.types.clone()).collect(),
        lengths: texts.iter().flat_map(|text| text.lengths.clone()).collect(),
    };
    texts.chunks(size).map(join).collect()
}

fn arguments() -> Result<Arguments> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut arguments = Arguments {
        shape: "base".into(),
        precisions: vec![default_precision()],
        batches: vec![1, 8, 32],
        threads,
        seconds: 3.0,
        texts: 512,
        first_only: false,
        clock: wall_time,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--first" => arguments.first_only = true,
            "--cpu-time" => arguments.clock = cpu_time,
            _ => {}
        }
        if matches!(word.as_str(), "--first" | "--cpu-time") {
            continue;
        }
        let value = words.next().ok_or_else(|| Error::config(format!("{word} needs a value")))?;
        let wrong = || Error::config(format!("{word} {value}: see the head of this example"));
        match word.as_str() {
            "--shape" => arguments.shape = value,
            "--precision" => {
                arguments.precisions = value.split(',').map(precision).collect::<Option<_>>().ok_or_else(wrong)?
            }
            "--batch" => {
                let sizes = value.split(',').map(|size| size.parse().ok().filter(|&size: &usize| size > 0));
                arguments.batches = sizes.collect::<Option<_>>().ok_or_else(wrong)?;
            }
            "--threads" => arguments.threads = value.parse().map_err(|_| wrong())?,
            "--texts" => arguments.texts = value.parse().ok().filter(|&count| count > 0).ok_or_else(wrong)?,
            "--seconds" => arguments.seconds = value.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    Ok(arguments)
}

fn wall_time() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed()
}

/// How long this thread has been on a processor; where the system does not say, how long it has lived.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|field| field.parse().ok()).map_or_else(wall_time, Duration::from_nanos)
}

fn precision(name: &str) -> Option<Precision> {
    match name {
        "f32" => Some(Precision::F32),
        "bf16" => Some(Precision::Bf16),
        "int8" => Some(Precision::Int8),
        _ => None,
    }
}
