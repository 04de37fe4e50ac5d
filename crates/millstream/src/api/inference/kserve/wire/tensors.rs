//! Rows of columns out of tensors: all columns in one of shape `[n, columns]`, or one of shape `[n]` (or `[n, 1]`) for
//! each column that the model names. Numbers in JSON or binary (little-endian, one tensor's bytes behind the other's).

use millstream_models::{Column, ColumnKind, Input, Reads};
use serde_json::{Value, json};

use super::super::super::refusal::Refusal;
use super::super::super::rows as cells;
use super::{Tensor, binary_texts, json_texts};

/// What the metadata of a model says of its inputs.
pub fn described(reads: &Reads) -> Value {
    let Reads::Row(columns) = reads else {
        return json!([{ "name": "text", "datatype": "BYTES", "shape": [-1] }]);
    };
    if columns.iter().all(|column| column.name.is_some()) {
        let input = |column: &Column| json!({ "name": column.name, "datatype": datatype(column.kind), "shape": [-1] });
        return columns.iter().map(input).collect();
    }
    json!([{ "name": "columns", "datatype": "FP64", "shape": [-1, columns.len()] }])
}

fn datatype(kind: ColumnKind) -> &'static str {
    match kind {
        ColumnKind::Float => "FP64",
        ColumnKind::Int => "INT64",
        ColumnKind::Bool => "BOOL",
        ColumnKind::Text => "BYTES",
    }
}

/// The rows of a request; at least one.
pub fn rows(columns: &[Column], tensors: &[Tensor], mut binary: &[u8]) -> Result<Vec<Input>, Refusal> {
    let mut read = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        read.push((tensor.name.as_str(), shape(tensor)?, elements(tensor, &mut binary)?));
    }
    let rows = read.first().map_or(0, |(_, (rows, _), _)| *rows);
    for (name, (own, width), elements) in &read {
        if own.checked_mul(*width) != Some(elements.len()) || *own != rows {
            return Err(Refusal::input(format!("input `{name}` has another number of elements than its shape says")));
        }
    }
    if rows == 0 {
        return Err(Refusal::input("the request has no rows"));
    }
    let row = |cells: Vec<Value>, i: usize| cells::row(columns, &Value::Array(cells), &format!("row {}", i + 1));
    if let [(_, (_, width), elements)] = read.as_slice()
        && (*width > 1 || columns.len() == 1)
    {
        return elements.chunks(*width).enumerate().map(|(i, cells)| row(cells.to_vec(), i)).collect();
    }
    let by_name: Option<Vec<&Vec<Value>>> = columns
        .iter()
        .map(|column| read.iter().find(|(name, (_, width), _)| Some(*name) == column.name.as_deref() && *width == 1))
        .map(|found| found.map(|(_, _, elements)| elements))
        .collect();
    let Some(by_name) = by_name else {
        let expected = cells::expected(columns);
        let message =
            format!("send one input of shape [n, {}], or one of shape [n] for each of {expected}", columns.len());
        return Err(Refusal::input(message));
    };
    (0..rows).map(|i| row(by_name.iter().map(|elements| elements[i].clone()).collect(), i)).collect()
}

/// Rows and columns.
fn shape(tensor: &Tensor) -> Result<(usize, usize), Refusal> {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    match tensor.shape.as_slice() {
        &[rows] => Ok((size(rows), 1)),
        &[rows, width] if width > 0 => Ok((size(rows), size(width))),
        other => Err(Refusal::input(format!("input `{}` has shape {other:?}; write [n] or [n, columns]", tensor.name))),
    }
}

fn elements(tensor: &Tensor, binary: &mut &[u8]) -> Result<Vec<Value>, Refusal> {
    let name = &tensor.name;
    match (tensor.parameters.get("binary_data_size"), &tensor.data) {
        (Some(size), None) => {
            let length = size.as_u64().and_then(|size| usize::try_from(size).ok());
            let own = length.and_then(|length| binary.split_at_checked(length));
            let (own, rest) = own.ok_or_else(|| {
                Refusal::input(format!("the binary data of input `{name}` is shorter than `binary_data_size` says"))
            })?;
            *binary = rest;
            binary_elements(tensor, own)
        }
        (None, Some(data)) if tensor.datatype == "BYTES" => {
            Ok(json_texts(name, data)?.iter().map(|text| Value::from(&**text)).collect())
        }
        (None, Some(Value::Array(data))) => Ok(flattened(data)),
        _ => Err(Refusal::input(format!("input `{name}` needs either a list `data` or `binary_data_size`"))),
    }
}

/// Row-major data may be nested.
fn flattened(data: &[Value]) -> Vec<Value> {
    let mut flat = Vec::with_capacity(data.len());
    for value in data {
        match value {
            Value::Array(row) => flat.extend(row.iter().cloned()),
            other => flat.push(other.clone()),
        }
    }
    flat
}

fn binary_elements(tensor: &Tensor, bytes: &[u8]) -> Result<Vec<Value>, Refusal> {
    fn all<const N: usize, T: Into<Value>>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Option<Vec<Value>> {
        let (numbers, rest) = bytes.as_chunks::<N>();
        rest.is_empty().then(|| numbers.iter().map(|number| read(*number).into()).collect())
    }
    let name = &tensor.name;
    let read = match tensor.datatype.as_str() {
        "BYTES" => {
            let texts = binary_texts(name, &json!(bytes.len()), bytes)?;
            return Ok(texts.iter().map(|text| Value::from(&**text)).collect());
        }
        "BOOL" => all(bytes, |[byte]: [u8; 1]| byte != 0),
        "INT8" => all(bytes, i8::from_le_bytes),
        "UINT8" => all(bytes, u8::from_le_bytes),
        "INT16" => all(bytes, i16::from_le_bytes),
        "UINT16" => all(bytes, u16::from_le_bytes),
        "INT32" => all(bytes, i32::from_le_bytes),
        "UINT32" => all(bytes, u32::from_le_bytes),
        "INT64" => all(bytes, i64::from_le_bytes),
        "UINT64" => all(bytes, u64::from_le_bytes),
        "FP32" => all(bytes, f32::from_le_bytes),
        "FP64" => all(bytes, f64::from_le_bytes),
        other => return Err(Refusal::input(format!("input `{name}` is {other}, which is not read here"))),
    };
    read.ok_or_else(|| Refusal::input(format!("the binary data of input `{name}` ends in the middle of a number")))
}

#[cfg(test)]
mod tests {
    use millstream_models::Cell;

    use super::super::{Infer, decode};
    use super::*;

    fn reads() -> Reads {
        let column = |name: &str, kind| Column { name: Some(name.into()), kind };
        Reads::Row([column("a", ColumnKind::Float), column("b", ColumnKind::Int)].into())
    }

    fn inputs(decoded: Result<Infer, Refusal>) -> Vec<Input> {
        decoded.unwrap().inputs
    }

    #[test]
    fn rows_come_in_one_tensor_or_in_one_for_each_column_in_json_or_binary() {
        let expected: Vec<Input> =
            vec![vec![Cell::Float(1.5), Cell::Int(2)].into(), vec![Cell::Float(3.0), Cell::Int(4)].into()];
        let whole = json!([{ "name": "x", "shape": [2, 2], "datatype": "FP64", "data": [[1.5, 2], [3, 4]] }]);
        let apart = json!([
            { "name": "b", "shape": [2], "datatype": "INT64", "data": [2, 4] },
            { "name": "a", "shape": [2, 1], "datatype": "FP32", "data": [1.5, 3.0] },
        ]);
        for tensors in [whole, apart] {
            let body = json!({ "inputs": tensors }).to_string();
            assert_eq!(inputs(decode(body.as_bytes(), None, &reads())), expected);
        }
        let tensors = json!([
            { "name": "a", "shape": [2], "datatype": "FP32", "parameters": { "binary_data_size": 8 } },
            { "name": "b", "shape": [2], "datatype": "INT64", "parameters": { "binary_data_size": 16 } },
        ]);
        let mut body = json!({ "inputs": tensors }).to_string().into_bytes();
        let length = body.len();
        [1.5_f32, 3.0].iter().for_each(|number| body.extend(number.to_le_bytes()));
        [2_i64, 4].iter().for_each(|number| body.extend(number.to_le_bytes()));
        assert_eq!(inputs(decode(&body, Some(length), &reads())), expected);
        assert!(decode(&body[..body.len() - 1], Some(length), &reads()).is_err());
        for (tensors, why) in [
            (json!([{ "name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3] }]), "3 values"),
            (json!([{ "name": "a", "shape": [1], "datatype": "FP64", "data": [1] }]), "shape [n, 2]"),
            (json!([{ "name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3] }]), "another number"),
            (json!([]), "no rows"),
        ] {
            let message =
                decode(json!({ "inputs": tensors }).to_string().as_bytes(), None, &reads()).unwrap_err().message;
            assert!(message.contains(why), "{message}");
        }
    }
}
