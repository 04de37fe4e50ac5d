//! Types in the words of a pipeline file.

use arrow::datatypes::{DataType, Field};
use millstream_core::schema::is_json;

/// What a column holds: `an int`, `a list`, `json`.
pub(crate) fn kind_of(field: &Field) -> String {
    if is_json(field) { "json".into() } else { with_article(field.data_type()) }
}

/// The type's name with its article.
pub(crate) fn with_article(kind: &DataType) -> String {
    let name = type_name(kind);
    match name {
        "json" | "bytes" => name.to_owned(),
        "int" | "int unsigned" => format!("an {name}"),
        "null" => "null".to_owned(),
        _ => format!("a {name}"),
    }
}

/// The type's name: `string`, `int`, `float`, `bool`, `timestamp`, …
pub(crate) fn type_name(kind: &DataType) -> &'static str {
    use DataType as T;
    match kind {
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "string",
        t if t.is_integer() => "int",
        t if t.is_floating() => "float",
        t if t.is_decimal() => "decimal",
        T::Boolean => "bool",
        T::Timestamp(_, _) => "timestamp",
        T::Date32 | T::Date64 => "date",
        T::Time32(_) | T::Time64(_) => "time",
        T::Interval(_) | T::Duration(_) => "span of time",
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => "bytes",
        T::List(_) | T::LargeList(_) | T::FixedSizeList(_, _) | T::ListView(_) | T::LargeListView(_) => "list",
        T::Struct(_) => "struct",
        T::Map(_, _) => "map",
        T::Union(_, _) => "json",
        T::Null => "null",
        _ => "value",
    }
}

/// As a pipeline file declares it: `list of string`, `{ label: string }`.
pub(crate) fn declared(field: &Field) -> String {
    match field.data_type() {
        _ if is_json(field) => "json".into(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("[{}]", declared(item))
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}: {}", f.name(), declared(f))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => type_name(other).into(),
    }
}
