//! The SQL that Millstream reads: PostgreSQL's, with `SELECT * EXCLUDE (…)`, `* EXCEPT (…)` and `* REPLACE (…)`.
//!
//! Types in a CAST are those a pipeline file declares: `int` has 64 bits, `float` too, `timestamp` is in UTC.

use std::any::TypeId;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use millstream_core::schema::timestamp_type;

/// PostgreSQL's dialect as far as SELECT goes, and a little more.
#[derive(Debug)]
pub(crate) struct MillstreamDialect;

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

impl Dialect for MillstreamDialect {
    /// The parser asks for PostgreSQL by name in places, for the operator `?` say.
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn supports_select_wildcard_exclude(&self) -> bool {
        true
    }

    fn supports_select_wildcard_except(&self) -> bool {
        true
    }

    fn supports_select_wildcard_replace(&self) -> bool {
        true
    }

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        // Backticks as in Flink, Spark and MySQL.
        ch == '`' || POSTGRES.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }

    fn is_reserved_for_identifier(&self, keyword: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(keyword)
    }

    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }

    fn get_next_precedence(&self, parser: &Parser<'_>) -> Option<Result<u8, ParserError>> {
        POSTGRES.get_next_precedence(parser)
    }

    fn prec_value(&self, precedence: Precedence) -> u8 {
        POSTGRES.prec_value(precedence)
    }

    /// It makes `?` an operator.
    fn supports_geometric_types(&self) -> bool {
        true
    }

    fn supports_unicode_string_literal(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_string_escape_constant(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_notnull_operator(&self) -> bool {
        true
    }

    fn supports_interval_options(&self) -> bool {
        true
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }
}

/// What the type names of SQL stand for, where DataFusion would take a narrower type.
#[derive(Debug)]
pub(crate) struct DeclaredTypes;

impl TypePlanner for DeclaredTypes {
    fn plan_type_field(&self, written: &ast::DataType) -> Result<Option<FieldRef>> {
        use ast::DataType as T;
        let kind = match written {
            T::Int(_) | T::Integer(_) => DataType::Int64,
            T::Float(_) => DataType::Float64,
            T::Timestamp(None, _) => timestamp_type(),
            T::Bytes(_) => DataType::Binary,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", kind, true))))
    }
}
