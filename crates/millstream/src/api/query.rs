//! `POST /api/v1/query`: one SELECT over tables and streams.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use millstream_core::json::RowWriter;
use millstream_core::{Error, HumanDuration, Result};
use millstream_sql::QueryError;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::error::ApiError;
use crate::render::ipc;
use millstream_engine::relations;

/// The media type of an Arrow stream.
pub const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

/// A query.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// The SELECT.
    pub sql: String,
}

/// How long a query may take at most, whatever it asks for.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// What can be asked beside the SQL.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryOptions {
    /// How long it may take; `5s`.
    timeout: Option<HumanDuration>,
}

/// Rows as NDJSON, or as an Arrow stream where the client accepts that.
pub async fn query(
    State(state): State<ApiState>,
    Query(options): Query<QueryOptions>,
    headers: HeaderMap,
    Json(request): Json<QueryRequest>,
) -> Result<Response, ApiError> {
    let engine = relations::engine_of_running(&state.running)?;
    let result = match options.timeout {
        None => engine.run(&request.sql).await,
        Some(timeout) => engine.run_within(&request.sql, Some(timeout.0.min(TIMEOUT_MAX))).await,
    };
    let result = match result {
        Ok(result) => result,
        Err(e @ QueryError::Busy(_)) => {
            let refused = ApiError::new(StatusCode::TOO_MANY_REQUESTS, e.to_string());
            return Ok(([(RETRY_AFTER, "1")], refused).into_response());
        }
        Err(e) => return Err(ApiError::bad_request(e.to_string())),
    };
    let wants_arrow = headers.get(ACCEPT).is_some_and(|v| v.as_bytes() == ARROW_STREAM.as_bytes());
    if wants_arrow {
        let body = Body::from_stream(ipc::encode(result.schema, result.stream));
        return Ok(([(CONTENT_TYPE, ARROW_STREAM)], body).into_response());
    }
    let body = Body::from_stream(ndjson(result.stream));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// One line of JSON a row. An error in the middle becomes a last line `{"error": …}`.
fn ndjson(
    batches: impl Stream<Item = Result<arrow::array::RecordBatch>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, Error>> {
    let lines = batches.and_then(|batch| async move {
        let writer = RowWriter::bind(&batch)?;
        let mut out = Vec::new();
        for row in 0..batch.num_rows() {
            writer.write(row, &mut out);
            out.push(b'\n');
        }
        Ok(Bytes::from(out))
    });
    lines.map(|line| line.or_else(|e| Ok(Bytes::from(format!("{}\n", serde_json::json!({ "error": e.to_string() }))))))
}
