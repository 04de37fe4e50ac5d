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
