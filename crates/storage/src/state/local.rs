//! A folder as an object store.

use std::fmt;
use std::ops::Range;
use std::path::Path as FsPath;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use millstream_core::descriptors::are_used_up;
use millstream_core::{Error, Result, ResultExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result as StoreResult, UploadPart,
};
use slatedb_common::retry::NonRetryable;

/// The folder `dir` as an object store; created where it does not exist. What has been written is on the disk, and in
/// its folder, when the write returns.
///
/// # Errors
/// `Environment` where the folder can't be created or opened.
pub fn local_store(dir: &FsPath) -> Result<Arc<dyn ObjectStore>> {
    std::fs::create_dir_all(dir).doing(|| format!("create folder {}", dir.display()))?;
    let files = LocalFileSystem::new_with_prefix(dir)
        .map_err(|e| Error::environment(format!("folder {} can't be used", dir.display())).caused_by(e))?;
    Ok(Arc::new(LocalStore { files: files.with_fsync(true) }))
}

/// Object stores fail for a moment, and the engine asks them again for a long time. A disk that is full or read-only
/// stays so: its errors are marked, so that they come out at once.
#[derive(Debug)]
struct LocalStore {
    files: LocalFileSystem,
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
            object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(NonRetryable(source)) }
        }
        other => other,
    }
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

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.files.put_opts(at, payload, options).await.map_err(firm)
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let upload = self.files.put_multipart_opts(at, options).await.map_err(firm)?;
        Ok(Box::new(LocalUpload(upload)))
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
        self.files.copy_opts(from, to, options).await.map_err(firm)
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> StoreResult<()> {
        self.files.rename_opts(from, to, options).await.map_err(firm)
    }
}

#[derive(Debug)]
struct LocalUpload(Box<dyn MultipartUpload>);

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.0.put_part(data);
        Box::pin(async move { part.await.map_err(firm) })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        self.0.complete().await.map_err(firm)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.0.abort().await
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
