//! Reading all of a state at rest, to say what is damaged in it.

use futures::TryStreamExt;
use millstream_core::{ErrorKind, Result};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use super::failure::{Home, in_disk_words};
use super::local::StateStore;
use super::{StateOptions, StateReader};

impl StateStore {
    /// Everything that is damaged of the state at `path`, which nobody has open: a few words for each file, with its
    /// name. Every byte is read, nothing is changed. Where there is no state, nothing is damaged.
    ///
    /// # Errors
    /// The files can't be read, or are of a newer version.
    pub async fn find_all_damage(&self, path: &str) -> Result<Vec<String>> {
        let unreadable = |e| in_disk_words(&e, path);
        self.damage.forget(path);
        let listed = self.objects.list(Some(&Path::from(path))).map_ok(|meta| meta.location);
        let mut objects = listed.try_collect::<Vec<_>>().await.map_err(unreadable)?;
        objects.sort();
        let mut found = Vec::new();
        for object in &objects {
            let read = match self.objects.get(object).await {
                Ok(got) => got.bytes().await.map(drop),
                Err(e) => Err(e),
            };
            if let Err(e) = read {
                let damaged = self.damage.of(object.as_ref()).ok_or_else(|| unreadable(e))?;
                found.push(damaged.to_string());
            }
        }
        if found.is_empty() && !objects.is_empty() {
            // Each file is what was written: now whether they are all there, and belong together.
            match self.read_through(path).await {
                Err(e) if e.kind() == ErrorKind::Corruption => found.push(e.message().to_owned()),
                read => read?,
            }
        }
        Ok(found)
    }

    async fn read_through(&self, path: &str) -> Result<()> {
        Home::new(self.clone(), path).check_whole().await?;
        let reader = StateReader::open(self.clone(), path, &StateOptions::default()).await?;
        let mut scan = reader.scan(..).await?;
        while scan.next().await?.is_some() {}
        reader.close().await
    }
}
