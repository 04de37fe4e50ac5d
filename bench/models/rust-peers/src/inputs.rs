//! The benchmark's inputs, and batches of them as the peers take them.

use std::path::Path;

use serde::Deserialize;

use crate::Outcome;

/// The token ids of each input, sorted by length.
pub fn read(folder: &Path) -> Outcome<Vec<Vec<u32>>> {
    #[derive(Deserialize)]
    struct Input {
        ids: Vec<u32>,
    }
    let file = folder.join("inputs.json");
    let bytes = std::fs::read(&file).map_err(|e| format!("read {}: {e}; `peers.py make` makes it", file.display()))?;
    let inputs: Vec<Input> = serde_json::from_slice(&bytes)?;
    if inputs.is_empty() {
        return Err(format!("{} has no inputs; make the folder again", file.display()).into());
    }
    Ok(inputs.into_iter().map(|input| input.ids).collect())
}

/// A batch as a matrix: a row for each sequence, as wide as the longest.
#[derive(Debug)]
pub struct Padded {
    /// Sequences.
    pub rows: usize,
    /// Tokens of the longest sequence.
    pub width: usize,
    /// Token ids row by row; 0 behind a sequence's end.
    pub ids: Vec<u32>,
    /// 1 for each token, 0 behind a sequence's end.
    pub mask: Vec<u32>,
}

impl Padded {
    /// Pads `rows` to the longest of them.
    pub fn new(rows: &[Vec<u32>]) -> Padded {
        let width = rows.iter().map(Vec::len).max().unwrap_or_default();
        let (mut ids, mut mask) = (vec![0; rows.len() * width], vec![0; rows.len() * width]);
        for (i, row) in rows.iter().enumerate() {
            let at = i * width..i * width + row.len();
            ids[at.clone()].copy_from_slice(row);
            mask[at].fill(1);
        }
        Padded { rows: rows.len(), width, ids, mask }
    }
}
