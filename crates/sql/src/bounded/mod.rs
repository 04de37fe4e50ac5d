//! Functions that make much out of little, held to a bound before they allocate.
//!
//! `repeat(s, n)` of two small values is as large as its caller likes, and an allocation that fails ends the process.
//! So every function is in one of these classes ([`class`]), and those that can grow are registered inside a
//! [`Bounded`]:
//!
//! | class | what is done |
//! |---|---|
//! | `Plain` | nothing: what comes out is no larger than what goes in, give or take a constant |
//! | `Linear` | the result is measured: a function of functions of functions doubles with each |
//! | `Grows` | the size of the result is computed from the arguments first, row by row |
//! | `Costs` | the work is computed from the arguments first, row by row |
//!
//! One value may have [`VALUE_BYTES_MAX`], one call [`CALL_BYTES_MAX`]. In a transform a batch over the bound is halved
//! like one with a bad row, so that only a row that is too much by itself fails; in a query it is an error.

mod estimate;
mod function;
mod join;
mod unnest;

use std::collections::HashSet;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, exec_err, plan_err};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use crate::error::SqlError;

pub(crate) use join::joined;
pub(crate) use unnest::pieces;

/// The most bytes of one text, list or map that a function makes.
pub(crate) const VALUE_BYTES_MAX: u64 = 16 << 20;
/// The most bytes that one call makes, for all rows of its batch.
pub(crate) const CALL_BYTES_MAX: u64 = 128 << 20;
/// The most bytes that a transform makes of a batch of more than one row before it is asked to take fewer.
pub(crate) const STEP_BYTES_MAX: usize = 256 << 20;
/// The most steps (pairs of characters or items compared) of one call for one row: about a fifth of a second.
const ROW_STEPS_MAX: u64 = 200_000_000;
/// The same for all rows of a batch.
const CALL_STEPS_MAX: u64 = 2_000_000_000;
/// The most bytes of a constant: it may be written out once for each row.
pub(crate) const CONSTANT_BYTES_MAX: usize = 16 << 10;
/// The most bytes of one SQL text.
pub(crate) const SQL_BYTES_MAX: usize = 1 << 20;
/// The most parts of a type: a struct of structs doubles with each level.
const TYPE_PARTS_MAX: usize = 10_000;

/// What a function can do to memory and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Plain,
    Linear,
    Grows(estimate::Growth),
    Costs,
}

/// The class of a function; none where nobody has thought about it, which a test forbids.
pub(crate) fn class(name: &str) -> Option<Class> {
    use estimate::Growth as G;
    Some(match name {
        "repeat" => Class::Grows(G::Repeat),
        "lpad" | "rpad" => Class::Grows(G::Pad),
        "replace" => Class::Grows(G::Replace),
        "regexp_replace" => Class::Grows(G::RegexpReplace),
        "range" | "generate_series" => Class::Grows(G::Range),
        "array_repeat" => Class::Grows(G::ArrayRepeat),
        "array_resize" => Class::Grows(G::ArrayResize),
        "array_replace" | "array_replace_all" | "array_replace_n" => Class::Grows(G::ArrayReplace),
        "array_to_string" => Class::Grows(G::ArrayToString),
        "levenshtein" | "array_has_all" | "array_has_any" | "array_except" | "array_intersect" | "array_union" => {
            Class::Costs
        }
        _ if LINEAR.contains(&name) => Class::Linear,
        _ if PLAIN.contains(&name) => Class::Plain,
        _ => return None,
    })
}

/// What comes out is up to a few times as large as what goes in.
const LINEAR: &[&str] = &[
    "array_append",
    "array_concat",
    "array_prepend",
    "arrays_zip",
    "concat",
    "concat_ws",
    "dynamodb_json",
    "encode",
    "flatten",
    "json_query",
    "json_value",
    "make_array",
    "map",
    "map_entries",
    "named_struct",
    "overlay",
    "string_to_array",
    "struct",
    "to_char",
    "translate",
];

/// What comes out is a number, a moment, a truth, a digest, or a part of what goes in.
const PLAIN: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "array_add",
    "array_any_value",
    "array_avg",
    "array_compact",
    "array_dims",
    "array_distance",
    "array_distinct",
    "array_element",
    "array_has",
    "array_length",
    "array_max",
    "array_min",
    "array_ndims",
    "array_normalize",
    "array_pop_back",
    "array_pop_front",
    "array_position",
    "array_positions",
    "array_product",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_reverse",
    "array_scale",
    "array_slice",
    "array_sort",
    "array_subtract",
    "array_sum",
    "arrow_cast",
    "arrow_try_cast",
    "arrow_typeof",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bit_length",
    "btrim",
    "cardinality",
    "cast_to_type",
    "cbrt",
    "ceil",
    "character_length",
    "chr",
    "coalesce",
    "contains",
    "cos",
    "cosh",
    "cosine_distance",
    "cot",
    "current_date",
    "current_time",
    "date_bin",
    "date_part",
    "date_trunc",
    "decode",
    "degrees",
    "digest",
    "empty",
    "ends_with",
    "exp",
    "factorial",
    "find_in_set",
    "floor",
    "from_unixtime",
    "gcd",
    "get_field",
    "greatest",
    "initcap",
    "inner_product",
    "isnan",
    "iszero",
    "json_as_text",
    "json_contains",
    "json_exists",
    "json_from_scalar",
    "json_get",
    "json_get_array",
    "json_get_bool",
    "json_get_float",
    "json_get_int",
    "json_get_json",
    "json_get_str",
    "json_length",
    "json_object_keys",
    "lcm",
    "least",
    "left",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "make_date",
    "make_time",
    "map_extract",
    "map_keys",
    "map_values",
    "md5",
    "nanvl",
    "now",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "pi",
    "power",
    "radians",
    "random",
    "regexp_count",
    "regexp_extract",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "reverse",
    "right",
    "round",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "sin",
    "sinh",
    "split_index",
    "split_part",
    "sqrt",
    "starts_with",
    "strpos",
    "substr",
    "substr_index",
    "tan",
    "tanh",
    "timestampadd",
    "timestampdiff",
    "to_date",
    "to_hex",
    "to_local_time",
    "to_time",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    "trunc",
    "try_cast_to_type",
    "upper",
    "uuid",
];

/// Puts a bound around every function that can grow or cost much.
pub(crate) fn bound_functions(state: &mut SessionState) -> Result<()> {
    let names: HashSet<String> = state.scalar_functions().values().map(|f| f.name().to_owned()).collect();
    for name in names {
        // One that nobody has classified may do anything.
        let class = class(&name).unwrap_or(Class::Linear);
        if class == Class::Plain {
            continue;
        }
        let function = state.udf(&name)?;
        state.register_udf(function::bounded(function, class))?;
    }
    Ok(())
}

/// Refuses an SQL text that is too long to be read.
pub(crate) fn check_length(sql: &str) -> std::result::Result<(), SqlError> {
    if sql.len() > SQL_BYTES_MAX {
        let (given, most) = (sql.len() >> 10, SQL_BYTES_MAX >> 10);
        return Err(SqlError::new(format!("the SQL is {given} KiB long; at most {most} KiB are read")));
    }
    Ok(())
}

/// Refuses constants that would be written out for each row: those of the text, and those that were computed from it.
#[derive(Debug)]
pub(crate) struct BoundConstants;

impl OptimizerRule for BoundConstants {
    fn name(&self) -> &str {
        "bound_constants"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let check = |e: &Expr| match e {
            Expr::Literal(value, _) if value.size() > CONSTANT_BYTES_MAX + 1024 => plan_err!(
                "a constant of more than the {} KiB that one may have: put it into a column, or make it shorter",
                CONSTANT_BYTES_MAX >> 10
            ),
            _ => Ok(TreeNodeRecursion::Continue),
        };
        plan.apply_expressions(|expr| expr.apply(check))?;
        Ok(Transformed::no(plan))
    }
}

/// Refuses a type of very many parts.
fn check_type(name: &str, data_type: &DataType) -> Result<()> {
    fn parts(data_type: &DataType, left: usize) -> Option<usize> {
        let left = left.checked_sub(1)?;
        match data_type {
            DataType::Struct(fields) => fields.iter().try_fold(left, |left, f| parts(f.data_type(), left)),
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) | DataType::Map(f, _) => {
                parts(f.data_type(), left)
            }
            _ => Some(left),
        }
    }
    match parts(data_type, TYPE_PARTS_MAX) {
        Some(_) => Ok(()),
        None => plan_err!("{name} would give a value of more than {TYPE_PARTS_MAX} parts"),
    }
}

fn too_large(name: &str, bytes: u64) -> DataFusionError {
    let most = VALUE_BYTES_MAX >> 20;
    // Without the number itself, so that messages about different rows are of one kind.
    let error: Result<()> = match bytes > VALUE_BYTES_MAX {
        true => exec_err!("{name} would give more than the {most} MiB that a value may have"),
        false => exec_err!("{name} would give more than {} MiB for its rows together", CALL_BYTES_MAX >> 20),
    };
    error.err().unwrap_or(DataFusionError::Execution(String::new()))
}

/// Checks what a call is about to make: the largest value, and all of them.
fn check_bytes(name: &str, sizes: impl Iterator<Item = u64>) -> Result<()> {
    let mut all = 0_u64;
    for size in sizes {
        all = all.saturating_add(size);
        if size > VALUE_BYTES_MAX || all > CALL_BYTES_MAX {
            return Err(too_large(name, size));
        }
    }
    Ok(())
}

fn check_steps(name: &str, steps: impl Iterator<Item = u64>) -> Result<()> {
    let mut all = 0_u64;
    for steps in steps {
        all = all.saturating_add(steps);
        if steps > ROW_STEPS_MAX || all > CALL_STEPS_MAX {
            return exec_err!("{name} of values as long as these would take too long");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_has_been_thought_about() {
        let state = crate::functions::stream_state().unwrap();
        let mut unknown: Vec<&str> =
            state.scalar_functions().values().map(|f| f.name()).filter(|name| class(name).is_none()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        assert!(unknown.is_empty(), "say in `class` what these do to memory and time: {unknown:?}");
        let known: HashSet<&str> = state.scalar_functions().values().map(|f| f.name()).collect();
        let gone: Vec<_> = LINEAR.iter().chain(PLAIN).filter(|name| !known.contains(*name)).collect();
        assert!(gone.is_empty(), "these are no functions: {gone:?}");
    }
}
