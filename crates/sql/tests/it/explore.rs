use crate::support::*;
use arrow::datatypes::{Field, Schema};
use futures::TryStreamExt;
use millstream_core::schema::timestamp_type;
use millstream_sql::QueryEngine;
use std::sync::Arc;
#[tokio::test]
#[ignore]
async fn explore() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("at", timestamp_type(), true),
        field("s", arrow::datatypes::DataType::Utf8),
    ]));
    let lines = [
        "0001-01-01T05:06:07.123456Z",
        "1677-09-20T00:00:00Z",
        "2024-05-01T12:30:15Z",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
    ]
    .map(|t| format!("{{\"at\":\"{t}\",\"s\":\"{t}\"}}"))
    .join("\n");
    let text = std::fs::read_to_string("/tmp/exprs.txt").unwrap();
    for expr in text.lines() {
        let engine = QueryEngine::new(64 << 20);
        engine.register("t", Arc::new(Memory(vec![batch(&schema, &lines)])));
        println!("== {expr}");
        match engine.run(&format!("SELECT {expr} AS x FROM t")).await {
            Err(e) => println!("   PLAN {e}"),
            Ok(r) => {
                println!("   {:?}", r.schema.field(0).data_type());
                let schema = r.schema.clone();
                let r: Result<Vec<_>, _> = r.stream.try_collect().await;
                match r {
                    Err(e) => println!("   ERR {e}"),
                    Ok(b) => println!(
                        "   {}",
                        json(&arrow::compute::concat_batches(&schema, &b).unwrap())
                            .iter()
                            .map(|v| v["x"].to_string())
                            .collect::<Vec<_>>()
                            .join("  ")
                    ),
                }
            }
        }
    }
}
#[tokio::test]
#[ignore]
async fn messages() {
    let text = std::fs::read_to_string("/tmp/sqls.txt").unwrap();
    for sql in text.lines() {
        println!("== {sql}");
        match millstream_sql::SqlTransform::plan(sql, &inputs()) {
            Err(e) => println!("   T {e}"),
            Ok(t) => println!(
                "   T ok {:?}",
                t.schema()
                    .fields()
                    .iter()
                    .map(|f| format!("{} {}{}", f.name(), f.data_type(), if f.is_nullable() { "?" } else { "" }))
                    .collect::<Vec<_>>()
            ),
        }
        let engine = QueryEngine::new(64 << 20);
        engine.register("wire", Arc::new(Memory(vec![wire_rows()])));
        engine.register("news.changes", Arc::new(Memory(vec![wire_rows()])));
        match engine.run(sql).await {
            Err(e) => println!("   Q {e}"),
            Ok(r) => {
                let names = r.schema.fields().iter().map(|f| f.name().to_string()).collect::<Vec<_>>();
                let schema = r.schema.clone();
                let b: Result<Vec<_>, _> = r.stream.try_collect().await;
                match b {
                    Err(e) => println!("   Q ERR {e}"),
                    Ok(b) => println!(
                        "   Q ok {names:?} {}",
                        json(&arrow::compute::concat_batches(&schema, &b).unwrap())
                            .first()
                            .map(|v| v.to_string())
                            .unwrap_or_default()
                    ),
                }
            }
        }
    }
}
#[test]
#[ignore]
fn dump_functions() {
    for f in millstream_sql::functions() {
        println!("{:?} | {} | {:?} | {} | {}", f.kind, f.name, f.aliases, f.signature, f.description);
    }
}
