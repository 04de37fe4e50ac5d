//! Look-ups, writes, and what a crash leaves of them.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::state::{StateOptions, local_store};

async fn open(dir: &std::path::Path, memory: usize) -> KeyedState {
    let options = StateOptions { memtable_bytes: 64 << 10, ..MemoryBudget::new(memory).share(1) };
    let state = State::open(local_store(dir).unwrap(), "s/0", &options).await.unwrap();
    KeyedState::open(state, &Bytes::from("k")).await.unwrap()
}

fn key(i: u32) -> Bytes {
    format!("k{i:04}").into()
}

/// Puts or deletes, and gives what was there.
async fn change(keyed: &KeyedState, changes: &[(u32, Option<u8>)], writes: &mut Writes) -> Vec<Option<u8>> {
    let mut wanted = KeySet::default();
    let slots: Vec<Slot> = changes.iter().map(|(i, _)| wanted.insert(key(*i))).collect();
    let mut tx = keyed.look_up(wanted).await.unwrap();
    let mut before = Vec::new();
    for (slot, (i, value)) in slots.into_iter().zip(changes) {
        assert_eq!(tx.key(slot), &key(*i));
        before.push(tx.get(slot).map(|value| value[0]));
        match value {
            Some(value) => tx.put(slot, vec![*value; 20].into()),
            None => drop(tx.delete(slot)),
        }
    }
    keyed.write(tx, writes);
    before
}

/// Waits until every key has been read.
async fn whole(keyed: &KeyedState) {
    while !keyed.known.is_whole() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_that_is_built_while_keys_come_and_go_knows_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let keyed = open(dir.path(), 1 << 20).await;
    let mut writes = Writes::new();
    let old: Vec<(u32, Option<u8>)> = (0..300).map(|i| (i, Some(1))).collect();
    change(&keyed, &old, &mut writes).await;
    keyed.state().commit(writes).await.unwrap();
    drop(keyed);

    let keyed = open(dir.path(), 1 << 20).await;
    // Not durable while the old keys are read.
    let mut writes = Writes::new();
    change(&keyed, &[(300, Some(2)), (0, None)], &mut writes).await;
    whole(&keyed).await;
    let mut told = Vec::new();
    let fingerprints = (0..400).map(|i| keys::fingerprint(&key(i)));
    keyed.known.may_contain(fingerprints, |may_be| told.push(may_be));
    assert!(told[..=300].iter().all(|may_be| *may_be), "a key that is there is never taken for an absent one");
    assert!(told[301..].iter().filter(|may_be| **may_be).count() < 10, "and absent ones are known");
    keyed.state().commit(writes).await.unwrap();
    let before = change(&keyed, &[(0, None), (1, None), (300, None), (301, None)], &mut Writes::new()).await;
    assert_eq!(before, [None, Some(1), Some(2), None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_of_keys_that_are_gone_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    let keyed = open(dir.path(), 1 << 20).await;
    let mut pending = Writes::new();
    for (i, value) in [(0, Some(1)), (1, Some(1)), (2, Some(1)), (3, Some(1))] {
        change(&keyed, &[(i, value)], &mut pending).await;
    }
    for round in 0..50_u32 {
        let mut writes = Writes::new();
        change(&keyed, &[(100 + round, Some(1))], &mut writes).await;
        change(&keyed, &[(100 + round, None)], &mut writes).await;
        keyed.state().commit(writes).await.unwrap();
    }
    whole(&keyed).await;
    let mut told = Vec::new();
    keyed.known.may_contain((0..150).map(|i| keys::fingerprint(&key(i))), |may_be| told.push(may_be));
    assert!(told[..4].iter().all(|may_be| *may_be), "those that are not durable yet are known");
    assert!(told[100..].iter().filter(|may_be| **may_be).count() < 40, "most that are gone are forgotten");
}

#[derive(Debug, Clone)]
enum Action {
    Change(Vec<(u32, Option<u8>)>),
    Commit,
    /// Waits until the filter is whole, where it can be.
    Settle,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => vec((0_u32..40, option::weighted(0.7, any::<u8>())), 1..20).prop_map(Action::Change),
        4 => Just(Action::Commit),
        1 => Just(Action::Settle),
        2 => Just(Action::Crash),
    ]
}

async fn check_against_map(actions: Vec<Action>, memory: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut keyed = open(dir.path(), memory).await;
    let (mut model, mut durable) = (BTreeMap::new(), BTreeMap::new());
    let (mut writes, mut in_flight) = (Writes::new(), tokio::spawn(async {}));
    for action in actions {
        match action {
            Action::Change(changes) => {
                let before = change(&keyed, &changes, &mut writes).await;
                let expected = changes.iter().map(|(i, value)| match value {
                    Some(value) => model.insert(*i, *value),
                    None => model.remove(i),
                });
                assert_eq!(before, expected.collect::<Vec<_>>());
            }
            Action::Commit => {
                in_flight.await.unwrap();
                let (state, writes) = (keyed.state().clone(), std::mem::take(&mut writes));
                in_flight = tokio::spawn(async move { state.commit(writes).await.unwrap() });
                durable = model.clone();
            }
            Action::Settle if memory > 64 << 10 => whole(&keyed).await,
            Action::Settle => {}
            Action::Crash => {
                in_flight.await.unwrap();
                (writes, in_flight, model) = (Writes::new(), tokio::spawn(async {}), durable.clone());
                keyed = open(dir.path(), memory).await;
            }
        }
    }
    let all: Vec<(u32, Option<u8>)> = (0..40).map(|i| (i, None)).collect();
    let found = change(&keyed, &all, &mut writes).await;
    assert_eq!(found, (0..40).map(|i| model.get(&i).copied()).collect::<Vec<_>>());
    in_flight.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_keyed_state_does_what_a_map_does_also_after_crashes(
        actions in vec(action(), 1..30),
        memory in prop_oneof![Just(0), Just(20 << 10), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check_against_map(actions, memory));
    }
}
