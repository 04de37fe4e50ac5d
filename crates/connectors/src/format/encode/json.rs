//! One JSON object per row, on a line of its own.

use arrow::array::RecordBatch;
use millstream_core::json::RowWriter;
use millstream_core::{Encoded, Encoder, Result};

use super::{Push, with_room};

/// Writes JSON lines, or indented objects.
#[derive(Debug)]
pub(super) struct JsonEncoder {
    pretty: bool,
}

impl JsonEncoder {
    pub(super) fn new(pretty: bool) -> Self {
        Self { pretty }
    }
}

impl Encoder for JsonEncoder {
    fn media_type(&self) -> &'static str {
        "application/json"
    }

    fn header(&self) -> &[u8] {
        b""
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        let writer = RowWriter::bind(batch)?;
        let (mut out, mut compact) = (with_room(batch.num_rows()), Vec::new());
        for row in 0..batch.num_rows() {
            let start = out.data.len();
            if self.pretty {
                compact.clear();
                writer.write(row, &mut compact);
                indent(&compact, &mut out.data);
            } else {
                writer.write(row, &mut out.data);
            }
            out.push(row, start);
            out.data.push(b'\n');
        }
        Ok(out)
    }
}

/// Compact JSON with line breaks and two blanks per level. Numbers keep all of their digits, which they would not as
/// values of `serde_json`.
fn indent(compact: &[u8], out: &mut Vec<u8>) {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |depth: usize, out: &mut Vec<u8>| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (i, &byte) in compact.iter().enumerate() {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                if !matches!(compact.get(i + 1), Some(b'}' | b']')) {
                    line(depth, out);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(compact.get(i.wrapping_sub(1)), Some(b'{' | b'[')) {
                    line(depth, out);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(depth, out);
            }
            b':' => out.extend_from_slice(b": "),
            // A `json` column may hold blanks of its own.
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => {
                in_string = byte == b'"';
                out.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indenting_changes_blanks_only() {
        let compact = br#"{"a":[],"b":{},"c":[1,{"d":"x\\\",{[\\"}],"e":123456789012345678901234567890.10}"#;
        let mut out = Vec::new();
        indent(compact, &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        assert_eq!(text.lines().nth(1), Some(r#"  "a": [],"#));
        assert!(text.ends_with("\n  \"e\": 123456789012345678901234567890.10\n}"), "{text}");
        let mut again = Vec::new();
        indent(&out, &mut again);
        assert_eq!(again.len(), out.len());
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value, serde_json::from_slice::<serde_json::Value>(compact).unwrap());
    }
}
