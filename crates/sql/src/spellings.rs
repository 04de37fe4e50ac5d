//! What other dialects of SQL, Flink's first, write otherwise: brought into the words that are known here, once it was
//! parsed. Nothing of this can do more than what it becomes.
//!
//! | written | read as |
//! |---|---|
//! | `IF(a, b, c)` | `CASE WHEN a THEN b ELSE c END` |
//! | `FLOOR(at TO HOUR)`, `CEIL(at TO HOUR)` | `date_trunc('hour', at)`, and the beginning of the next hour |
//! | `TIMESTAMPDIFF(HOUR, a, b)`, `TIMESTAMPADD(HOUR, n, at)` | the same with `'hour'` |
//! | `YEAR(at)`, `HOUR(at)`, … | `date_part('year', at)` |
//! | `TO_TIMESTAMP_LTZ(n, 3)` | `to_timestamp_millis(n)` |
//! | `MOD(a, b)` | `a % b` |
//! | `LOCATE(a, b)`, `REGEXP(a, b)`, `TRUNCATE(a, b)`, `UNIX_TIMESTAMP(a)` | other names |
//! | `a SIMILAR TO '%x_'` | `a ~ '^(?s:.*x.)$'`: DataFusion takes the pattern for a regular expression |

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CeilFloorKind, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName, Spanned, Value, ValueWithSpan, VisitMut,
    VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::error::SqlError;
use crate::moments::UNITS;

/// The functions that are only spellings, for the list of functions.
pub(crate) const NAMES: &[&str] = &[
    "dayofmonth",
    "dayofweek",
    "dayofyear",
    "hour",
    "if",
    "locate",
    "minute",
    "mod",
    "month",
    "quarter",
    "regexp",
    "second",
    "to_timestamp_ltz",
    "truncate",
    "unix_timestamp",
    "week",
    "year",
];

/// Those that are rewritten, or refused, and are not in that list.
const OTHERS: &[&str] = &["timestampdiff", "timestampadd", "proctime", "current_row_timestamp"];

/// What to write in the place of a function that others have; none where nobody has thought of it.
pub(crate) fn advice(name: &str) -> Option<&'static str> {
    Some(match name {
        "proctime" | "localtime" | "localtimestamp" | "current_row_timestamp" => {
            "it would be a clock, so a replay would not give the same rows: use the event time column of the stream"
        }
        "to_base64" => "write encode(id, 'base64pad')",
        "from_base64" => "write decode(text, 'base64')",
        "convert_tz" => "write at AT TIME ZONE 'Europe/Berlin'",
        "json_object" | "json_objectagg" => "write named_struct('name', value): a struct is written as an object",
        "json_array" | "json_arrayagg" => "write make_array(value, …): a list is written as an array",
        "json_string" => "write json_from_scalar(value)",
        "element" => "write tags[1]",
        "listagg" => "write string_agg(value, ',')",
        "explode" => "write UNNEST(tags) AS tag",
        "regexp_substr" => "write regexp_extract(text, regexp)",
        "char" => "write chr(number)",
        _ => return None,
    })
}

/// Rewrites a statement, or any part of one.
pub(crate) fn rewrite(part: &mut impl VisitMut) -> Result<(), SqlError> {
    match part.visit(&mut Spellings) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Spellings;

impl VisitorMut for Spellings {
    type Break = SqlError;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        let span = expr.span();
        let rewritten = match expr {
            Expr::Floor { expr: moment, field: CeilFloorKind::DateTimeField(unit) } => floor(moment, unit, span, false),
            Expr::Ceil { expr: moment, field: CeilFloorKind::DateTimeField(unit) } => floor(moment, unit, span, true),
            Expr::SimilarTo { negated, expr: text, pattern, escape_char } => {
                similar(*negated, text, pattern, escape_char.as_ref())
            }
            Expr::Function(function) => call(function, span),
            _ => Ok(None),
        };
        match rewritten {
            Ok(Some(new)) => *expr = new,
            Ok(None) => {}
            Err(message) => return ControlFlow::Break(SqlError::in_span(span, message)),
        }
        ControlFlow::Continue(())
    }
}

type Rewritten = Result<Option<Expr>, String>;

fn floor(moment: &Expr, unit: &DateTimeField, span: Span, is_ceil: bool) -> Rewritten {
    if *unit == DateTimeField::NoDateTime {
        return Ok(None);
    }
    let unit = unit_named(&unit.to_string())?;
    let name = Ident::with_span(span, "date_trunc");
    let truncated = |moment: Expr| function(name.clone(), vec![text(unit, span), moment]);
    if !is_ceil {
        return Ok(Some(truncated(moment.clone())));
    }
    // The beginning after the last moment before this one.
    let interval = |length: &str| Expr::Interval(interval(length, span));
    let next = if unit == "quarter" { "3 months".to_owned() } else { format!("1 {unit}") };
    let before = binary(moment.clone(), BinaryOperator::Minus, interval("1 microsecond"));
    Ok(Some(binary(truncated(before), BinaryOperator::Plus, interval(&next))))
}

fn interval(length: &str, span: Span) -> Interval {
    Interval {
        value: Box::new(text(length, span)),
        leading_field: None,
        leading_precision: None,
        last_field: None,
        fractional_seconds_precision: None,
    }
}

fn unit_named(word: &str) -> Result<&'static str, String> {
    let word = word.to_lowercase();
    // As ODBC writes them.
    let word = word.strip_prefix("sql_tsi_").unwrap_or(&word);
    let unit = UNITS.iter().find(|unit| **unit == word || word.strip_suffix('s') == Some(**unit));
    unit.copied().ok_or_else(|| format!("`{word}` is no unit: write one of {}", UNITS.join(", ")))
}

fn call(call: &mut Function, span: Span) -> Rewritten {
    let [name] = call.name.0.as_slice() else { return Ok(None) };
    let Some(name) = name.as_ident().filter(|name| name.quote_style.is_none()) else { return Ok(None) };
    let renamed = |to: &str| Ident::with_span(name.span, to);
    let lower = name.value.to_lowercase();
    if !NAMES.contains(&lower.as_str()) && !OTHERS.contains(&lower.as_str()) {
        return Ok(None);
    }
    let Some(args) = plain_arguments(call) else { return Ok(None) };
    let part = |part: &str| Ok(Some(function(renamed("date_part"), vec![text(part, span), args[0].clone()])));
    match (lower.as_str(), args.as_slice()) {
        ("if", [condition, yes, no]) => Ok(Some(Expr::Case {
            case_token: AttachedToken::empty(),
            end_token: AttachedToken::empty(),
            operand: None,
            conditions: vec![CaseWhen { condition: condition.clone(), result: yes.clone() }],
            else_result: Some(Box::new(no.clone())),
        })),
        ("timestampdiff" | "timestampadd", [Expr::Identifier(unit), second, third]) if unit.quote_style.is_none() => {
            let unit = text(unit_named(&unit.value)?, unit.span);
            Ok(Some(function(renamed(&lower), vec![unit, second.clone(), third.clone()])))
        }
        ("year" | "quarter" | "month" | "week" | "hour" | "minute" | "second", [_]) => part(&lower),
        ("dayofyear", [_]) => part("doy"),
        ("dayofmonth", [_]) => part("day"),
        // Sunday is 1.
        ("dayofweek", [_]) => {
            let one = Expr::Value(ValueWithSpan { value: Value::Number("1".into(), false), span });
            Ok(part("dow")?.map(|day| Expr::Nested(Box::new(binary(day, BinaryOperator::Plus, one)))))
        }
        ("to_timestamp_ltz", [number, precision]) => match precision.to_string().as_str() {
            "0" => Ok(Some(function(renamed("to_timestamp_seconds"), vec![number.clone()]))),
            "3" => Ok(Some(function(renamed("to_timestamp_millis"), vec![number.clone()]))),
            _ => Err("to_timestamp_ltz takes a number and 0 (seconds) or 3 (milliseconds)".into()),
        },
        ("mod", [left, right]) => {
            let nested = |expr: &Expr| Expr::Nested(Box::new(expr.clone()));
            Ok(Some(Expr::Nested(Box::new(binary(nested(left), BinaryOperator::Modulo, nested(right))))))
        }
        ("locate", [searched, text]) => Ok(Some(function(renamed("strpos"), vec![text.clone(), searched.clone()]))),
        ("regexp", [_, _]) => Ok(Some(function(renamed("regexp_like"), args))),
        ("truncate", [_, _]) => Ok(Some(function(renamed("trunc"), args))),
        ("unix_timestamp", [_] | [_, _]) => Ok(Some(function(renamed("to_unixtime"), args))),
        ("unix_timestamp" | "proctime" | "current_row_timestamp", []) => Err(format!(
            "{lower}() gives another answer each time, so a replay would not give the same rows: use the event time \
             column of the stream"
        )),
        _ => Ok(None),
    }
}

/// The arguments of a call that has nothing else: no OVER, no DISTINCT, no names.
fn plain_arguments(call: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &call.args else { return None };
    let is_plain = call.over.is_none() && call.filter.is_none() && call.within_group.is_empty();
    if !is_plain || list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let plain = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

/// A call of a function.
pub(crate) fn function(name: Ident, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![name]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn text(text: &str, span: Span) -> Expr {
    Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text.to_owned()), span })
}

/// `text SIMILAR TO 'pattern'` as a match of a regular expression.
fn similar(negated: bool, of: &Expr, pattern: &Expr, escape: Option<&ValueWithSpan>) -> Rewritten {
    let literal = |value: &ValueWithSpan| match &value.value {
        Value::SingleQuotedString(text) => Some(text.clone()),
        _ => None,
    };
    let (Expr::Value(value), escape) = (pattern, escape.map(literal)) else {
        return Err("SIMILAR TO takes a constant pattern: `~` takes any regular expression".into());
    };
    let Some(pattern) = literal(value) else { return Ok(None) };
    let escape = match escape.flatten() {
        None => Some('\\'),
        Some(one) => one.chars().next(),
    };
    let expression = text(&regular(&pattern, escape), value.span);
    let op = if negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
    Ok(Some(Expr::Nested(Box::new(binary(of.clone(), op, expression)))))
}

/// The regular expression for a pattern of SIMILAR TO: `%` and `_`, and of the others `| * + ? {} () []`.
fn regular(pattern: &str, escape: Option<char>) -> String {
    let mut expression = String::from("^(?s:");
    let (mut rest, mut in_brackets) = (pattern.chars(), false);
    while let Some(c) = rest.next() {
        match c {
            c if Some(c) == escape => {
                if let Some(next) = rest.next() {
                    expression.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
                }
            }
            '[' | ']' => {
                in_brackets = c == '[';
                expression.push(c);
            }
            c if in_brackets => expression.push(c),
            '%' => expression.push_str(".*"),
            '_' => expression.push('.'),
            '.' | '^' | '$' | '\\' => {
                expression.push('\\');
                expression.push(c);
            }
            c => expression.push(c),
        }
    }
    expression.push_str(")$");
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_of_similar_to_is_of_the_whole_text() {
        assert_eq!(regular("%(a|b)_.c", Some('\\')), "^(?s:.*(a|b).\\.c)$");
        assert_eq!(regular("100!%[0-9_]+", Some('!')), "^(?s:100%[0-9_]+)$");
    }
}
