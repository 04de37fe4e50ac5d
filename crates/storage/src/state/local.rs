//! A folder as an object store.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use millstream_core::disk::{create_private_dir_all, make_private};
use millstream_core::{Error, Result, ResultExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult, UploadPart,
};
use parking_lot::Mutex;
use slatedb_common::retry::NonRetryable;

/// The folder `dir` as an object store; created where it does not exist. What has been written is on the disk, and in
/// its folder, when the write returns.
///
/// # Errors
/// `Environment` where the folder can't be created or opened.
pub fn local_store(dir: &FsPath) -> Result<Arc<dyn ObjectStore>> {
    create_private_dir_all(dir).doing(|| format!("create folder {}", dir.display()))?;
    let files = LocalFileSystem::new_with_prefix(dir)
        .map_err(|e| Error::environment(format!("folder {} can't be used", dir.display())).caused_by(e))?;
    let root = dir.canonicalize().doing(|| format!("find folder {}", dir.display()))?;
    Ok(Arc::new(LocalStore {
        files: files.with_fsync(true),
        closed: Arc::new(Closed { root, known: Mutex::default() }),
    }))
}

/// Object stores fail for a moment, and the engine asks them again for a long time. A disk that is full or read-only
/// stays so: its errors are marked, so that they come out at once.
///
/// What it writes is made its owner's alone. The folder that it is in is so from the beginning, so nobody looks into a file
/// before that.
#[derive(Debug)]
struct LocalStore {
    files: LocalFileSystem,
    closed: Arc<Closed>,
}

/// Takes from what is written what others may do with it.
#[derive(Debug)]
struct Closed {
    root: PathBuf,
    /// Folders that are their owner's alone already. Nothing awaits while it is held.
    known: Mutex<HashSet<PathBuf>>,
}

impl Closed {
    /// What was written at `at`, and its folders. A file system without modes refuses that: it was said at the start.
    fn close(&self, files: &LocalFileSystem, at: &Path) {
        let Ok(path) = files.path_to_filesystem(at) else { return };
        let _ = make_private(&path);
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            if !self.known.lock().insert(folder.to_owned()) {
                break;
            }
            let _ = make_private(folder);
        }
    }
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

fn firm(e: object_store::Error) -> object_store::Error {
    match e {
        object_store::Error::Generic { store, source } => {
            object_store::Error::Generic { store, source: Box::new(NonRetryable(source)) }
        }
        object_store::Error::PermissionDenied { source, .. } | object_store::Error::Unauthenticated { source, .. } => {
            object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(NonRetryable(source)) }
        }
        other => other,
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
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
        Ok(Box::new(LocalUpload { upload, files: self.files.clone(), closed: self.closed.clone(), at: at.clone() }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.files.get_opts(at, options).await.map_err(firm)
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.files.get_ranges(at, ranges).await.map_err(firm)
    }

    fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.files.delete_stream(paths).map(|r| r.map_err(firm)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.files.list(prefix).map(|r| r.map_err(firm)).boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset).map(|r| r.map_err(firm)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.files.list_with_delimiter(prefix).await.map_err(firm)
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

#[derive(Debug)]
struct LocalUpload {
    upload: Box<dyn MultipartUpload>,
    files: LocalFileSystem,
    closed: Arc<Closed>,
    at: Path,
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.upload.put_part(data);
        Box::pin(async move { part.await.map_err(firm) })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let put = self.upload.complete().await.map_err(firm)?;
        self.closed.close(&self.files, &self.at);
        Ok(put)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.upload.abort().await
    }
}
