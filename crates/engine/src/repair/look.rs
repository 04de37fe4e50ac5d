//! Reading everything in a data folder, to find what is damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream_core::disk::{Disk, RealDisk};
use millstream_core::{DeadLetter, ErrorKind, Result, ResultExt};
use millstream_storage::codec::{SchemaStore, schema_id};
use millstream_storage::log::{self, Log};
use millstream_storage::state::{StateOptions, StateReader, StateStore, local_store};

use super::{Damaged, Remedy};
use crate::catalog::Catalog;
use crate::data_dir::DataDir;
use crate::deliver::sink_target;
use crate::outbox::{COMMIT_KEY, Commit, Offset};
use crate::plan::{Plan, StagePlan, StreamKind};
use crate::spec::SinkSpec;

/// What was read, and what of it is damaged.
#[derive(Debug, Default)]
pub struct Looked {
    /// What is damaged, logs first.
    pub damaged: Vec<Damaged>,
    /// How many logs there are.
    pub logs: usize,
    /// How many states there are, those of models' caches too; without those of sinks.
    pub states: usize,
    /// How many states of sinks there are.
    pub sinks: usize,
}

/// Reads everything in the folder of a pipeline with this plan, which nobody else has open. Changes nothing.
///
/// # Errors
/// Files can't be read, or are of a newer version.
pub async fn look(dir: &DataDir, plan: &Plan) -> Result<Looked> {
    let mut looker = Looker { dir, plan, logs: BTreeMap::new(), looked: Looked::default() };
    tokio::task::block_in_place(|| {
        looker.small_files()?;
        looker.schemas()?;
        looker.logs()
    })?;
    looker.states().await?;
    looker.caches().await?;
    Ok(looker.looked)
}

struct Looker<'a> {
    dir: &'a DataDir,
    plan: &'a Plan,
    /// All logs; none for one that is damaged.
    logs: BTreeMap<String, Option<Log>>,
    looked: Looked,
}

impl Looker<'_> {
    fn add(&mut self, path: impl Into<PathBuf>, found: Vec<String>, remedy: Remedy, says: impl Into<String>) {
        if !found.is_empty() {
            self.looked.damaged.push(Damaged { path: path.into(), found, remedy, says: says.into() });
        }
    }

    fn small_files(&mut self) -> Result<()> {
        let identity = damage_of(DataDir::open_read_only(self.dir.root()).map(drop))?;
        let says = "it is written anew, with another identity: who tells records by their ids takes what is sent again \
                    for new";
        self.add("millstream.json", identity, Remedy::TakeAway, says);
        let catalog = damage_of(Catalog::load(&self.dir.catalog()).map(drop))?;
        let says = "it is written anew from the pipeline file; a table that `replay --into` made is no longer found";
        self.add("catalog.json", catalog, Remedy::TakeAway, says);
        Ok(())
    }

    fn schemas(&mut self) -> Result<()> {
        let folder = self.dir.schemas();
        if !folder.exists() {
            return Ok(());
        }
        let store = SchemaStore::open_read_only(&folder)?;
        let streams = self.plan.streams.iter().map(|stream| stream.schema.clone());
        let tables = self.plan.stages.iter().flat_map(|stage| &stage.tables).map(|table| table.spec.schema.clone());
        let known: BTreeMap<u64, _> =
            streams.chain(tables).chain([DeadLetter::schema()]).map(|schema| (schema_id(&schema), schema)).collect();
        let mut ids: Vec<u64> = names_in(&folder)?.iter().filter_map(|name| id_of(name)).collect();
        // Those of the catalog too: a file can be gone.
        if let Ok(catalog) = Catalog::load(&self.dir.catalog()) {
            ids.extend(catalog.streams.iter().map(|s| s.schema).chain(catalog.tables.iter().map(|t| t.schema)));
        }
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let found = damage_of(store.get(id).map(drop))?;
            let file = store.path(id);
            let path = Path::new("schemas").join(file.file_name().unwrap_or_default());
            match known.get(&id) {
                Some(schema) => self.add(path, found, Remedy::Rewrite(schema.clone()), "it is written anew"),
                None => {
                    self.add(path, found, Remedy::None, "put it back from a backup: the pipeline file has it no more")
                }
            }
        }
        Ok(())
    }

    fn logs(&mut self) -> Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        for name in names_in(&self.dir.root().join("log"))? {
            let folder = self.dir.log(&name);
            let found: Vec<String> =
                log::damage(&disk, &folder, &name)?.iter().map(|e| e.message().to_owned()).collect();
            let log = match found.is_empty() && !names_in(&folder)?.iter().all(|file| !file.ends_with(".seg")) {
                true => Some(Log::open_read_only(disk.clone(), &folder, &name)?),
                false => None,
            };
            let is_source = self.plan.streams.iter().any(|s| *s.name == *name && s.kind == StreamKind::Source);
            let says = match is_source {
                true => {
                    "nothing else holds these records: put the file back from a backup, or start with another data \
                         folder and read the source again"
                }
                false => "put the file back from a backup, or start with another data folder",
            };
            self.add(Path::new("log").join(&name), found, Remedy::None, says);
            self.looked.logs += 1;
            self.logs.insert(name, log);
        }
        Ok(())
    }

    async fn states(&mut self) -> Result<()> {
        let root = self.dir.state();
        if !root.exists() {
            return Ok(());
        }
        let store = local_store(&root)?;
        for of in names_in(&root)? {
            for partition in names_in(&root.join(&of))? {
                let path = format!("{of}/{partition}");
                let mut found = store.find_all_damage(&path).await?;
                let owner = self.owner(&of, &partition);
                if let Some(owner) = owner.as_ref().filter(|_| found.is_empty()) {
                    found.extend(self.misplaced(&store, &path, owner).await?);
                }
                let (remedy, says) = match &owner {
                    Some(Owner::Task(stage, partition)) => self.rebuilding(stage, *partition),
                    Some(Owner::Sink(sink)) => self.restarting(sink),
                    None => (Remedy::TakeAway, "the pipeline file has it no more: it is taken away".to_owned()),
                };
                self.add(Path::new("state").join(&path), found, remedy, says);
                let of_sink = self.plan.sinks.iter().any(|sink| *sink_target(&sink.name) == *of);
                *if of_sink { &mut self.looked.sinks } else { &mut self.looked.states } += 1;
            }
        }
        Ok(())
    }

    /// Whose state lies in a folder of this name; none where the plan has it no more.
    fn owner(&self, of: &str, partition: &str) -> Option<Owner<'_>> {
        let partition = partition.parse::<u32>().ok()?;
        if let Some(sink) = self.plan.sinks.iter().find(|sink| *sink_target(&sink.name) == *of) {
            return (partition == 0).then_some(Owner::Sink(sink));
        }
        let stage = self.plan.stages.iter().find(|stage| *stage.id == *of)?;
        (partition < stage.partitions).then_some(Owner::Task(stage, partition))
    }

    /// What tells a state from one that belongs to its logs: an older copy is as whole as the newest.
    async fn misplaced(&self, store: &StateStore, path: &str, owner: &Owner<'_>) -> Result<Option<String>> {
        let folder = self.dir.state().join(path);
        if names_in(&folder)?.is_empty() {
            return Ok(None);
        }
        let reader = StateReader::open(store.clone(), path, &StateOptions::default()).await?;
        let commit = reader.get(COMMIT_KEY).await?.map(Commit::decode);
        reader.close().await?;
        let commit = match commit {
            None => return Ok(None),
            Some(Err(e)) if e.kind() == ErrorKind::Corruption => return Ok(Some(format!("{}: {e}", folder.display()))),
            Some(commit) => commit?,
        };
        if commit.sequence < self.written(&owner.producer()) {
            return Ok(Some(format!("{} is an older copy: it has written more than it knows of", folder.display())));
        }
        let read = commit.offsets.iter().filter(|offset| owner.reads(&offset.stream));
        let beyond = read.filter_map(|offset| {
            // A log that is damaged is said already; one that is gone ends at 0.
            let end = match self.logs.get(&*offset.stream) {
                Some(log) => log.as_ref()?.end_offset(offset.partition),
                None => 0,
            };
            (offset.next > end).then_some((offset, end))
        });
        Ok(beyond.map(|(offset, end)| self.beyond(&folder, offset, end)).next())
    }

    fn beyond(&self, folder: &Path, offset: &Offset, end: u64) -> String {
        let (at, log) = (offset.next, self.dir.log(&offset.stream));
        format!("{} is at offset {at}, but the log in {} ends at {end}", folder.display(), log.display())
    }

    /// The number of the last commit of a producer that a log has.
    fn written(&self, producer: &str) -> u64 {
        self.logs.values().flatten().filter_map(|log| log.producer(producer)?.sequence).max().unwrap_or(0)
    }

    /// The commit of a sink that begins with the oldest records. Its number is that of what its logs have: they would
    /// drop what has an older one.
    fn restarting(&self, sink: &SinkSpec) -> (Remedy, String) {
        let from = shown(sink.from.iter().map(|name| &**name));
        let says = format!(
            "it starts again with the oldest record of {from}: what it has delivered is delivered again, under the same \
             ids"
        );
        let start = |name: &str, partition| {
            self.logs.get(name).and_then(Option::as_ref).map_or(0, |log| log.start_offset(partition))
        };
        let streams = self.plan.streams.iter().filter(|stream| sink.from.contains(&stream.name));
        let offsets = streams.flat_map(|stream| {
            let offset = |partition| Offset::at(stream.name.clone(), partition, start(&stream.name, partition));
            (0..stream.partitions).map(offset)
        });
        let sequence = self.written(&sink_target(&sink.name));
        let commit = Commit { sequence, offsets: offsets.collect(), ..Commit::default() };
        (Remedy::Restart(Box::new(commit)), says)
    }

    fn rebuilding(&self, stage: &StagePlan, partition: u32) -> (Remedy, String) {
        let input = &stage.input;
        let log = match self.logs.get(&**input) {
            Some(Some(log)) => log,
            _ => return (Remedy::None, format!("its log `{input}` is damaged or gone, so nothing can build it anew")),
        };
        let (start, end) = (log.start_offset(partition), log.end_offset(partition));
        let mut says = format!("it is built anew from the {} records of `{input}`", end - start);
        let tables = shown(stage.tables.iter().map(|table| &*table.spec.name));
        if start > 0 {
            says += &format!("; {start} older ones are no longer kept, and what only they had made is gone");
        }
        if !tables.is_empty() {
            says += &format!("; it holds {tables}");
        }
        let streams = shown(stage.written.keys().map(|name| &**name));
        if !streams.is_empty() {
            says += &format!("; what it sends to {streams} is sent again, under new ids");
        }
        (Remedy::Rebuild, says)
    }

    async fn caches(&mut self) -> Result<()> {
        let root = self.dir.model_caches();
        if !root.exists() {
            return Ok(());
        }
        let store = local_store(&root)?;
        for model in names_in(&root)? {
            let found = store.find_all_damage(&model).await?;
            let says = "its predictions are forgotten, and asked for again";
            self.add(Path::new("cache").join(&model), found, Remedy::TakeAway, says);
            self.looked.states += 1;
        }
        Ok(())
    }
}

/// Whose state it is.
enum Owner<'a> {
    /// A task, with its partition.
    Task(&'a StagePlan, u32),
    Sink(&'a SinkSpec),
}

impl Owner<'_> {
    fn producer(&self) -> String {
        match self {
            Self::Task(stage, partition) => format!("{}/{partition}", stage.id),
            Self::Sink(sink) => sink_target(&sink.name).to_string(),
        }
    }

    fn reads(&self, stream: &str) -> bool {
        match self {
            Self::Task(stage, _) => *stage.input == *stream,
            Self::Sink(sink) => sink.from.iter().any(|from| **from == *stream),
        }
    }
}

/// What is damaged, in words; nothing where it reads.
fn damage_of(read: Result<()>) -> Result<Vec<String>> {
    match read {
        Ok(()) => Ok(Vec::new()),
        Err(e) if e.kind() == ErrorKind::Corruption => Ok(vec![e.to_string()]),
        Err(e) => Err(e),
    }
}

fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn id_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_suffix(".arrow")?, 16).ok()
}

/// The names in a folder, sorted; none where it does not exist.
fn names_in(folder: &Path) -> Result<Vec<String>> {
    let doing = || format!("list {}", folder.display());
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(doing)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.doing(doing)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
