//! What every component is doing: running, waiting (for what, since when), or at its end; and what went wrong last.
//!
//! A component can have several parts (the partitions of a transform, the feeds of a source) that wait each for itself:
//! it waits where one of them does. A change of state is one line in the log, whatever the number of attempts.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// Another reason, or the same for long: said again at most this often.
const SAY_AGAIN_US: i64 = 60_000_000;

/// The part that stands for the whole component before it has done anything.
const UNREACHED: u64 = 0;

/// The kinds of components there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// An entry of `sources`.
    Source,
    /// An entry of `transforms`.
    Transform,
    /// An entry of `tables`.
    Table,
    /// An entry of `sinks`.
    Sink,
}

impl ComponentKind {
    /// As it is written in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transform => "transform",
            Self::Table => "table",
            Self::Sink => "sink",
        }
    }
}

/// The state of all components of a pipeline.
#[derive(Debug, Default)]
pub struct Health {
    components: BTreeMap<(ComponentKind, Arc<str>), ComponentHealth>,
}

impl Health {
    /// All components, starting.
    pub fn new(
        names: impl IntoIterator<Item = (ComponentKind, Arc<str>)>,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let component = |(kind, name): (ComponentKind, Arc<str>)| {
            ((kind, name.clone()), ComponentHealth::new(kind, name, clock.clone(), metrics.clone()))
        };
        Self { components: names.into_iter().map(component).collect() }
    }

    /// The component of that name. One that is not registered gets a state that nobody looks at.
    pub fn of(&self, kind: ComponentKind, name: &Arc<str>, clock: &Arc<dyn Clock>) -> ComponentHealth {
        self.components
            .get(&(kind, name.clone()))
            .cloned()
            .unwrap_or_else(|| ComponentHealth::new(kind, name.clone(), clock.clone(), Arc::new(Metrics::default())))
    }

    /// Everything is open: what does not wait runs.
    pub fn started(&self) {
        self.components.values().for_each(|component| component.set_phase(Phase::Running));
    }

    /// The states of all, in the order of the flow.
    pub fn views(&self) -> Vec<ComponentView> {
        self.components.values().map(ComponentHealth::view).collect()
    }

    /// Those that wait, as a sentence each.
    pub fn waiting(&self) -> Vec<String> {
        let views = self.views();
        let waits = views.iter().filter(|view| view.state == State::Waiting);
        waits.map(|v| format!("{} {} waits: {}", v.kind.as_str(), v.name, v.reason.as_deref().unwrap_or("?"))).collect()
    }
}

/// What a component is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is being opened.
    Starting,
    /// It works, or has nothing to do.
    Running,
    /// It can't go on for now, and tries again.
    Waiting,
    /// A source that is bounded and at its end.
    Finished,
}

impl State {
    /// As it is written in metrics.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Starting, "starting"),
        (Self::Running, "running"),
        (Self::Waiting, "waiting"),
        (Self::Finished, "finished"),
    ];
}

/// The state of one component, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentView {
    /// What it is.
    pub kind: ComponentKind,
    /// Its name in the pipeline file.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Why it waits.
    pub reason: Option<String>,
    /// Since when it waits, microseconds since the epoch.
    pub since_us: Option<i64>,
    /// Attempts that failed since then.
    pub attempt: Option<u64>,
    /// Attempts that failed since the start.
    pub retries: u64,
    /// What went wrong last, and when (microseconds since the epoch).
    pub last_error: Option<LastError>,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// What.
    pub message: String,
    /// When, microseconds since the epoch.
    pub at_us: i64,
}

/// The state of one component; cheap to clone.
#[derive(Debug, Clone)]
pub struct ComponentHealth(Arc<Component>);

#[derive(Debug)]
struct Component {
    kind: ComponentKind,
    name: Arc<str>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    /// Nothing awaits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    phase: Phase,
    /// By part; a part that does not wait is not in it.
    waits: BTreeMap<u64, Wait>,
    parts: u64,
    retries: u64,
    last_error: Option<LastError>,
    said: Option<Said>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Finished,
}

#[derive(Debug)]
struct Wait {
    reason: String,
    since_us: i64,
    attempts: u64,
}

/// What the log was told last.
#[derive(Debug)]
struct Said {
    since_us: i64,
    at_us: i64,
}

impl ComponentHealth {
    fn new(kind: ComponentKind, name: Arc<str>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        let component = Self(Arc::new(Component { kind, name, clock, metrics, inner: Mutex::default() }));
        component.show();
        component
    }

    /// A part that waits for itself.
    pub fn part(&self) -> Part {
        let mut inner = self.0.inner.lock();
        inner.parts += 1;
        Part { id: inner.parts, component: self.clone() }
    }

    /// A bounded source is at its end.
    pub fn finished(&self) {
        self.set_phase(Phase::Finished);
    }

    /// Something went wrong that does not hold it up.
    pub fn error(&self, message: &str) {
        let at_us = self.0.clock.now_us();
        self.0.inner.lock().last_error = Some(LastError { message: message.to_owned(), at_us });
    }

    fn set_phase(&self, phase: Phase) {
        self.0.inner.lock().phase = phase;
        self.show();
    }

    /// What it connects to was looked at before it did anything, and is not there. It waits until it gets on, finds out
    /// itself what is wrong, or [`ComponentHealth::reached`].
    pub fn unreached(&self, reason: &str) {
        self.wait(UNREACHED, reason);
    }

    /// What it connects to has been looked at again, and is there.
    pub fn reached(&self) {
        self.work(UNREACHED);
    }

    /// True from [`ComponentHealth::unreached`] on, until it gets on.
    pub fn is_unreached(&self) -> bool {
        self.0.inner.lock().waits.contains_key(&UNREACHED)
    }

    /// Its state now.
    pub fn view(&self) -> ComponentView {
        let inner = self.0.inner.lock();
        let wait = inner.waits.values().min_by_key(|wait| wait.since_us);
        let state = match (wait, inner.phase) {
            (Some(_), _) => State::Waiting,
            (None, Phase::Starting) => State::Starting,
            (None, Phase::Running) => State::Running,
            (None, Phase::Finished) => State::Finished,
        };
        ComponentView {
            kind: self.0.kind,
            name: self.0.name.to_string(),
            state,
            reason: wait.map(|w| w.reason.clone()),
            since_us: wait.map(|w| w.since_us),
            attempt: wait.map(|w| w.attempts),
            retries: inner.retries,
            last_error: inner.last_error.clone(),
        }
    }

    fn wait(&self, part: u64, reason: &str) {
        let now_us = self.0.clock.now_us();
        let mut inner = self.0.inner.lock();
        let before = if part == UNREACHED { None } else { inner.waits.remove(&UNREACHED) };
        let since_us = before.map_or(now_us, |wait| wait.since_us);
        let wait = inner.waits.entry(part).or_insert(Wait { reason: String::new(), since_us, attempts: 0 });
        wait.attempts += 1;
        reason.clone_into(&mut wait.reason);
        inner.retries += 1;
        inner.last_error = Some(LastError { message: reason.to_owned(), at_us: now_us });
        let since_us = inner.waits.values().map(|w| w.since_us).min().unwrap_or(now_us);
        let attempts = inner.waits.get(&part).map_or(0, |w| w.attempts);
        let say = inner.said.as_ref().is_none_or(|said| now_us.saturating_sub(said.at_us) >= SAY_AGAIN_US);
        let first = inner.said.is_none();
        if say {
            inner.said = Some(Said { since_us, at_us: now_us });
        }
        drop(inner);
        self.0.metrics.retried(self.0.kind, &self.0.name);
        let (kind, name) = (self.0.kind.as_str(), &self.0.name);
        if say && first {
            tracing::warn!("{kind} {name} waits: {reason}");
        } else if say {
            let since = lasted(now_us - since_us);
            tracing::warn!("{kind} {name} still waits, since {since}, attempt {attempts}: {reason}");
        } else {
            tracing::debug!("{kind} {name} waits, attempt {attempts}: {reason}");
        }
        self.show();
    }

    fn work(&self, part: u64) {
        let now_us = self.0.clock.now_us();
        let mut inner = self.0.inner.lock();
        let waited = inner.waits.remove(&part).is_some();
        if inner.waits.remove(&UNREACHED).is_none() && !waited {
            return;
        }
        let over = if inner.waits.is_empty() { inner.said.take() } else { None };
        drop(inner);
        if let Some(said) = over {
            let (kind, name, waited) = (self.0.kind.as_str(), &self.0.name, lasted(now_us - said.since_us));
            tracing::info!("{kind} {name} goes on after {waited}");
        }
        self.show();
    }

    /// A part is gone: what it waited for is of no interest any more, and it did not get on.
    fn forget(&self, part: u64) {
        let mut inner = self.0.inner.lock();
        let waited = inner.waits.remove(&part).is_some();
        if inner.waits.is_empty() {
            inner.said = None;
        }
        drop(inner);
        if waited {
            self.show();
        }
    }

    fn show(&self) {
        self.0.metrics.state(self.0.kind, &self.0.name, self.view().state);
    }
}

/// One part of a component. Dropped, it does not wait any more; that it got on is said by [`Part::works`] alone.
#[derive(Debug)]
pub struct Part {
    component: ComponentHealth,
    id: u64,
}

impl Part {
    /// An attempt failed for `reason`; there will be another.
    pub fn waits(&self, reason: &str) {
        self.component.wait(self.id, reason);
    }

    /// It got on.
    pub fn works(&self) {
        self.component.work(self.id);
    }

    /// The component that it is a part of.
    pub fn component(&self) -> &ComponentHealth {
        &self.component
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.component.forget(self.id);
    }
}

/// A time in words: `45 s`, `3 m`, `2 h`.
pub fn lasted(us: i64) -> String {
    let seconds = (us / 1_000_000).max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::ManualClock;

    use super::*;

    fn component() -> (ComponentHealth, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let health = Health::new(
            [(ComponentKind::Sink, "queue".into())],
            &(clock.clone() as Arc<dyn Clock>),
            &Arc::new(Metrics::default()),
        );
        health.started();
        let component = health.of(ComponentKind::Sink, &"queue".into(), &(clock.clone() as Arc<dyn Clock>));
        (component, clock)
    }

    #[test]
    fn a_component_waits_from_the_first_failure_until_it_gets_on() {
        let (component, clock) = component();
        let part = component.part();
        assert_eq!(component.view().state, State::Running);
        part.waits("connection refused");
        clock.advance_us(4_000_000);
        part.waits("connection refused");
        let view = component.view();
        assert_eq!((view.state, view.since_us, view.attempt), (State::Waiting, Some(1_000_000), Some(2)));
        assert_eq!(view.reason.as_deref(), Some("connection refused"));
        part.works();
        let view = component.view();
        assert_eq!((view.state, view.reason, view.attempt, view.retries), (State::Running, None, None, 2));
        assert_eq!(view.last_error.map(|e| e.at_us), Some(5_000_000), "what went wrong stays to be seen");
    }

    #[test]
    fn it_waits_as_long_as_one_of_its_parts_does() {
        let (component, _) = component();
        let (a, b) = (component.part(), component.part());
        a.waits("one");
        b.waits("two");
        a.works();
        assert_eq!(component.view().reason.as_deref(), Some("two"));
        drop(b);
        assert_eq!(component.view().state, State::Running, "a part that is gone does not wait");
    }

    #[test]
    fn what_was_not_reached_at_the_start_waits_until_it_gets_on_or_is_looked_at_again() {
        let (component, _) = component();
        component.unreached("connection refused");
        assert_eq!(component.view().state, State::Waiting);
        component.reached();
        assert_eq!(component.view().state, State::Running);
        component.unreached("connection refused");
        component.part().works();
        assert_eq!(component.view().state, State::Running);
        component.unreached("connection refused");
        let part = component.part();
        part.waits("access refused");
        assert_eq!(component.view().reason.as_deref(), Some("access refused"), "it knows better itself");
        assert!(!component.is_unreached());
    }

    #[test]
    fn a_part_that_is_dropped_does_not_vouch_for_what_was_not_reached() {
        let (component, _) = component();
        component.unreached("connection refused");
        drop(component.part());
        assert_eq!(component.view().state, State::Waiting, "nothing has shown that it is there");
    }

    #[test]
    fn times_are_said_in_one_unit() {
        let said = [0, 59, 60, 3_599, 3_600, 172_800].map(|seconds| lasted(seconds * 1_000_000));
        assert_eq!(said, ["0 s", "59 s", "1 m", "59 m", "1 h", "2 d"]);
    }
}
