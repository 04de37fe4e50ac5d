//! SQL as text: parsing, the names it reads, and the refusal of what a step can't do, before anything is planned.

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, Distinct, Expr, ExprWithAlias, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, SetOperator,
    SetQuantifier, Spanned, Statement as SqlStatement, Subscript, TableFactor, Value, Visit, VisitMut, Visitor,
    VisitorMut,
};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use crate::dialect::MillstreamDialect;
use crate::error::{SqlError, locate};
use crate::{json, shape, spellings, unnested};

/// Reads exactly one statement.
pub(crate) fn parse(sql: &str) -> Result<Statement, SqlError> {
    shape::check_size(sql)?;
    let parsed = parser(sql)?.parse_statements().map_err(|e| SqlError::from_datafusion(sql, &e))?;
    let mut statements = parsed.into_iter();
    match (statements.next(), statements.next()) {
        (Some(mut statement), None) => {
            shape::balance_statement(&mut statement)?;
            rewrite_spellings(&mut statement)?;
            Ok(statement)
        }
        (None, _) => Err(SqlError::new("there is no SQL here: write a SELECT")),
        (Some(_), Some(_)) => Err(SqlError::new("there is more than one statement: write one SELECT")),
    }
}

/// Reads one expression.
pub(crate) fn parse_expr(sql: &str) -> Result<ExprWithAlias, SqlError> {
    shape::check_size(sql)?;
    let mut parsed = parser(sql)?.parse_into_expr().map_err(|e| SqlError::from_datafusion(sql, &e))?;
    shape::balance(&mut parsed.expr)?;
    spellings::rewrite(&mut parsed.expr)?;
    Ok(parsed)
}

/// Brings a statement into the words that are known here.
fn rewrite_spellings(statement: &mut Statement) -> Result<(), SqlError> {
    match statement {
        Statement::Statement(inner) => spellings::rewrite(&mut **inner),
        Statement::Explain(explain) => rewrite_spellings(&mut explain.statement),
        _ => Ok(()),
    }
}

/// A parser over the words of `sql`, those rewritten that it does not know.
fn parser(sql: &str) -> Result<DFParser<'static>, SqlError> {
    let tokens = Tokenizer::new(&MillstreamDialect, sql).tokenize_with_location();
    let tokens = tokens.map_err(|e| SqlError::from_datafusion(sql, &ParserError::from(e).into()))?;
    let builder = DFParserBuilder::new(json::rewritten(tokens)?).with_dialect(&MillstreamDialect);
    builder.build().map_err(|e| SqlError::from_datafusion(sql, &e))
}

/// The name that `DESCRIBE name` asks about; none for any other statement.
pub(crate) fn described(sql: &str) -> Result<Option<String>, SqlError> {
    Ok(match parse(sql)? {
        Statement::Statement(inner) => match &*inner {
            SqlStatement::ExplainTable { table_name, .. } => {
                let parts = table_name.0.iter().filter_map(|part| Some(part.as_ident()?.value.clone()));
                Some(parts.collect::<Vec<_>>().join("."))
            }
            _ => None,
        },
        _ => None,
    })
}

/// `SELECT 1 FROM table WHERE condition`, with the places of `condition`.
pub(crate) fn where_clause(table: &str, condition: Expr) -> Result<Statement, SqlError> {
    let mut statement = parse(&format!("SELECT 1 FROM {table}"))?;
    if let Statement::Statement(inner) = &mut statement
        && let SqlStatement::Query(query) = &mut **inner
        && let SetExpr::Select(select) = &mut *query.body
    {
        select.selection = Some(condition);
    }
    Ok(statement)
}

/// The names that a statement reads, sorted, without those of its own CTEs: `wire`, `news.changes`, quoted or not.
pub(crate) fn relations(sql: &str, statement: &Statement) -> Result<Vec<String>, SqlError> {
    let (tables, _) = resolve_table_references(statement, false).map_err(|e| SqlError::from_datafusion(sql, &e))?;
    let mut names: Vec<String> = tables.iter().map(dotted).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// A table reference as a pipeline file writes it.
fn dotted(table: &TableReference) -> String {
    [table.catalog(), table.schema(), Some(table.table())].into_iter().flatten().collect::<Vec<_>>().join(".")
}

/// Reads a transform's SELECT, refuses what needs state, and names the columns that are plain paths
/// (`sentiment.label` is called `label`).
pub(crate) fn parse_transform(sql: &str, state: &SessionState) -> Result<Statement, SqlError> {
    let mut statement = parse(sql)?;
    let Statement::Statement(inner) = &mut statement else {
        return Err(SqlError::new("a transform is one SELECT"));
    };
    let SqlStatement::Query(query) = &mut **inner else {
        return Err(SqlError::new("a transform is one SELECT"));
    };
    unnested::rewrite(query)?;
    if let ControlFlow::Break(error) = Visit::visit(&**query, &mut Stateless { sql, state }) {
        return Err(error);
    }
    let _ = VisitMut::visit(&mut **query, &mut NamePaths { once_only: false });
    check_names(sql, &query.body)?;
    Ok(statement)
}

/// Refuses every construct that needs more than the record at hand.
struct Stateless<'a> {
    sql: &'a str,
    state: &'a SessionState,
}

impl Stateless<'_> {
    fn keeps_state(&self, word: &str, what: &str) -> ControlFlow<SqlError> {
        self.refuse(word, format!("{what} keeps state across records: not supported in a transform yet; use `millstream query 'SELECT …'` for a one-off answer"))
    }

    /// A subquery looks at all records of what it reads, not at the one at hand.
    fn subquery(&self, expr: &Expr, what: &str) -> ControlFlow<SqlError> {
        match self.keeps_state("", what) {
            ControlFlow::Break(error) if expr.span().start.line > 0 => {
                ControlFlow::Break(SqlError::in_span(expr.span(), error.message))
            }
            other => other,
        }
    }

    fn refuse(&self, word: &str, message: impl Into<String>) -> ControlFlow<SqlError> {
        ControlFlow::Break(SqlError::at(self.sql, word, message))
    }

    fn check_from(&self, select: &Select) -> ControlFlow<SqlError> {
        let nested = select.from.iter().any(|t| matches!(t.relation, TableFactor::NestedJoin { .. }));
        if nested {
            return self.keeps_state("join", "a join");
        }
        let joined = select.from.iter().flat_map(|t| t.joins.iter().map(|j| &j.relation));
        let listed = select.from.iter().skip(1).map(|t| &t.relation);
        match joined.chain(listed).next() {
            None => ControlFlow::Continue(()),
            Some(TableFactor::UNNEST { .. }) => self.refuse(
                "unnest",
                "write UNNEST as a column: SELECT id, UNNEST(tags) AS tag FROM …; in FROM it takes one list and \
                     one name, CROSS JOIN UNNEST(tags) AS t(tag), and keeps no rows whose list is empty",
            ),
            Some(_) => self.keeps_state("join", "a join"),
        }
    }
}

impl Visitor for Stateless<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
        if query.with.as_ref().is_some_and(|with| with.recursive) {
            return self.keeps_state("recursive", "WITH RECURSIVE");
        }
        if query.order_by.is_some() {
            return self.keeps_state("order", "ORDER BY");
        }
        if query.limit_clause.is_some() {
            let word = if locate(self.sql, "limit").is_some() { "limit" } else { "offset" };
            return self.keeps_state(word, "LIMIT");
        }
        if query.fetch.is_some() {
            return self.keeps_state("fetch", "FETCH");
        }
        if !query.locks.is_empty() || !query.pipe_operators.is_empty() {
            return self.refuse("for", "a transform is a plain SELECT … FROM … WHERE …");
        }
        check_set_operations(self, &query.body)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<SqlError> {
        match &select.distinct {
            Some(Distinct::Distinct | Distinct::On(_)) => return self.keeps_state("distinct", "DISTINCT"),
            Some(Distinct::All) | None => {}
        }
        let grouped = match &select.group_by {
            GroupByExpr::All(_) => true,
            GroupByExpr::Expressions(exprs, modifiers) => !exprs.is_empty() || !modifiers.is_empty(),
        };
        if grouped {
            return self.keeps_state("group", "GROUP BY");
        }
        if select.having.is_some() {
            return self.keeps_state("having", "HAVING");
        }
        if select.qualify.is_some() || !select.named_window.is_empty() {
            return self.keeps_state("window", "a window");
        }
        if select.into.is_some() {
            return self.refuse("into", "a transform can't write: name its output under `tables` or `sinks`");
        }
        if !(select.sort_by.is_empty() && select.cluster_by.is_empty() && select.distribute_by.is_empty()) {
            return self.keeps_state("by", "SORT BY, CLUSTER BY or DISTRIBUTE BY");
        }
        self.check_from(select)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<SqlError> {
        let plain = match factor {
            TableFactor::Table { args, version, sample, with_ordinality, with_hints, partitions, .. } => {
                let bare = args.is_none() && version.is_none() && sample.is_none();
                bare && !with_ordinality && with_hints.is_empty() && partitions.is_empty()
            }
            TableFactor::Derived { lateral, sample, .. } => !lateral && sample.is_none(),
            // Its joins are found where its SELECT is.
            TableFactor::NestedJoin { .. } => true,
            _ => false,
        };
        if plain {
            return ControlFlow::Continue(());
        }
        self.refuse("from", format!("`{factor}` is no stream: FROM takes a stream, or a SELECT in parentheses"))
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<SqlError> {
        match expr {
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                if function.over.is_some() {
                    return self.keeps_state("over", "a window function (OVER)");
                }
                let aggregate = self.state.aggregate_functions().contains_key(&name)
                    && !self.state.scalar_functions().contains_key(&name);
                if aggregate {
                    return self.keeps_state(&name, &format!("the aggregate {name}(…)"));
                }
                ControlFlow::Continue(())
            }
            Expr::InSubquery { .. } => {
                self.subquery(expr, "a subquery in IN (write the values, `IN ('a', 'b')`, where they are known)")
            }
            Expr::Exists { .. } => self.subquery(expr, "a subquery in EXISTS"),
            Expr::Subquery(_) => self.subquery(expr, "a subquery inside an expression"),
            Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
                self.refuse("", format!("nothing gives `{value}` a value here: write the value"))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn check_set_operations(check: &Stateless<'_>, body: &SetExpr) -> ControlFlow<SqlError> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return ControlFlow::Continue(()) };
    match (op, set_quantifier) {
        (SetOperator::Union, SetQuantifier::All | SetQuantifier::AllByName) => {}
        (SetOperator::Union, _) => {
            return check.keeps_state("union", "UNION without ALL drops duplicates, which");
        }
        (other, _) => return check.keeps_state(&other.to_string(), &other.to_string()),
    }
    check_set_operations(check, left)?;
    check_set_operations(check, right)
}

/// Gives `sentiment.label` and `sentiment['label']` the name `label`, as PostgreSQL does. Columns of a table
/// (`wire.id`) have their name already.
struct NamePaths {
    /// Whether a name that appears twice is left out; else that is an error, and is found later.
    once_only: bool,
}

impl VisitorMut for NamePaths {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let tables: Vec<Vec<String>> = select
            .from
            .iter()
            .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)))
            .filter_map(table_path)
            .collect();
        let name_of = |item: &SelectItem| match item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => Some(name.value.clone()),
            SelectItem::UnnamedExpr(expr) => path_name(expr).map(|name| name.value),
            SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
            _ => None,
        };
        let names: Vec<Option<String>> = select.projection.iter().map(name_of).collect();
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if is_column_of(expr, &tables) {
                continue;
            }
            let count = |name: &str| names.iter().flatten().filter(|other| *other == name).count();
            if let Some(alias) = path_name(expr)
                && (!self.once_only || count(&alias.value) == 1)
            {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            }
        }
        ControlFlow::Continue(())
    }
}

/// What the columns of a table are led by: its alias, or the parts of its name.
fn table_path(factor: &TableFactor) -> Option<Vec<String>> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(vec![alias.name.value.clone()])
        }
        TableFactor::Table { name, .. } => {
            Some(name.0.iter().filter_map(|part| Some(part.as_ident()?.value.clone())).collect())
        }
        _ => None,
    }
}

/// True for `wire.id` and `news.changes.id`, and for `changes.id` of the latter.
fn is_column_of(expr: &Expr, tables: &[Vec<String>]) -> bool {
    let Expr::CompoundIdentifier(parts) = expr else { return false };
    let Some((_, path)) = parts.split_last() else { return false };
    let same = |table: &[String]| table.len() == path.len() && table.iter().zip(path).all(|(t, p)| *t == p.value);
    tables.iter().any(|table| (0..table.len()).any(|from| same(&table[from..])))
}

fn path_name(expr: &Expr) -> Option<Ident> {
    match expr {
        Expr::CompoundIdentifier(parts) => parts.last().cloned(),
        Expr::CompoundFieldAccess { access_chain, .. } => match access_chain.last()? {
            AccessExpr::Dot(Expr::Identifier(name)) => Some(name.clone()),
            AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) }) => match &value.value {
                Value::SingleQuotedString(name) => Some(Ident::with_quote('"', name)),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The names that the columns of an answer have by what was written: `count(*)`, `upper(sentiment.label)`. None where
/// DataFusion's name is the right one. `columns` is how many there are.
pub(crate) fn written_names(query: &Query, columns: usize) -> Vec<Option<String>> {
    let mut body = &*query.body;
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(inner) => body = &inner.body,
            SetExpr::SetOperation { left, .. } => body = left,
            _ => return vec![None; columns],
        }
    };
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_)) => None,
        SelectItem::UnnamedExpr(expr) => match path_name(expr) {
            Some(name) => Some(name.value),
            None => Some(expr.to_string()),
        },
        _ => None,
    };
    let is_plain = |item: &&SelectItem| {
        let unnests = match item {
            SelectItem::UnnamedExpr(Expr::Function(f)) => f.name.to_string().eq_ignore_ascii_case("unnest"),
            _ => false,
        };
        matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }) && !unnests
    };
    // A wildcard stands for any number of columns: what stands before it is counted from the left.
    let items = &select.projection;
    let before = items.iter().take_while(is_plain).count();
    let mut names: Vec<Option<String>> = items[..before].iter().map(name).collect();
    let behind: Vec<Option<String>> =
        if before < items.len() { items.iter().rev().take_while(is_plain).map(name).collect() } else { Vec::new() };
    names.resize(columns.max(before).saturating_sub(behind.len()), None);
    names.extend(behind.into_iter().rev());
    names.resize(columns, None);
    names
}

/// Names the columns of a one-off query that are plain paths, in every SELECT of it.
pub(crate) fn name_paths(query: &mut Query) {
    let _ = VisitMut::visit(query, &mut NamePaths { once_only: true });
}

/// Every computed column of the outermost SELECT needs a name; the first branch of a union gives the names.
fn check_names(sql: &str, body: &SetExpr) -> Result<(), SqlError> {
    match body {
        SetExpr::Query(query) => check_names(sql, &query.body),
        SetExpr::SetOperation { left, .. } => check_names(sql, left),
        SetExpr::Select(select) => {
            for item in &select.projection {
                let SelectItem::UnnamedExpr(expr) = item else { continue };
                if !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
                    let text = expr.to_string();
                    let first = text.split(|c: char| !c.is_alphanumeric() && c != '_').find(|w| !w.is_empty());
                    let message = format!("the column `{text}` has no name: write `{text} AS name`");
                    return Err(SqlError::at(sql, first.unwrap_or_default(), message));
                }
            }
            Ok(())
        }
        _ => Err(SqlError::new("a transform is a SELECT … FROM … of streams")),
    }
}
