//! A door for `fuzz/` to what reads the bodies of requests. It is there under `cfg(fuzzing)` only.

use std::sync::Arc;

use millstream_models::{Column, ColumnKind, Reads};

use super::{kserve, sagemaker, tei};

/// Reads `body` as a request of the protocol that `choice` names, for a model of texts and for one of columns.
pub fn read_every_protocol(choice: usize, body: &[u8]) {
    let kinds = [ColumnKind::Float, ColumnKind::Int, ColumnKind::Bool, ColumnKind::Text];
    let columns = kinds.iter().enumerate().map(|(n, &kind)| Column { name: Some(format!("c{n}").into()), kind });
    let rows: Arc<[Column]> = columns.collect();
    for reads in [Reads::Text, Reads::Row(rows)] {
        match choice % 8 {
            0 => drop(kserve::wire::decode(body, None, &reads)),
            // The length of the header, as the client says it.
            1 => drop(kserve::wire::decode(body, Some(choice / 8 * 4), &reads)),
            2 => drop(tei::wire::decode_embed(body)),
            3 => drop(tei::wire::decode_predict(body)),
            which => {
                let kinds = ["application/json", "application/jsonlines", "text/csv", "text/csv; header=present"];
                if let Ok(format) = sagemaker::wire::body_format(Some(kinds[which - 4])) {
                    drop(sagemaker::wire::decode(format, body, &reads));
                }
            }
        }
    }
}
