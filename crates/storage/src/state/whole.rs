//! Whether all of a state is there, looked at before the engine reads it.
//!
//! The engine's write-ahead log is a sequence of numbered objects. Where one is missing, the engine takes what is in
//! front of it for all that there is, or stops without saying which file it was; a reader does so in silence.

use futures::TryStreamExt;
use millstream_core::{Error, Result};
use object_store::path::Path;
use slatedb::admin::Admin;

use super::failure::Home;

impl Home {
    /// Compares the objects of the write-ahead log with what the newest manifest still needs.
    ///
    /// # Errors
    /// `Corruption`: one is missing, or all manifests are.
    pub(super) async fn check_whole(&self) -> Result<()> {
        let objects = &self.store.objects;
        let folder = Path::from(format!("{}/wal", self.path));
        let listed = objects.list(Some(&folder)).map_ok(|meta| meta.location).try_collect::<Vec<_>>().await;
        let listed = listed.map_err(|e| Error::environment("the folder can't be listed").caused_by(e))?;
        let mut numbers: Vec<u64> = listed.iter().filter_map(number).collect();
        numbers.sort_unstable();

        let admin = Admin::builder(&*self.path, objects.clone()).with_system_clock(self.store.clock.clone()).build();
        let Some(manifest) = self.started(admin.read_manifest(None), "open").await? else {
            let Some(first) = listed.first() else { return Ok(()) };
            let root = self.store.damage.below(&self.path).map_or_else(String::new, |found| format!(" ({found})"));
            return Err(Error::corruption(format!(
                "open state {}: its manifest is missing{root}, while there is {first}",
                self.path
            ))
            .advise(
                "put the folder back from a backup, or let `millstream repair` build the state anew from its log",
            ));
        };
        let first = manifest.replay_after_wal_id() + 1;
        let needed = numbers.iter().filter(|number| **number >= first);
        match (first..).zip(needed).find(|(expected, found)| expected != *found) {
            None => Ok(()),
            Some((missing, _)) => {
                let object = format!("{}/wal/{missing:020}.sst", self.path);
                let found = self.store.damage.found(&object, "is missing");
                Err(super::failure::damage(&found).context(format!("open state {}", self.path)))
            }
        }
    }
}

/// The number of an object of the write-ahead log.
fn number(object: &Path) -> Option<u64> {
    object.filename()?.strip_suffix(".sst")?.parse().ok()
}
