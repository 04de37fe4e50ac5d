//! A look at everything that a pipeline connects to, before it says that it runs.
//!
//! What a person has to mend (a path that is not there, a password that is refused) ends the start, all of it at once.
//! What passes by itself (a broker that is down) is waited for, and said.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt, stream};
use millstream_connectors::Depth;
use millstream_core::{Clock, Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use crate::health::{ComponentKind, Health};
use crate::spec::Pipeline;

/// How often a sink that was not there is looked at again, as long as it has nothing to deliver.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Components that are looked at side by side.
const AT_ONCE: usize = 16;

/// What a look at one component found.
#[derive(Debug)]
pub struct Looked<K = ComponentKind> {
    /// What it is.
    pub kind: K,
    /// Its name.
    pub name: Arc<str>,
    /// What was found, in a few words; or what is wrong.
    pub found: Result<String>,
}

/// Looks at all sources and sinks, several at once; in the order of the file.
pub async fn look_at_all(pipeline: &Pipeline, depth: Depth, sources: bool) -> Vec<Looked> {
    let sources = pipeline.sources.iter().filter(|_| sources).map(|source| -> BoxFuture<'_, Looked> {
        let name = source.name.clone();
        let looked = |found| Looked { kind: ComponentKind::Source, name, found };
        source.connector.look(depth).map(looked).boxed()
    });
    let sinks = pipeline.sinks.iter().map(|sink| -> BoxFuture<'_, Looked> {
        let name = sink.name.clone();
        let looked = |found| Looked { kind: ComponentKind::Sink, name, found };
        sink.connector.look().map(looked).boxed()
    });
    stream::iter(sources.chain(sinks)).buffered(AT_ONCE).collect().await
}

/// Looks at the endpoints of models that run elsewhere. Not before a start: records wait for a model, and a model that
/// no record asks holds nobody up.
pub async fn look_at_models(pipeline: &Pipeline) -> Vec<Looked<&'static str>> {
    let looks = pipeline.models.iter().map(|model| async move {
        let found = model.config.probe().await.transpose()?;
        Some(Looked { kind: "model", name: model.name.clone(), found })
    });
    stream::iter(looks).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// The look before a start.
///
/// # Errors
/// What has to be mended; of several, all.
pub async fn look(pipeline: &Pipeline, health: &Health, clock: &Arc<dyn Clock>, sources: bool) -> Result<()> {
    let mut wrong = Vec::new();
    for Looked { kind, name, found } in look_at_all(pipeline, Depth::Quick, sources).await {
        match found {
            Ok(_) => {}
            Err(e) if e.is_retry() => health.of(kind, &name, clock).unreached(&e.to_string()),
            Err(e) => wrong.push((e.kind(), format!("{} {name}: {e}", kind.as_str()))),
        }
    }
    let Some((kind, _)) = wrong.first() else { return Ok(()) };
    let kind = if wrong.iter().any(|(kind, _)| *kind == ErrorKind::Config) { ErrorKind::Config } else { *kind };
    let messages: Vec<String> = wrong.into_iter().map(|(_, message)| message).collect();
    Err(Error::new(kind, messages.join("; ")))
}

/// Looks again at sinks that were not there and have nothing to deliver, until they are. Ends with `stop`.
pub async fn look_again(pipeline: Arc<Pipeline>, health: Arc<Health>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        let component = |name| health.of(ComponentKind::Sink, name, &clock);
        let away: Vec<_> = pipeline.sinks.iter().filter(|sink| component(&sink.name).is_unreached()).collect();
        if away.is_empty() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        let looks = away.iter().map(|sink| sink.connector.look());
        for (sink, found) in away.iter().zip(join_all(looks).await) {
            let component = component(&sink.name);
            match found {
                _ if !component.is_unreached() => {}
                Ok(_) => component.reached(),
                Err(e) => component.unreached(&e.to_string()),
            }
        }
    }
}
