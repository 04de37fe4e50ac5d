//! A folder as an object store that notices what happens to its files.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use millstream_core::descriptors::{self, are_used_up};
use millstream_core::disk::create_private_dir_all;
use millstream_core::{Error, Result, ResultExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result as StoreResult, UploadPart,
};
use slatedb_common::retry::NonRetryable;
use xxhash_rust::xxh3::Xxh3;

use super::clock::StateClock;
use super::closed::Closed;
use super::damage::{Damage, Damaged};
use super::open_files::{OpenFiles, SealedFile, Stamp};
use super::parts::{Parts, Unread, read_from_disk, read_from_memory, read_seal};
use super::seal::Seal;

/// A place that keeps states.
#[derive(Debug, Clone)]
pub struct StateStore {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) clock: Arc<StateClock>,
    pub(super) damage: Arc<Damage>,
}

/// The folder `dir` as a place for states; created where it does not exist. What has been written is on the disk, and
/// in its folder, when the write returns. One process at a time may write.
///
/// # Errors
/// `Environment` where the folder can't be created or opened.
pub fn local_store(dir: &FsPath) -> Result<StateStore> {
    store_with(dir, StateClock::new())
}

pub(super) fn store_with(dir: &FsPath, clock: Arc<StateClock>) -> Result<StateStore> {
    create_private_dir_all(dir).doing(|| format!("create folder {}", dir.display()))?;
    let files = LocalFileSystem::new_with_prefix(dir)
        .map_err(|e| Error::environment(format!("folder {} can't be used", dir.display())).caused_by(e))?;
    let root = dir.canonicalize().doing(|| format!("find folder {}", dir.display()))?;
    let (damage, closed) = (Arc::new(Damage::new(dir)), Arc::new(Closed::new(root)));
    let updates = tokio::sync::Mutex::default();
    let files = files.with_fsync(true);
    let open = Arc::new(OpenFiles::new(descriptors::shares().states));
    let store = LocalStore { files, open, closed, clock: clock.clone(), damage: damage.clone(), updates };
    Ok(StateStore { objects: Arc::new(store), clock, damage })
}

impl StateStore {
    /// The first file below `path` whose bytes are not those that were written, with what is wrong with it; all of them
    /// are read.
    pub(super) async fn find_damage(&self, path: &str) -> Option<Damaged> {
        let listed = self.objects.list(Some(&Path::from(path))).map_ok(|meta| meta.location);
        let Ok(mut all) = listed.try_collect::<Vec<_>>().await else { return None };
        all.sort();
        for object in all {
            let read = match self.objects.get(&object).await {
                Ok(got) => got.bytes().await.map(drop),
                Err(e) => Err(e),
            };
            if read.is_err()
                && let Some(found) = self.damage.of(object.as_ref())
            {
                return Some(found);
            }
        }
        None
    }
}

/// A folder. Each file is an object with its [`Seal`] behind it.
///
/// * A read of a whole object compares all of its bytes with the seal, a read of a part its length: a file that was cut
///   off, emptied, grown or written over is an error, and what was found is kept in [`Damage`], because errors lose
///   their way through the engine.
/// * Files that are read in parts stay open ([`OpenFiles`]), and a small part that the system has in memory is read at
///   once: to hand that to another thread costs more than to do it.
/// * The time of an object is that of its seal, by the clock that the engine compares it with.
/// * Conditional writes, which the folder of the library does not have, are done one at a time.
/// * Object stores fail for a moment, and the engine asks them again for a long time. A disk that is full or read-only
///   stays so: its errors are marked, so that they come out at once.
/// * What it writes is made its owner's alone. The folder that it is in is so from the beginning, so nobody looks into
///   a file before that.
#[derive(Debug)]
struct LocalStore {
    files: LocalFileSystem,
    open: Arc<OpenFiles>,
    closed: Arc<Closed>,
    clock: Arc<StateClock>,
    damage: Arc<Damage>,
    /// Held during a conditional write.
    updates: tokio::sync::Mutex<()>,
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

fn firm(e: object_store::Error) -> object_store::Error {
    match e {
        // Somebody closes a file sooner or later: to ask again helps.
        object_store::Error::Generic { source, .. } if lacks_descriptor(&*source) => {
            object_store::Error::Generic { store: "LocalFileSystem", source }
        }
        object_store::Error::Generic { store, source } => {
            object_store::Error::Generic { store, source: Box::new(NonRetryable(source)) }
        }
        object_store::Error::PermissionDenied { source, .. } | object_store::Error::Unauthenticated { source, .. } => {
            generic(source)
        }
        other => other,
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(NonRetryable(source)) }
}

/// True where no file descriptor was left.
fn lacks_descriptor(e: &(dyn std::error::Error + 'static)) -> bool {
    let mut at = Some(e);
    while let Some(e) = at {
        if e.downcast_ref::<std::io::Error>().is_some_and(are_used_up) {
            return true;
        }
        at = e.source();
    }
    false
}

impl LocalStore {
    /// The error of a file that is not what was written, which is kept.
    fn damaged(&self, at: &Path, what: &'static str) -> object_store::Error {
        generic(Box::new(self.damage.found(at.as_ref(), what)))
    }

    fn missing(&self, at: &Path, e: object_store::Error) -> object_store::Error {
        if matches!(e, object_store::Error::NotFound { .. }) {
            self.damage.missing(at.as_ref());
        }
        firm(e)
    }

    /// Reads parts of an object, or all of it. A part of a file that is open takes no other thread where the system has
    /// it in memory, and one turn of one where it has not.
    async fn read(&self, at: &Path, options: GetOptions, parts: Parts) -> StoreResult<(ObjectMeta, Vec<Bytes>)> {
        let stays_open = parts.are_some() && is_unconditional(&options);
        let Some(file) = stays_open.then(|| self.open.get(at)).flatten() else {
            let (file, parts) = self.open_and_read(at, options, parts).await?;
            let meta = file.meta.clone();
            if stays_open {
                self.open.insert(at.clone(), Arc::new(file));
            }
            return Ok((meta, parts));
        };
        let meta = file.meta.clone();
        match parts.read(&file.file, &file.seal, read_from_memory) {
            Err(Unread::Io(_)) => {}
            read => return Ok((meta, read.map_err(|e| self.unread(at, e))?)),
        }
        let read = tokio::task::spawn_blocking(move || parts.read(&file.file, &file.seal, read_from_disk)).await;
        Ok((meta, read.map_err(|e| generic(Box::new(e)))?.map_err(|e| self.unread(at, e))?))
    }

    /// The same of a file that is not open yet.
    async fn open_and_read(
        &self,
        at: &Path,
        options: GetOptions,
        parts: Parts,
    ) -> StoreResult<(SealedFile, Vec<Bytes>)> {
        let got = self.files.get_opts(at, options).await.map_err(|e| self.missing(at, e))?;
        let GetResultPayload::File(file, _) = got.payload else {
            return Err(generic("the folder gives no file".into()));
        };
        let mut meta = got.meta;
        let read = move || {
            let stamp = Stamp::of(&file)?;
            let seal = read_seal(&file, stamp.bytes)?;
            let parts = parts.read(&file, &seal, read_from_disk)?;
            described(&mut meta, &seal);
            Ok((SealedFile { file, seal, meta, stamp }, parts))
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|e| generic(Box::new(e)))?;
        let (file, parts) = read.map_err(|e| self.unread(at, e))?;
        self.clock.observe(file.seal.written_ms);
        Ok((file, parts))
    }

    fn unread(&self, at: &Path, e: Unread) -> object_store::Error {
        match e {
            Unread::Damaged(what) => self.damaged(at, what),
            Unread::Range(source) => object_store::Error::Generic { store: "LocalFileSystem", source },
            Unread::Io(e) => firm(object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(e) }),
        }
    }

    /// What a list says of files: sizes of objects, times of the state's clock.
    async fn describe(&self, metas: Vec<ObjectMeta>) -> StoreResult<Vec<ObjectMeta>> {
        let mut paths = Vec::with_capacity(metas.len());
        for meta in &metas {
            paths.push(self.files.path_to_filesystem(&meta.location)?);
        }
        let (clock, damage) = (self.clock.clone(), self.damage.clone());
        let described = tokio::task::spawn_blocking(move || {
            let files = metas.into_iter().zip(paths);
            files.filter_map(|(meta, path)| describe_one(meta, path, &clock, &damage)).collect()
        });
        described.await.map_err(|e| generic(Box::new(e)))
    }
}

/// True where the object is asked for whatever it is.
fn is_unconditional(options: &GetOptions) -> bool {
    let GetOptions { if_match, if_none_match, if_modified_since, if_unmodified_since, version, .. } = options;
    let tags = [if_match, if_none_match, version];
    tags.iter().all(|tag| tag.is_none()) && if_modified_since.is_none() && if_unmodified_since.is_none()
}

fn described(meta: &mut ObjectMeta, seal: &Seal) {
    meta.size = seal.length;
    meta.last_modified = DateTime::from_timestamp_millis(seal.written_ms).unwrap_or(meta.last_modified);
}

/// None where the file has gone meanwhile. One whose seal can't be read is listed as it is, and as written now, so that
/// it is neither taken for an empty one nor removed as an old one before somebody has read it.
fn describe_one(mut meta: ObjectMeta, path: PathBuf, clock: &StateClock, damage: &Damage) -> Option<ObjectMeta> {
    let sealed = File::open(path).map_err(Unread::Io).and_then(|file| read_seal(&file, meta.size));
    match sealed {
        Ok(seal) => described(&mut meta, &seal),
        Err(Unread::Io(e)) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(unread) => {
            if let Unread::Damaged(what) = unread {
                damage.found(meta.location.as_ref(), what);
            }
            meta.size = meta.size.max(1);
            meta.last_modified = DateTime::from_timestamp_millis(clock.now_ms()).unwrap_or(meta.last_modified);
        }
    }
    Some(meta)
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, mut options: PutOptions) -> StoreResult<PutResult> {
        let mut hash = Xxh3::new();
        payload.iter().for_each(|piece| hash.update(piece));
        let seal = Seal::of(&hash, payload.content_length() as u64, self.clock.now_ms()).encode();
        let payload: PutPayload = payload.iter().cloned().chain([seal]).collect();
        let PutMode::Update(version) = &options.mode else {
            let put = self.files.put_opts(at, payload, options).await.map_err(firm)?;
            self.closed.close(&self.files, at);
            return Ok(put);
        };
        let _one_at_a_time = self.updates.lock().await;
        let changed = |why: &str| object_store::Error::Precondition { path: at.to_string(), source: why.into() };
        match self.files.head(at).await {
            Ok(now) if now.e_tag == version.e_tag => {}
            Ok(_) => return Err(changed("it was written meanwhile")),
            Err(object_store::Error::NotFound { .. }) => return Err(changed("it is not there any more")),
            Err(e) => return Err(firm(e)),
        }
        options.mode = PutMode::Overwrite;
        let put = self.files.put_opts(at, payload, options).await.map_err(firm)?;
        self.closed.close(&self.files, at);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let upload = self.files.put_multipart_opts(at, options).await.map_err(firm)?;
        let (files, closed, clock) = (self.files.clone(), self.closed.clone(), self.clock.clone());
        Ok(Box::new(LocalUpload { upload, files, closed, at: at.clone(), clock, hash: Xxh3::new(), length: 0 }))
    }

    async fn get_opts(&self, at: &Path, mut options: GetOptions) -> StoreResult<GetResult> {
        let parts = if options.head { Parts::Head } else { Parts::One(options.range.take()) };
        options.range = None;
        let asked = if let Parts::One(range) = &parts { range.clone() } else { None };
        let (meta, mut bytes) = self.read(at, options, parts).await?;
        let range = match &asked {
            Some(range) => range.as_range(meta.size).map_err(|e| generic(Box::new(e)))?,
            None => 0..meta.size,
        };
        let bytes = bytes.pop().unwrap_or_default();
        let payload = GetResultPayload::Stream(stream::once(std::future::ready(Ok(bytes))).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default(), extensions: Default::default() })
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        Ok(self.read(at, GetOptions::default(), Parts::Many(ranges.to_vec())).await?.1)
    }

    fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        let open = self.open.clone();
        let closed = move |removed: StoreResult<Path>| removed.inspect(|at| open.forget(at)).map_err(firm);
        self.files.delete_stream(paths).map(closed).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        described_later(self, self.files.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        described_later(self, self.files.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let mut listed = self.files.list_with_delimiter(prefix).await.map_err(firm)?;
        listed.objects = self.describe(listed.objects).await?;
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.files.copy_opts(from, to, options).await.map_err(firm)?;
        self.closed.close(&self.files, to);
        Ok(())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.files.rename_opts(from, to, options).await.map_err(firm)?;
        self.closed.close(&self.files, to);
        Ok(())
    }
}

/// Files of one list that are described in one go.
const DESCRIBED_AT_ONCE: usize = 256;

fn described_later(
    store: &LocalStore,
    listed: BoxStream<'static, StoreResult<ObjectMeta>>,
) -> BoxStream<'static, StoreResult<ObjectMeta>> {
    let (files, open, closed) = (store.files.clone(), store.open.clone(), store.closed.clone());
    let (clock, damage) = (store.clock.clone(), store.damage.clone());
    let store = Arc::new(LocalStore { files, open, closed, clock, damage, updates: Default::default() });
    let some = listed.map(|r| r.map_err(firm)).try_chunks(DESCRIBED_AT_ONCE).map_err(|e| e.1);
    let described = some.and_then(move |metas| {
        let store = store.clone();
        async move { store.describe(metas).await }
    });
    described.map_ok(|metas| stream::iter(metas.into_iter().map(Ok))).try_flatten().boxed()
}

/// An object that comes in parts, which are handed over in their order.
struct LocalUpload {
    upload: Box<dyn MultipartUpload>,
    files: LocalFileSystem,
    closed: Arc<Closed>,
    at: Path,
    clock: Arc<StateClock>,
    hash: Xxh3,
    length: u64,
}

impl fmt::Debug for LocalUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalUpload").field("length", &self.length).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.length += data.content_length() as u64;
        data.iter().for_each(|piece| self.hash.update(piece));
        let part = self.upload.put_part(data);
        Box::pin(async move { part.await.map_err(firm) })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let seal = Seal::of(&self.hash, self.length, self.clock.now_ms()).encode();
        self.upload.put_part(seal.into()).await.map_err(firm)?;
        let put = self.upload.complete().await.map_err(firm)?;
        self.closed.close(&self.files, &self.at);
        Ok(put)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_no_descriptor_is_left_is_asked_again_and_a_full_disk_is_not() {
        let failed = |code| {
            let source = Box::new(std::io::Error::from_raw_os_error(code));
            match firm(object_store::Error::Generic { store: "LocalFileSystem", source }) {
                object_store::Error::Generic { source, .. } => source.is::<NonRetryable>(),
                _ => false,
            }
        };
        // EMFILE, ENFILE, ENOSPC.
        assert_eq!([24, 23, 28].map(failed), [false, false, true]);
    }
}
