//! `FROM wire CROSS JOIN UNNEST(tags) AS t(tag)`, the way of Flink and of the standard, as what a step can run:
//! `FROM (SELECT *, UNNEST(tags) AS tag FROM wire) AS wire`.
//!
//! It is no join: it needs the record at hand only. Records whose list is empty give no rows, as in a CROSS JOIN; what
//! would keep them (LEFT JOIN) is left alone, and refused later.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Ident, JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr,
    Statement as SqlStatement, TableAlias, TableFactor, TableWithJoins, Value, VisitMut, VisitorMut,
};

use crate::error::SqlError;
use crate::spellings::function;
use crate::syntax;

/// Rewrites every SELECT of `query`.
pub(crate) fn rewrite(query: &mut Query) -> Result<(), SqlError> {
    match query.visit(&mut Unnested) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Unnested;

impl VisitorMut for Unnested {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        if let (SetExpr::Select(select), Some(order)) = (&*query.body, &mut query.order_by)
            && let Some((base, lists)) = parts(&select.from)
        {
            let _ = order.visit(&mut Renamed { lists: &lists, base: &base.name });
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<SqlError> {
        let Some((base, mut lists)) = parts(&select.from) else { return ControlFlow::Continue(()) };
        let name = base.name.clone();
        // A list may come out of one before it.
        for at in 1..lists.len() {
            let (before, list) = lists.split_at_mut(at);
            let _ = list[0].items.visit(&mut Renamed { lists: before, base: &name });
        }
        let mut relation = base.relation;
        for list in &lists {
            relation = match with_items(relation, list, &base.name) {
                Ok(relation) => relation,
                Err(error) => return ControlFlow::Break(error),
            };
        }
        select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
        let _ = select.visit(&mut Renamed { lists: &lists, base: &name });
        ControlFlow::Continue(())
    }
}

/// What the lists are unnested from.
struct Base {
    relation: TableFactor,
    name: Ident,
}

/// One UNNEST in FROM.
struct List {
    items: Expr,
    table: Ident,
    column: Ident,
}

/// The parts of a FROM that has one relation, and beside it only lists to unnest.
fn parts(from: &[TableWithJoins]) -> Option<(Base, Vec<List>)> {
    let (first, others) = from.split_first()?;
    let name = match &first.relation {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            alias.name.clone()
        }
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident()?.clone(),
        _ => return None,
    };
    let joined = first.joins.iter().map(|join| is_cross(&join.join_operator).then(|| list(&join.relation)).flatten());
    let listed = others.iter().map(|other| other.joins.is_empty().then(|| list(&other.relation)).flatten());
    let lists = joined.chain(listed).collect::<Option<Vec<List>>>()?;
    let base = Base { relation: first.relation.clone(), name };
    (!lists.is_empty()).then_some((base, lists))
}

fn is_cross(join: &JoinOperator) -> bool {
    match join {
        JoinOperator::CrossJoin(JoinConstraint::None) => true,
        JoinOperator::Join(JoinConstraint::On(on)) | JoinOperator::Inner(JoinConstraint::On(on)) => {
            matches!(on, Expr::Value(value) if value.value == Value::Boolean(true))
        }
        _ => false,
    }
}

/// A list with one column, `UNNEST(tags) AS t(tag)` or `UNNEST(tags) AS tag`.
fn list(factor: &TableFactor) -> Option<List> {
    let (items, alias) = match factor {
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality: false, .. } => {
            let [items] = array_exprs.as_slice() else { return None };
            (items.clone(), alias)
        }
        TableFactor::Function { lateral: true, name, args, with_ordinality: false, alias } => {
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(items))] = args.as_slice() else { return None };
            let is_unnest = name.to_string().eq_ignore_ascii_case("unnest");
            (is_unnest.then(|| items.clone())?, alias)
        }
        _ => return None,
    };
    let alias = alias.as_ref()?;
    let column = match alias.columns.as_slice() {
        [] => alias.name.clone(),
        [column] => column.name.clone(),
        _ => return None,
    };
    Some(List { items, table: alias.name.clone(), column })
}

/// `(SELECT *, UNNEST(items) AS column FROM relation) AS name`
fn with_items(relation: TableFactor, list: &List, name: &Ident) -> Result<TableFactor, SqlError> {
    let Statement::Statement(inner) = syntax::parse("SELECT * FROM t")? else {
        return Err(SqlError::new("UNNEST can't be read here: write it as a column"));
    };
    let SqlStatement::Query(mut subquery) = *inner else {
        return Err(SqlError::new("UNNEST can't be read here: write it as a column"));
    };
    if let SetExpr::Select(select) = &mut *subquery.body {
        let unnest = Ident::with_span(list.column.span, "unnest");
        let expr = function(unnest, vec![list.items.clone()]);
        select.projection.push(SelectItem::ExprWithAlias { expr, alias: list.column.clone() });
        select.from = vec![TableWithJoins { relation, joins: Vec::new() }];
    }
    let alias = TableAlias { explicit: true, name: name.clone(), columns: Vec::new(), at: None };
    Ok(TableFactor::Derived { lateral: false, subquery, alias: Some(alias), sample: None })
}

/// `t.tag` as `wire.tag`.
struct Renamed<'a> {
    lists: &'a [List],
    base: &'a Ident,
}

impl VisitorMut for Renamed<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [table, column, ..] = parts.as_mut_slice()
            && self.lists.iter().any(|list| list.table.value == table.value && list.column.value == column.value)
        {
            *table = Ident { span: table.span, ..self.base.clone() };
        }
        ControlFlow::Continue(())
    }
}
