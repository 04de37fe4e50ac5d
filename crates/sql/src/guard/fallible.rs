//! Which expressions can fail on a value. What is not known to be safe can.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::checked::ONE_ZERO;
use crate::json;

/// Functions that have an answer for every value of their types, but for values that are too large to be kept.
const SAFE_FUNCTIONS: &[&str] = &[
    "array_append",
    "array_concat",
    "array_distinct",
    "array_empty",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_length",
    "array_position",
    "array_prepend",
    "array_remove",
    "array_reverse",
    "array_sort",
    "array_to_string",
    "ascii",
    "bit_length",
    "btrim",
    "cardinality",
    "ceil",
    "character_length",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "date_part",
    "empty",
    "ends_with",
    "exp",
    "find_in_set",
    "floor",
    "get_field",
    "greatest",
    "initcap",
    "isnan",
    "iszero",
    "json_as_text",
    "json_contains",
    "json_get",
    "json_get_array",
    "json_get_bool",
    "json_get_float",
    "json_get_int",
    "json_get_json",
    "json_get_str",
    "json_length",
    "json_object_keys",
    "least",
    "left",
    "levenshtein",
    "lower",
    "ltrim",
    "make_array",
    "md5",
    "named_struct",
    "nanvl",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "regexp_like",
    "reverse",
    "right",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "split_part",
    "starts_with",
    "string_to_array",
    "strpos",
    "struct",
    "substr",
    "substr_index",
    "translate",
    "upper",
    "||",
];

/// True where computing `expr` can fail on a value of its columns, or always does.
pub(crate) fn is_fallible(expr: &Expr, schema: &DFSchema) -> bool {
    // The closure never fails.
    expr.exists(|node| Ok(can_fail(node, schema))).unwrap_or(true)
}

/// As [`is_fallible`], for the outermost operation alone.
fn can_fail(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::BinaryExpr(binary) => match binary.op {
            Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo => {
                // Of floats it has an answer: infinity, or none.
                expr.get_type(schema).map_or(true, |kind| !kind.is_floating())
            }
            Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch => {
                !is_literal(&binary.right)
            }
            _ => false,
        },
        Expr::SimilarTo(like) => !is_literal(&like.pattern),
        Expr::Cast(cast) => match cast.expr.get_type(schema) {
            Ok(from) => !is_safe_cast(&from, cast.field.data_type()),
            Err(_) => true,
        },
        Expr::Negative(inner) => inner.get_type(schema).map_or(true, |kind| !kind.is_floating()),
        Expr::ScalarFunction(function) => {
            let name = function.func.name();
            if let Some(can_fail) = json::can_fail(name, &function.args) {
                return can_fail;
            }
            // A pattern that is no constant may be none.
            let free_pattern = name == "regexp_like" && function.args.iter().skip(1).any(|arg| !is_literal(arg));
            free_pattern || !(name == ONE_ZERO || SAFE_FUNCTIONS.contains(&name))
        }
        Expr::HigherOrderFunction(_) => true,
        _ => false,
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_, _) => true,
        Expr::Cast(cast) => is_literal(&cast.expr),
        _ => false,
    }
}

/// True for a cast that has an answer for every value.
fn is_safe_cast(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let is_text = |t: &T| matches!(t, T::Utf8 | T::LargeUtf8 | T::Utf8View);
    let is_plain = |t: &T| t.is_numeric() || is_text(t) || matches!(t, T::Boolean | T::Date32 | T::Timestamp(_, _));
    match (from, to) {
        (a, b) if a == b => true,
        (T::Null, _) => true,
        (a, b) if is_text(b) => is_plain(a),
        (T::Boolean, b) => b.is_numeric() && !b.is_decimal(),
        (a, T::Float64) => a.is_numeric(),
        (T::Float16, T::Float32) => true,
        (a, b) if a.is_integer() && b.is_integer() => bits(a) < bits(b) || (bits(a) == bits(b) && same_sign(a, b)),
        (T::Timestamp(a, _), T::Timestamp(b, _)) => a == b,
        (T::Timestamp(_, _), T::Date32) => true,
        _ => false,
    }
}

/// The bits that hold an integer's size, so that an unsigned one counts one more.
fn bits(kind: &DataType) -> usize {
    kind.primitive_width().unwrap_or(0) * 8 - usize::from(kind.is_signed_integer())
}

fn same_sign(a: &DataType, b: &DataType) -> bool {
    a.is_signed_integer() == b.is_signed_integer()
}
