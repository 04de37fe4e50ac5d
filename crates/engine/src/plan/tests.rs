//! Plans of small pipelines, as text: what streams there are, what each stage evaluates in which order, and where its
//! rows go.

mod written;

use written::pipeline;

#[test]
fn what_follows_a_source_is_one_stage() {
    pipeline().source("wire", "id n", "id", 2).sql("a", "SELECT id, n FROM wire").sql("b", "SELECT * FROM a").plans(
        "
source wire id,n /2 by id

stage wire /2
  a = sql(wire)
  b = sql(a)
",
    );
}

#[test]
fn a_stage_evaluates_everything_that_fans_out_from_its_input_once() {
    let forks = pipeline()
        .source("wire", "id n", "id", 2)
        .sql("even", "SELECT * FROM wire WHERE n % 2 = 0")
        .sql("odd", "SELECT * FROM wire WHERE n % 2 = 1")
        .predict("scored", "odd");
    forks.sink("out", "scored even").plans(
        "
source wire id,n /2 by id
transform even id,n /2
transform scored id,n,score /2

stage wire /2
  even = sql(wire)
  odd = sql(wire)
  scored = predict(odd)
  even > even for out
  scored > scored for out
",
    );
}

#[test]
fn branches_meet_in_one_operator_or_table_and_a_union_names_each_of_its_inputs() {
    let branches = pipeline()
        .source("wire", "id n", "id", 1)
        .sql("low", "SELECT * FROM wire WHERE n < 5")
        .sql("high", "SELECT * FROM wire WHERE n >= 5")
        .sql("both", "SELECT * FROM low UNION ALL SELECT * FROM high");
    branches.table("latest", "low high", "id", 1).table("united", "both", "id", 1).plans(
        "
source wire id,n /1 by id
exchange latest.input id,n /1 by id
exchange united.input id,n /1 by id
changes latest.changes op,ts,key,old,new /1
changes united.changes op,ts,key,old,new /1

stage wire /1
  low = sql(wire)
  high = sql(wire)
  both = sql(high, low)
  low + high > latest.input for table latest
  both > united.input for table united

stage latest.input /1
  latest.input > table latest by id > latest.changes

stage united.input /1
  united.input > table united by id > united.changes
",
    );
}

#[test]
fn sources_that_meet_in_a_transform_are_each_evaluated_by_a_stage_of_their_own() {
    let two = pipeline().source("a", "id n", "id", 2).source("b", "id n", "id", 3);
    two.sql("both", "SELECT * FROM a UNION ALL SELECT * FROM b").table("t", "both", "id", 3).sink("out", "both").plans(
        "
source a id,n /2 by id
source b id,n /3 by id
transform both id,n /2
exchange t.input id,n /3 by id
changes t.changes op,ts,key,old,new /3

stage a /2
  both = sql(a)
  both > both for out
  both > t.input for table t

stage b /3
  both = sql(b)
  both > both for out
  both > t.input for table t

stage t.input /3
  t.input > table t by id > t.changes
",
    );
}

#[test]
fn a_table_with_the_key_and_partitions_of_its_input_lives_with_it() {
    let renamed = pipeline().source("wire", "id n", "id", 4).sql("kept", "SELECT n, id AS name FROM wire");
    renamed.table("items", "kept", "name", 4).plans(
        "
source wire id,n /4 by id
changes items.changes op,ts,key,old,new /4

stage wire /4
  kept = sql(wire)
  kept > table items by name > items.changes
",
    );
}

#[test]
fn a_table_with_another_key_or_other_partitions_or_a_computed_key_is_behind_an_exchange() {
    let computed = pipeline().source("wire", "id n", "id", 4).sql("computed", "SELECT id + 1 AS id, n FROM wire");
    let tables =
        computed.table("other", "wire", "n", 4).table("wider", "wire", "id", 8).table("next", "computed", "id", 4);
    tables.plans(
        "
source wire id,n /4 by id
exchange other.input id,n /4 by n
exchange wider.input id,n /8 by id
exchange next.input id,n /4 by id
changes other.changes op,ts,key,old,new /4
changes wider.changes op,ts,key,old,new /8
changes next.changes op,ts,key,old,new /4

stage wire /4
  computed = sql(wire)
  wire > other.input for table other
  wire > wider.input for table wider
  computed > next.input for table next

stage other.input /4
  other.input > table other by n > other.changes

stage wider.input /8
  wider.input > table wider by id > wider.changes

stage next.input /4
  next.input > table next by id > next.changes
",
    );
}

#[test]
fn a_table_lives_with_one_partition_and_not_with_several_that_take_rows_in_turn() {
    let one = pipeline().source("wire", "id n", "", 1).table("items", "wire", "n", 1);
    one.plans(
        "
source wire id,n /1
changes items.changes op,ts,key,old,new /1

stage wire /1
  wire > table items by n > items.changes
",
    );
    let in_turn = pipeline().source("wire", "id n", "", 2).table("items", "wire", "n", 2);
    in_turn.plans(
        "
source wire id,n /2
exchange items.input id,n /2 by n
changes items.changes op,ts,key,old,new /2

stage wire /2
  wire > items.input for table items

stage items.input /2
  items.input > table items by n > items.changes
",
    );
}

#[test]
fn tables_of_one_input_are_kept_together_and_their_changes_apart() {
    let two = pipeline().source("wire", "id n", "id", 2).sql("kept", "SELECT id, n FROM wire WHERE n > 0");
    two.table("all", "wire", "id", 2).table("some", "kept", "id", 2).sink("out", "some.changes all.changes").plans(
        "
source wire id,n /2 by id
changes all.changes op,ts,key,old,new /2
changes some.changes op,ts,key,old,new /2

stage wire /2
  kept = sql(wire)
  wire > table all by id > all.changes
  kept > table some by id > some.changes
",
    );
}

#[test]
fn what_is_made_of_changes_is_a_stage_behind_the_table_also_in_a_chain() {
    let chain = pipeline()
        .source("wire", "id n", "id", 2)
        .table("items", "wire", "id", 2)
        .sql("of_items", "SELECT key.id AS id, new.n AS n FROM items.changes")
        .table("groups", "of_items", "n", 3)
        .sql("of_groups", "SELECT new.id AS id, new.n AS n FROM groups.changes")
        .sink("out", "of_groups");
    chain.plans(
        "
source wire id,n /2 by id
changes items.changes op,ts,key,old,new /2
exchange groups.input id,n /3 by n
changes groups.changes op,ts,key,old,new /3
transform of_groups id,n /3

stage wire /2
  wire > table items by id > items.changes

stage items.changes /2
  of_items = sql(items.changes)
  of_items > groups.input for table groups

stage groups.input /3
  groups.input > table groups by n > groups.changes

stage groups.changes /3
  of_groups = sql(groups.changes)
  of_groups > of_groups for out
",
    );
}

#[test]
fn a_table_takes_changes_directly() {
    let log = pipeline().source("wire", "id n", "id", 2).table("items", "wire", "id", 2);
    log.table("moments", "items.changes", "ts", 2).plans(
        "
source wire id,n /2 by id
changes items.changes op,ts,key,old,new /2
exchange moments.input op,ts,key,old,new /2 by ts
changes moments.changes op,ts,key,old,new /2

stage wire /2
  wire > table items by id > items.changes

stage items.changes /2
  items.changes > moments.input for table moments

stage moments.input /2
  moments.input > table moments by ts > moments.changes
",
    );
}

#[test]
fn a_table_alone_keeps_what_brings_it_rows_and_nothing_else() {
    let many = pipeline()
        .source("wire", "id n", "id", 2)
        .sql("kept", "SELECT id, n FROM wire")
        .sql("unused", "SELECT id FROM wire")
        .table("items", "kept", "n", 3)
        .table("others", "wire", "id", 2)
        .sink("out", "unused items.changes");
    assert_eq!(
        many.plan().for_table("items").to_string(),
        "
source wire id,n /2 by id
exchange items.input id,n /3 by n
changes items.changes op,ts,key,old,new /3

stage wire /2
  kept = sql(wire)
  kept > items.input for table items

stage items.input /3
  items.input > table items by n > items.changes
"
    );
}

#[test]
fn redriven_rows_enter_where_they_failed() {
    use super::At;
    let plan = pipeline()
        .source("wire", "id n", "id", 2)
        .sql("low", "SELECT * FROM wire WHERE n < 5")
        .sql("high", "SELECT * FROM wire WHERE n >= 5")
        .sql("both", "SELECT * FROM low UNION ALL SELECT * FROM high")
        .table("items", "wire", "id", 2)
        .plan();
    let stage = &plan.0.stages[0];
    let at = |component: &str, input: Option<&str>| stage.entry(component, input).map(|entry| entry.at);
    assert_eq!(at("wire", None), Some(At::Input));
    assert_eq!(at("low", None), Some(At::Op { op: 1, slot: 0 }));
    assert_eq!(at("both", Some("low")), Some(At::Op { op: 3, slot: 1 }));
    assert_eq!(at("both", Some("high")), Some(At::Op { op: 3, slot: 0 }));
    assert_eq!(at("items", Some("wire")), Some(At::Table { table: 0, slot: 0 }));
    // Which of two branches it was is never guessed, and what is gone takes nothing.
    assert_eq!([at("both", None), at("low", Some("gone")), at("gone", None)], [None; 3]);
}

#[test]
fn de_duplication_stays_with_the_key_of_its_stream_and_goes_through_an_exchange_for_another() {
    pipeline()
        .source("wire", "at id n", "id", 2)
        .timed()
        .dedup("by_id", "wire", "id")
        .dedup("by_n", "by_id", "n")
        .sql("few", "SELECT * FROM by_n WHERE id < 5")
        .table("items", "few", "n", 2)
        .plans(
            "
source wire at,id,n /2 by id
exchange by_n.input at,id,n /2 by n
changes items.changes op,ts,key,old,new /2

stage wire /2
  by_id = dedup(wire)
  by_id > by_n.input for by_n

stage by_n.input /2
  by_n = dedup(by_n.input)
  few = sql(by_n)
  few > table items by n > items.changes
",
        );
}

#[test]
fn only_what_leads_to_who_waits_keeps_time() {
    use super::Writer;
    let plan = pipeline()
        .source("late", "at id", "id", 3)
        .timed()
        .source("plain", "at id", "id", 3)
        .source("other", "at id", "id", 3)
        .timed()
        .sql("both", "SELECT * FROM late UNION ALL SELECT * FROM plain")
        .dedup("once", "both", "at")
        .table("all", "other", "at", 2)
        .sink("out", "once")
        .plan()
        .0;
    let kept = plan.streams.iter().filter(|stream| stream.keeps_time).map(|stream| &*stream.name);
    assert_eq!(kept.collect::<Vec<_>>(), ["late", "once.input"]);
    let stage = |id: &str| plan.stages.iter().find(|stage| *stage.id == *id).unwrap();
    assert_eq!(stage("late").timekeepers, [Writer::Source("late".into())]);
    // A source without event time has nothing to say, and nobody waits for it.
    assert_eq!(stage("once.input").timekeepers, [Writer::Tasks("late".into(), 3)]);
    assert!(stage("other").timekeepers.is_empty() && stage("plain").timekeepers.is_empty());
    let names: Vec<_> = stage("once.input").timekeepers.iter().flat_map(|writer| writer.producers(1)).collect();
    assert_eq!(names, ["late/0", "late/1", "late/2"].map(Into::into));
    assert_eq!(Writer::Task("late".into()).producers(1), ["late/1".into()]);
}
