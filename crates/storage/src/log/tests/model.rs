//! The log against a simple model, on a disk that fails: whatever was acknowledged is there, in order; of what was not,
//! a prefix in whole appends is; producers agree with the data.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

const PRODUCERS: [&str; 3] = ["a", "b", ""];

#[derive(Debug, Clone)]
enum Op {
    /// Appends that wait together.
    Append(Vec<Small>),
    /// Delete what may go; consumers have read up to this share (of 8) of each partition.
    Retain(u64),
    Close,
    Restart,
    AddPartition,
    /// Something fails this many steps later; the power is cut, or only the process starts again.
    Fault(u64, Fault, bool, u64),
    Flip,
    Sleep(i64),
}

#[derive(Debug, Clone)]
struct Small {
    producer: usize,
    /// Added to the producer's last sequence; 0 and below are repeats.
    sequence: Option<i64>,
    cursor: Option<(u8, bool)>,
    /// Partition (the last stands for dead letters), records (0 for a control chunk, unless among dead letters), bytes.
    chunks: Vec<(u32, u32, usize)>,
}

fn small() -> impl Strategy<Value = Small> {
    let size = prop_oneof![4 => 0..64_usize, 2 => 64..700_usize, 1 => 700..5_000_usize];
    (
        0..PRODUCERS.len(),
        proptest::option::of(-1..3_i64),
        proptest::option::of((0..3_u8, any::<bool>())),
        prop::collection::vec((0..4_u32, 0..4_u32, size), 0..4),
    )
        .prop_map(|(producer, sequence, cursor, chunks)| Small { producer, sequence, cursor, chunks })
}

fn op() -> impl Strategy<Value = Op> {
    let fault = prop_oneof![
        Just(Fault::PowerCut),
        Just(Fault::Error),
        Just(Fault::NoSpace),
        (0..3_000_usize).prop_map(Fault::Torn)
    ];
    prop_oneof![
        8 => prop::collection::vec(small(), 1..6).prop_map(Op::Append),
        2 => (0..9_u64).prop_map(Op::Retain),
        1 => Just(Op::Close),
        1 => Just(Op::Restart),
        1 => Just(Op::AddPartition),
        3 => (0..14_u64, fault, any::<bool>(), any::<u64>()).prop_map(|(s, f, c, seed)| Op::Fault(s, f, c, seed)),
        1 => Just(Op::Flip),
        1 => (0..50_i64).prop_map(Op::Sleep),
    ]
}

/// A chunk as it was appended, at this offset: producer, sequence, number in its append.
type Stored = (u64, u32, Bytes, (Arc<str>, Option<u64>, u32), Times);

/// Newest event time, watermark, late records.
type Times = (Option<i64>, Option<Watermark>, Arc<[Late]>);

/// What the log should hold: all of it, deleted or not.
#[derive(Debug, Clone, Default)]
struct Model {
    partitions: BTreeMap<u32, Vec<Stored>>,
    producers: HashMap<Arc<str>, ProducerState>,
}

impl Model {
    fn end(&self, partition: u32) -> u64 {
        self.partitions
            .get(&partition)
            .and_then(|p| p.last())
            .map_or(0, |(base, count, ..)| base + u64::from((*count).max(1)))
    }

    fn apply(&mut self, append: &Append) -> Appended {
        let known = self.producers.get(&append.producer).and_then(|p| p.sequence);
        if append.sequence.zip(known).is_some_and(|(sequence, known)| sequence <= known) {
            return Appended { first_offsets: Vec::new(), duplicate: true };
        }
        if append.sequence.is_some() || !append.cursor.is_empty() {
            let producer = self.producers.entry(append.producer.clone()).or_default();
            producer.sequence = append.sequence.or(producer.sequence);
            for (key, value) in append.cursor.clone() {
                match value {
                    Some(value) => producer.cursor.insert(key, value),
                    None => producer.cursor.remove(&key),
                };
            }
        }
        let mut first_offsets = Vec::new();
        for (index, chunk) in append.chunks.iter().enumerate() {
            let base = self.end(chunk.partition);
            first_offsets.push(base);
            let from = (append.producer.clone(), append.sequence, index as u32);
            let stored = (
                base,
                chunk.count,
                chunk.payload.clone(),
                from,
                (chunk.event_time_max_us, chunk.watermark, chunk.late.clone()),
            );
            self.partitions.entry(chunk.partition).or_default().push(stored);
        }
        Appended { first_offsets, duplicate: false }
    }

    /// What is different between the log and the model, if anything.
    fn difference(&self, log: &DiskLog) -> Option<String> {
        for id in PRODUCERS {
            let (found, expected) = (log.producer(id), self.producers.get(id).cloned());
            if found != expected {
                return Some(format!("producer {id}: {found:?} is not {expected:?}"));
            }
        }
        for partition in (0..log.partitions()).chain([DEAD_LETTERS]) {
            let start = log.start_offset(partition);
            let found = match read_all(log, partition) {
                Ok(found) => found,
                Err(e) => return Some(e.to_string()),
            };
            let stored = |c: LogChunk| {
                let from = (c.producer, c.sequence, c.index);
                (c.base_offset, c.count, c.payload, from, (c.event_time_max_us, c.watermark, c.late))
            };
            let found: Vec<Stored> = found.into_iter().map(stored).collect();
            let all = self.partitions.get(&partition).cloned().unwrap_or_default();
            let expected: Vec<_> = all.into_iter().filter(|(base, ..)| *base >= start).collect();
            if found != expected || log.end_offset(partition) != self.end(partition) {
                return Some(format!("partition {partition}: {} chunks, not {}", found.len(), expected.len()));
            }
        }
        None
    }
}

struct World {
    disk: FaultyDisk,
    clock: Arc<ManualClock>,
    partitions: u32,
    log: DiskLog,
    model: Model,
    /// Appends that got an error, in order.
    unsure: Vec<Append>,
    /// The power is cut at the next restart, with this seed.
    cut: Option<u64>,
    /// Below this, everything may have been deleted.
    read: HashMap<u32, u64>,
    appends: u64,
}

impl World {
    fn new() -> Self {
        let disk = FaultyDisk::new();
        let clock = Arc::new(ManualClock::new(0));
        let log = Self::open(&disk, &clock, 2).unwrap();
        Self {
            disk,
            clock,
            partitions: 2,
            log,
            model: Model::default(),
            unsure: Vec::new(),
            cut: None,
            read: HashMap::new(),
            appends: 0,
        }
    }

    fn open(disk: &FaultyDisk, clock: &Arc<ManualClock>, partitions: u32) -> Result<DiskLog> {
        let options = LogOptions {
            partitions,
            segment_bytes_max: 2_000,
            retention: Retention { age_ms: Some(40), bytes: Some(6_000) },
            sync: true,
        };
        open_at(disk, options, clock.clone())
    }

    fn append_of(&mut self, small: &Small, sequences: &mut HashMap<usize, i64>) -> Append {
        self.appends += 1;
        let producer: Arc<str> = PRODUCERS[small.producer].into();
        let known = self.model.producers.get(&producer).and_then(|p| p.sequence).map_or(0, |s| s as i64);
        let sequence = small.sequence.map(|step| {
            let last = sequences.entry(small.producer).or_insert(known);
            let sequence = (*last + step).max(0);
            *last = sequence.max(*last);
            sequence as u64
        });
        let id = self.appends;
        let cursor = small
            .cursor
            .iter()
            .map(|&(key, set)| (format!("k{key}"), set.then(|| Bytes::from(id.to_string()))))
            .collect();
        let chunks = small.chunks.iter().enumerate().map(|(i, &(partition, count, len))| {
            let partition = if partition >= self.partitions { DEAD_LETTERS } else { partition };
            let watermark = [Watermark::At(len as i64 - 30), Watermark::Idle, Watermark::End][len % 3];
            if count == 0 && partition != DEAD_LETTERS {
                return Chunk::control(partition, watermark);
            }
            let mut payload = format!("{id}/{i}/").into_bytes();
            payload.resize(payload.len() + len, id as u8);
            Chunk {
                watermark: Some(watermark).filter(|w| matches!(w, Watermark::At(_))),
                late: (0..len as u32 % count.max(1)).map(|row| Late { row, watermark_us: -3 }).collect(),
                event_time_max_us: (len % 3 == 0).then_some(-(len as i64)),
                ..chunk(partition, count.max(1), payload)
            }
        });
        let chunks = chunks.collect();
        Append { producer, sequence, cursor, chunks }
    }

    async fn append(&mut self, smalls: &[Small]) {
        let mut sequences = HashMap::new();
        let appends: Vec<Append> = smalls.iter().map(|s| self.append_of(s, &mut sequences)).collect();
        let answers = join_all(appends.iter().map(|a| self.log.append(a.clone()))).await;
        for (append, answer) in appends.into_iter().zip(answers) {
            match answer {
                Ok(answer) => {
                    assert!(self.unsure.is_empty(), "an append after a failed one was acknowledged");
                    assert_eq!(answer, self.model.apply(&append));
                }
                Err(_) => self.unsure.push(append),
            }
        }
        if self.unsure.is_empty() {
            assert_eq!(self.model.difference(&self.log), None);
        } else {
            self.restart();
        }
    }

    /// Drops the log and opens it again; a fault that is still planned may hit that too.
    fn restart(&mut self) {
        let mut result = Err(Error::bug("not opened yet"));
        for _ in 0..2 {
            if let Some(seed) = self.cut.take() {
                self.disk.crash(seed);
            }
            result = Self::open(&self.disk, &self.clock, self.partitions);
            if result.is_ok() {
                break;
            }
            self.disk.crash(1);
        }
        self.log = result.unwrap();
        self.settle();
    }

    /// Finds out how many of the unsure appends are there.
    fn settle(&mut self) {
        let mut model = self.model.clone();
        let mut differences = Vec::from_iter(model.difference(&self.log));
        for append in std::mem::take(&mut self.unsure) {
            if differences.is_empty() {
                break;
            }
            model.apply(&append);
            match model.difference(&self.log) {
                Some(difference) => differences.push(difference),
                None => differences.clear(),
            }
        }
        assert!(differences.is_empty(), "{differences:?}");
        self.model = model;
        for (partition, read) in &self.read {
            assert!(self.log.start_offset(*partition) <= *read, "deleted before it was read");
        }
    }

    fn retain(&mut self, share: u64) {
        let mut read = self.read.clone();
        for partition in (0..self.partitions).chain([DEAD_LETTERS]) {
            let now = self.model.end(partition) * share / 8;
            let before = read.entry(partition).or_default();
            *before = now.max(*before);
        }
        let keep = |p| read.get(&p).copied().unwrap_or(0);
        let now_ms = self.clock.now_ms();
        let result = self.log.retain(now_ms, &keep);
        self.read = read.clone();
        match result {
            Ok(_) => assert_eq!(self.model.difference(&self.log), None),
            Err(_) => self.restart(),
        }
    }

    async fn run(&mut self, op: Op) {
        match op {
            Op::Append(smalls) => self.append(&smalls).await,
            Op::Retain(share) => self.retain(share),
            Op::Close => {
                // A fault may still be planned, so this may fail; what was acknowledged is durable all the same.
                let _ = self.log.close().await;
                self.restart();
            }
            Op::Restart => self.restart(),
            Op::AddPartition if self.partitions < 3 => {
                self.partitions += 1;
                self.restart();
            }
            Op::AddPartition => {}
            Op::Fault(step, fault, cut, seed) => {
                self.disk.heal();
                self.disk.fail_at(self.disk.steps() + step, fault);
                self.cut = (cut || fault == Fault::PowerCut).then_some(seed);
            }
            Op::Flip => self.damage_an_index(),
            Op::Sleep(ms) => self.clock.advance_us(ms * 1_000),
        }
    }

    /// An index can be made again: damage to one must not be seen.
    fn damage_an_index(&mut self) {
        let Ok(names) = self.disk.list(Path::new(DIR)) else { return };
        if let Some(name) = names.iter().rfind(|n| n.ends_with(".idx")) {
            self.disk.flip(&Path::new(DIR).join(name), 50, 4);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_its_model_whatever_fails(ops in prop::collection::vec(op(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for op in ops {
                world.run(op).await;
            }
            world.disk.heal();
            world.restart();
        });
    }
}
