//! The depth of SQL. Planning and running recurse into expressions, so a deep one would overflow the stack of whoever
//! runs it: the whole server, for a query that came over HTTP.
//!
//! Parsing and planning get a stack of their own. Long chains of AND and OR, which lists of rules are made of, become
//! balanced trees (the same answer, also for nulls and in the order of evaluation); whatever is deep after that is
//! refused.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, SetExpr, Statement as SqlStatement, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::bounded;
use crate::dialect::MillstreamDialect;
use crate::error::SqlError;

/// Levels of expressions. What people write has fewer than ten.
const DEPTH_MAX: usize = 100;

/// Branches of a UNION.
const BRANCHES_MAX: usize = 64;

/// Operators in the text; lists of values don't count.
const OPERATORS_MAX: usize = 4_000;

/// Stack for parsing and planning, in bytes; pages that are not touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

/// Does `work` on a thread with room to recurse. A panic in it is an error.
pub(crate) fn with_room<T: Send>(work: impl FnOnce() -> Result<T, SqlError> + Send) -> Result<T, SqlError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql-plan".into()).stack_size(STACK_BYTES);
        let running =
            thread.spawn_scoped(scope, work).map_err(|e| SqlError::new(format!("no thread to plan with: {e}")))?;
        running
            .join()
            .unwrap_or_else(|_| Err(SqlError::new("planning failed: the SQL holds something that can't be planned")))
    })
}

/// Refuses text with too many operators, before it is parsed. Lists of values may be long.
pub(crate) fn check_size(sql: &str) -> Result<(), SqlError> {
    bounded::check_length(sql)?;
    // What can't be cut into tokens is the parser's to explain.
    let Ok(tokens) = Tokenizer::new(&MillstreamDialect, sql).tokenize() else { return Ok(()) };
    let operator = |token: &&Token| match token {
        Token::Word(word) => {
            let word = word.value.as_str();
            word.len() <= 5 && ["and", "or", "is", "not", "union"].iter().any(|w| word.eq_ignore_ascii_case(w))
        }
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Whitespace(_) | Token::Comma | Token::Period => false,
        _ => true,
    };
    match tokens.iter().filter(operator).count() {
        count if count > OPERATORS_MAX => {
            Err(SqlError::new(format!("the SQL has {count} operators, more than {OPERATORS_MAX}")))
        }
        _ => Ok(()),
    }
}

/// Balances the chains of a statement and refuses it where it stays deep.
pub(crate) fn balance_statement(statement: &mut Statement) -> Result<(), SqlError> {
    match statement {
        Statement::Statement(inner) => balance(&mut **inner),
        Statement::Explain(explain) => balance_statement(&mut explain.statement),
        _ => Ok(()),
    }
}

/// As [`balance_statement`], for an expression or any part of a statement.
pub(crate) fn balance(part: &mut impl VisitMut) -> Result<(), SqlError> {
    match part.visit(&mut Balance { depth: 0 }) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Balance {
    depth: usize,
}

impl Balance {
    fn check_branches(body: &SetExpr) -> ControlFlow<SqlError> {
        let (mut body, mut branches) = (body, 1);
        while let SetExpr::SetOperation { left, .. } = body {
            body = left;
            branches += 1;
        }
        if branches > BRANCHES_MAX {
            let message = format!("a UNION of {branches} branches: at most {BRANCHES_MAX} can be read");
            return ControlFlow::Break(SqlError::new(message));
        }
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Balance {
    type Break = SqlError;

    fn pre_visit_statement(&mut self, statement: &mut SqlStatement) -> ControlFlow<SqlError> {
        match statement {
            SqlStatement::Query(query) => Self::check_branches(&query.body),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        Self::check_branches(&query.body)
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<SqlError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            free(std::mem::replace(expr, Expr::Value(Value::Null.into())));
            let message =
                format!("an expression is nested too deeply, more than {DEPTH_MAX} levels: split it with a subquery");
            return ControlFlow::Break(SqlError::new(message));
        }
        if let Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } = expr {
            let op = op.clone();
            let terms = terms(std::mem::replace(expr, Expr::Value(Value::Null.into())), &op);
            *expr = tree(terms, &op);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<SqlError> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

/// The terms of a tree of one operator, in order.
fn terms(chain: Expr, op: &BinaryOperator) -> Vec<Expr> {
    let (mut pending, mut terms) = (vec![chain], Vec::new());
    while let Some(expr) = pending.pop() {
        match expr {
            Expr::BinaryOp { left, op: same, right } if same == *op => pending.extend([*right, *left]),
            term => terms.push(term),
        }
    }
    terms
}

/// Drops an expression without recursing into what the parser builds in loops.
fn free(expr: Expr) {
    let mut pending = vec![expr];
    while let Some(expr) = pending.pop() {
        match expr {
            Expr::BinaryOp { left, right, .. } => pending.extend([*left, *right]),
            Expr::Cast { expr, .. }
            | Expr::Collate { expr, .. }
            | Expr::InList { expr, .. }
            | Expr::Between { expr, .. }
            | Expr::Like { expr, .. }
            | Expr::ILike { expr, .. }
            | Expr::SimilarTo { expr, .. }
            | Expr::IsNull(expr)
            | Expr::IsNotNull(expr)
            | Expr::IsTrue(expr)
            | Expr::IsNotTrue(expr)
            | Expr::IsFalse(expr)
            | Expr::IsNotFalse(expr)
            | Expr::IsUnknown(expr)
            | Expr::IsNotUnknown(expr) => pending.push(*expr),
            Expr::AtTimeZone { timestamp, .. } => pending.push(*timestamp),
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => pending.extend([*left, *right]),
            _ => {}
        }
    }
}

fn tree(mut terms: Vec<Expr>, op: &BinaryOperator) -> Expr {
    let right = terms.split_off(terms.len().div_ceil(2));
    let (left, right) = match (terms.len(), right.is_empty()) {
        (1, true) => return terms.swap_remove(0),
        _ => (tree(terms, op), tree(right, op)),
    };
    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::parse_expr;

    fn depth(expr: &Expr) -> usize {
        match expr {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            _ => 1,
        }
    }

    #[test]
    fn a_chain_becomes_a_balanced_tree_in_the_same_order() {
        let chain: Vec<String> = (0..1000).map(|i| format!("c{i} LIKE 'x'")).collect();
        let balanced = parse_expr(&chain.join(" OR ")).unwrap().expr;
        assert_eq!(depth(&balanced), 11);
        assert_eq!(balanced.to_string(), chain.join(" OR "));
    }
}
