//! Tables: which there are, and rows by key.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::ApiState;
use super::error::ApiError;
use millstream_engine::relations;

/// Names, keys and columns of all tables.
pub async fn list(State(state): State<ApiState>) -> Result<Json<serde_json::Value>, ApiError> {
    let running = &state.running;
    let mut tables = Vec::new();
    for table in &running.catalog.tables {
        let spec = table.spec(&running.schemas)?;
        let columns: Vec<_> = spec
            .schema
            .fields()
            .iter()
            .map(|f| serde_json::json!({ "name": f.name(), "type": f.data_type().to_string(), "nullable": f.is_nullable() }))
            .collect();
        let key: Vec<_> = spec.key.iter().map(|&k| spec.schema.field(k).name().clone()).collect();
        tables.push(
            serde_json::json!({ "name": table.name, "key": key, "partitions": table.partitions, "columns": columns }),
        );
    }
    Ok(Json(serde_json::json!({ "tables": tables })))
}

/// `GET /api/v1/tables/{name}/rows?id=…`: the row with that key.
pub async fn rows(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Query(key): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let running = &state.running;
    let Some(table) = running.catalog.table(&name) else {
        let known: Vec<&str> = running.catalog.tables.iter().map(|t| t.name.as_str()).collect();
        return Err(ApiError::not_found(format!("no table `{name}`; tables: {}", known.join(", "))));
    };
    let row = relations::point_get(running, table, &key).await?;
    match row {
        Some(row) => Ok(([(CONTENT_TYPE, "application/json")], row).into_response()),
        None => Err(ApiError::not_found(format!("table {name} has no row with that key"))),
    }
}
