//! Tables and streams as relations for queries, on a running pipeline and in a data folder at rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use millstream_core::disk::RealDisk;
use millstream_core::schema::timestamp_type;
use millstream_core::{Clock, Error, Result, SystemClock};
use millstream_sql::{QueryEngine, QueryHost, QueryLimits, Relation};
use millstream_storage::codec::SchemaStore;
use millstream_storage::keyed::MemoryBudget;
use millstream_storage::log::Log;
use millstream_storage::state::{StateReader, StateView, local_store};
use millstream_storage::table::TableReader;

use crate::catalog::{Catalog, CatalogTable};
use crate::data_dir::DataDir;
use crate::dead_letters::relation::{self, DeadLetters};
use crate::streams::{StreamBatch, StreamReader};
use crate::worker::Running;

/// Where the queries of this process run; none where the system gives no threads.
static HOST: LazyLock<Option<Arc<QueryHost>>> = LazyLock::new(|| QueryHost::new(QueryLimits::default()).ok());

fn host() -> Result<Arc<QueryHost>> {
    HOST.clone().ok_or_else(|| Error::environment("the system gives no threads for queries"))
}

const READ_BYTES: usize = 512 << 10;

/// All tables and streams of a running pipeline.
pub fn engine_of_running(running: &Running) -> Result<QueryEngine> {
    let engine = QueryEngine::on(host()?);
    // First: a table of that name takes its place.
    let logs = running.streams.values().map(|stream| stream.log.clone()).collect();
    engine.register(relation::NAME, DeadLetters::new(logs, running.schemas.clone()));
    for stream in &running.catalog.streams {
        let Some(open) = running.streams.get(stream.name.as_str()).filter(|_| stream.visible) else { continue };
        engine.register(&stream.name, stream_relation(&open.log, &running.schemas, &open.plan.schema));
    }
    for table in &running.catalog.tables {
        if let Some(views) = running_views(running, table) {
            engine.register(&table.name, table_relation(table, views, &running.schemas, running.clock.clone())?);
        }
    }
    Ok(engine)
}

/// All tables and streams of a data folder. What another process is writing there shows up to its last commit.
pub async fn engine_at_rest(folder: &Path) -> Result<QueryEngine> {
    let opened = AtRest::open(folder)?;
    let engine = QueryEngine::on(host()?);
    let logs = opened.catalog.streams.iter().map(|stream| opened.log(&stream.name)).collect::<Result<_>>()?;
    engine.register(relation::NAME, DeadLetters::new(logs, opened.schemas.clone()));
    for stream in opened.catalog.streams.iter().filter(|s| s.visible) {
        let schema = opened.schemas.get(stream.schema)?;
        engine.register(&stream.name, stream_relation(&opened.log(&stream.name)?, &opened.schemas, &schema));
    }
    let store = local_store(&opened.dir.state())?;
    let partitions = opened.catalog.tables.iter().map(|table| table.partitions as usize).sum();
    let options = MemoryBudget::default().share(partitions);
    for table in &opened.catalog.tables {
        let mut views = Vec::new();
        for partition in 0..table.partitions {
            let path = DataDir::state_path(&table.stage, partition);
            views.push(StateView::Reader(StateReader::open(store.clone(), &path, &options).await?));
        }
        engine.register(&table.name, table_relation(table, views, &opened.schemas, Arc::new(SystemClock))?);
    }
    Ok(engine)
}

/// A data folder, open to read.
#[derive(Debug)]
pub struct AtRest {
    /// Its paths.
    pub dir: DataDir,
    /// Its schemas.
    pub schemas: Arc<SchemaStore>,
    /// Its streams and tables.
    pub catalog: Catalog,
}

impl AtRest {
    /// Opens `folder`.
    ///
    /// # Errors
    /// It is no data folder, or of a newer version.
    pub fn open(folder: &Path) -> Result<Self> {
        let dir = DataDir::open_read_only(folder)?;
        let schemas = SchemaStore::open_read_only(&dir.schemas())?;
        let catalog = Catalog::load(&dir.catalog())?;
        if catalog.streams.is_empty() && dir.has_logs() {
            let path = dir.catalog();
            return Err(Error::corruption(format!(
                "{} is missing: a start of the pipeline, or `millstream repair`, writes it anew",
                path.display()
            )));
        }
        Ok(Self { dir, schemas, catalog })
    }

    /// The log of one stream.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn log(&self, stream: &str) -> Result<Log> {
        if !self.catalog.streams.iter().any(|s| s.name == stream) {
            let known: Vec<&str> = self.catalog.streams.iter().map(|s| s.name.as_str()).collect();
            return Err(Error::config(format!("no stream `{stream}`; streams: {}", known.join(", "))));
        }
        Log::open_read_only(Arc::new(RealDisk), &self.dir.log(stream), stream)
    }
}

/// The row of `table` with the key that `values` gives by column, as JSON.
pub async fn point_get(
    running: &Running,
    table: &CatalogTable,
    values: &BTreeMap<String, String>,
) -> Result<Option<Vec<u8>>> {
    let spec = table.spec(&running.schemas)?;
    let names: Vec<&String> = spec.key.iter().map(|&k| spec.schema.field(k).name()).collect();
    if values.len() != names.len() || !names.iter().all(|n| values.contains_key(*n)) {
        let wanted: Vec<&str> = names.iter().map(|n| n.as_str()).collect();
        return Err(Error::config(format!("give the key of table {}: ?{}=…", table.name, wanted.join("=…&"))));
    }
    let key: Vec<serde_json::Value> = names.iter().filter_map(|n| values.get(*n).map(|v| v.as_str().into())).collect();
    // Every table is partitioned by its key: rows that are not come to it through an exchange.
    let partition = spec.partition_of(&key, table.partitions)?;
    let state = running.states.get(&(table.stage.as_str().into(), partition));
    let state = state.ok_or_else(|| Error::config(format!("table {} is not open", table.name)))?;
    let reader = TableReader::new(state, spec, running.schemas.clone())?;
    let row = reader.get(&key, running.clock.now_us()).await?;
    row.map(|row| millstream_core::json::lines(&row)).transpose()
}

fn running_views(running: &Running, table: &CatalogTable) -> Option<Vec<StateView>> {
    let view = |partition| running.states.get(&(table.stage.as_str().into(), partition)).cloned().map(StateView::Owned);
    (0..table.partitions).map(view).collect()
}

fn table_relation(
    table: &CatalogTable,
    views: Vec<StateView>,
    schemas: &Arc<SchemaStore>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Relation>> {
    let spec = table.spec(schemas)?;
    let reader = |view| TableReader::new(view, spec.clone(), schemas.clone());
    let readers = views.into_iter().map(reader).collect::<Result<Vec<_>>>()?;
    let schema = readers.first().map_or_else(|| spec.schema.clone(), TableReader::schema);
    Ok(Arc::new(TableRelation { schema, declared: spec.schema, readers, clock }))
}

#[derive(Debug)]
struct TableRelation {
    /// As its rows are read: those of an older pipeline may lack what is declared now.
    schema: SchemaRef,
    /// As the pipeline file has it.
    declared: SchemaRef,
    readers: Vec<TableReader>,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Relation for TableRelation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn declared(&self) -> SchemaRef {
        self.declared.clone()
    }

    async fn scan(
        &self,
        projection: Option<&[usize]>,
        limit: Option<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let now_us = self.clock.now_us();
        let mut scans = Vec::new();
        for reader in &self.readers {
            scans.push(reader.scan(projection.map(<[usize]>::to_vec), limit, now_us).await?);
        }
        let batches = stream::iter(scans).flat_map(|scan| {
            stream::try_unfold(scan, |mut scan| async move { Ok(scan.next().await?.map(|batch| (batch, scan))) })
        });
        Ok(batches.boxed())
    }
}

fn stream_relation(log: &Log, schemas: &Arc<SchemaStore>, schema: &SchemaRef) -> Arc<dyn Relation> {
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("_partition", DataType::Int64, false));
    fields.push(Field::new("_offset", DataType::Int64, false));
    fields.push(Field::new("_ingested_at", timestamp_type(), false));
    Arc::new(StreamRelation {
        log: log.clone(),
        schemas: schemas.clone(),
        rows: schema.clone(),
        schema: Arc::new(Schema::new(fields)),
    })
}

/// A stream with its rows' places: `_partition`, `_offset`, `_ingested_at`.
#[derive(Debug, Clone)]
struct StreamRelation {
    log: Log,
    schemas: Arc<SchemaStore>,
    rows: SchemaRef,
    schema: SchemaRef,
}

#[async_trait]
impl Relation for StreamRelation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    async fn scan(
        &self,
        projection: Option<&[usize]>,
        _limit: Option<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let projection: Option<Arc<[usize]>> = projection.map(Into::into);
        let relation = self.clone();
        let partitions = stream::iter(0..self.log.partitions()).flat_map(move |partition| {
            let (start, end) = (relation.log.start_offset(partition), relation.log.end_offset(partition));
            let (relation, projection) = (relation.clone(), projection.clone());
            let begin = StreamReader::new(&relation.log, &relation.schemas, partition, start);
            let reads = stream::try_unfold(Some(begin), move |reader| {
                let (relation, projection) = (relation.clone(), projection.clone());
                async move {
                    let Some(reader) = reader else { return Ok(None) };
                    let mut reader = reader?;
                    let batches = relation.read(&mut reader, end, projection.as_deref()).await?;
                    Ok(batches.map(|batches| (batches, Some(Ok(reader)))))
                }
            });
            reads
                .map(|batches: Result<Vec<RecordBatch>>| match batches {
                    Ok(batches) => stream::iter(batches.into_iter().map(Ok).collect::<Vec<_>>()),
                    Err(e) => stream::iter(vec![Err(e)]),
                })
                .flatten()
        });
        Ok(partitions.boxed())
    }
}

impl StreamRelation {
    /// The next batches below `end`; none at the end.
    async fn read(
        &self,
        reader: &mut StreamReader,
        end: u64,
        projection: Option<&[usize]>,
    ) -> Result<Option<Vec<RecordBatch>>> {
        if reader.position() >= end {
            return Ok(None);
        }
        let read = reader.read(READ_BYTES).await?;
        let skipped = reader.skipped();
        if skipped > 0 {
            tracing::warn!(
                "a query of `{}` misses {skipped} records: retention removed them while it ran",
                self.log.name()
            );
        }
        let mut batches = Vec::new();
        for mut batch in read.into_iter().take_while(|batch| batch.base_offset < end) {
            batch.batch = batch.batch.slice(0, batch.batch.num_rows().min((end - batch.base_offset) as usize));
            // Redriven rows are for one step only; they were here before.
            if batch.target.is_none() {
                batches.push(self.with_places(batch.conform(&self.rows)?, projection)?);
            }
        }
        Ok(Some(batches))
    }

    fn with_places(&self, batch: StreamBatch, projection: Option<&[usize]>) -> Result<RecordBatch> {
        let rows = batch.batch.num_rows();
        let mut columns: Vec<ArrayRef> = batch.batch.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_value(i64::from(batch.partition), rows)));
        columns
            .push(Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|row| batch.base_offset as i64 + row))));
        let at = batch.append_time_ms.saturating_mul(1000);
        columns.push(Arc::new(TimestampMicrosecondArray::from_value(at, rows).with_timezone("UTC")));
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        Ok(match projection {
            Some(columns) => batch.project(columns)?,
            None => batch,
        })
    }
}
