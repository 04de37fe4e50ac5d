//! Which part of a SELECT has the wrong type, and what is wrong with it.
//!
//! DataFusion says what it can't do in its own words, seldom where. So the parts of the SELECT are tried alone, the
//! inner ones before the outer ones, each as `SELECT part FROM …`: the first that fails is the culprit, and the types
//! of its operands are known by then. This costs some planning, and only where there is an error.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::execution::session_state::SessionState;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, ExprWithAlias, Function, FunctionArg, FunctionArgExpr, FunctionArguments,
    GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Spanned, Statement as SqlStatement, Subscript,
    UnaryOperator, Value, Visit, Visitor, With,
};

use crate::error::{SqlError, did_you_mean, not_there, root, run_time_message};
use crate::plan::at_once;
use crate::spellings;
use crate::words::{kind_of, type_name};

/// Plans a statement, folds its constants, and gives the field of its first column.
type Check<'a> = &'a dyn Fn(Statement) -> Result<FieldRef, DataFusionError>;

/// Parts that are tried at most.
const TRIES_MAX: usize = 400;

/// What is wrong with `query`, of which it is known that something is. None where no part of it is wrong by itself.
fn find(query: &Query, check: Check<'_>) -> Option<SqlError> {
    let mut search = Search { check, with: query.with.clone(), scopes: Vec::new(), tries: 0 };
    match Visit::visit(query, &mut search) {
        ControlFlow::Break(found) => found,
        ControlFlow::Continue(()) => None,
    }
}

/// What is wrong with `statement`, about which DataFusion says `error`.
pub(crate) fn explain(sql: &str, statement: &Statement, state: &SessionState, error: &DataFusionError) -> SqlError {
    let plain = SqlError::from_datafusion(sql, error);
    if is_about_names(error) {
        return match quoted_text(sql, error) {
            Some(message) => SqlError { message, help: None, ..plain },
            None => unknown_function(sql, state, error).unwrap_or(plain),
        };
    }
    let check = |statement: Statement| {
        let plan = at_once(state.statement_to_plan(statement))?;
        let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})?;
        state.optimize(&plan)?;
        Ok(Arc::clone(plan.schema().field(0)))
    };
    match statement {
        Statement::Statement(inner) => match &**inner {
            SqlStatement::Query(query) => find(query, &check).unwrap_or(plain),
            _ => plain,
        },
        _ => plain,
    }
}

/// The constant parts of `statement` that fail whatever the record is.
pub(crate) fn always_failing(statement: &Statement, state: &SessionState) -> Vec<SqlError> {
    let mut found = Constants { state, found: Vec::new(), tries: 0 };
    if let Statement::Statement(inner) = statement {
        let _ = Visit::visit(&**inner, &mut found);
    }
    found.found
}

struct Constants<'a> {
    state: &'a SessionState,
    found: Vec<SqlError>,
    tries: usize,
}

impl Visitor for Constants<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if !is_computed_constant(expr) || self.tries > TRIES_MAX {
            return ControlFlow::Continue(());
        }
        self.tries += 1;
        let written = ExprWithAlias { expr: expr.clone(), alias: None };
        let none = DFSchema::empty();
        let planned = self.state.create_logical_expr_from_sql_expr(written, &none);
        let physical = planned.and_then(|logical| crate::predicate::physical(self.state, logical, &none));
        let one_row = RecordBatchOptions::new().with_row_count(Some(1));
        let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &one_row);
        if let (Ok(physical), Ok(batch)) = (physical, batch)
            && let Err(error) = physical.evaluate(&batch)
        {
            let end = self.found.last().map(|last| last.message.clone());
            let message = format!("`{expr}` fails for every record: {}", run_time_message(&error));
            // Around what fails, everything fails.
            if end.is_none_or(|end| !message.contains(end.split('`').nth(1).unwrap_or("\0"))) {
                self.found.push(at(expr, SqlError::new(message)));
            }
        }
        ControlFlow::Continue(())
    }
}

/// True for an operation on constants only.
fn is_computed_constant(expr: &Expr) -> bool {
    struct NoNames;
    impl Visitor for NoNames {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } => {
                    ControlFlow::Break(())
                }
                Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::Lambda(_) => {
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    let is_operation = matches!(
        expr,
        Expr::BinaryOp { .. } | Expr::UnaryOp { .. } | Expr::Function(_) | Expr::Cast { .. } | Expr::Extract { .. }
    );
    is_operation && Visit::visit(expr, &mut NoNames).is_continue()
}

/// The message about a function that is not there.
fn unknown_function(sql: &str, state: &SessionState, error: &DataFusionError) -> Option<SqlError> {
    let said = root(error).message().into_owned();
    let name = said.split_once("Invalid function '")?.1.split('\'').next()?.to_owned();
    let scalars = state.scalar_functions().keys();
    let aggregates = state.aggregate_functions().keys().chain(state.window_functions().keys());
    let known: Vec<&str> = scalars.chain(aggregates).map(String::as_str).collect();
    let nearest = did_you_mean(&name, known);
    if let Some(advice) = spellings::advice(&name.to_lowercase()) {
        return Some(SqlError::at(sql, &name, format!("there is no function `{name}`: {advice}")));
    }
    let list = if nearest.is_none() { ": `millstream functions` lists them" } else { "" };
    Some(SqlError::at(sql, &name, format!("there is no function `{name}`{list}")).with_help(nearest))
}

/// True where another message is the better one: names have their own.
fn is_about_names(error: &DataFusionError) -> bool {
    matches!(root(error), DataFusionError::SchemaError(_, _)) || root(error).message().contains("Invalid function")
}

struct Search<'a> {
    check: Check<'a>,
    with: Option<With>,
    scopes: Vec<Option<Scope>>,
    tries: usize,
}

/// What a part is computed over.
struct Scope {
    select: Select,
    with: Option<With>,
}

impl Visitor for Search<'_> {
    type Break = Option<SqlError>;

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let plain = Select {
            distinct: None,
            selection: None,
            group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
            having: None,
            qualify: None,
            ..select.clone()
        };
        // Where what it reads is wrong itself, its own parts say nothing.
        let one = Expr::Value(Value::Number("1".into(), false).into());
        let scopes = [self.with.clone(), None].into_iter().map(|with| Scope { select: plain.clone(), with });
        let scope = scopes.into_iter().find(|scope| (self.check)(scope.over(&one)).is_ok());
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        let Some(Some(scope)) = self.scopes.pop() else { return ControlFlow::Continue(()) };
        for (word, condition) in [("WHERE", &select.selection), ("HAVING", &select.having)] {
            let Some(condition) = condition else { continue };
            let Some(field) = self.field(&scope, condition) else { continue };
            if !matches!(field.data_type(), DataType::Boolean | DataType::Null) {
                let message = format!("`{condition}` is {}: {word} takes true or false", kind_of(&field));
                return ControlFlow::Break(Some(at(condition, SqlError::new(message))));
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        let Some(Some(scope)) = self.scopes.last() else { return ControlFlow::Continue(()) };
        self.tries += 1;
        if self.tries > TRIES_MAX {
            return ControlFlow::Break(None);
        }
        match (self.check)(scope.over(expr)) {
            Ok(_) => ControlFlow::Continue(()),
            // A name that is known elsewhere: of an outer SELECT, or of a lambda.
            Err(error) if is_about_names(&error) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(Some(self.explain(scope, expr, &error))),
        }
    }
}

impl Scope {
    /// `SELECT expr FROM …`
    fn over(&self, expr: &Expr) -> Statement {
        let alias = Ident::new("x");
        let item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
        let select = Select { projection: vec![item], ..self.select.clone() };
        let query = Query {
            with: self.with.clone(),
            body: Box::new(SetExpr::Select(Box::new(select))),
            order_by: None,
            limit_clause: None,
            fetch: None,
            locks: Vec::new(),
            for_clause: None,
            settings: None,
            format_clause: None,
            pipe_operators: Vec::new(),
        };
        Statement::Statement(Box::new(SqlStatement::Query(Box::new(query))))
    }
}

impl Search<'_> {
    /// The type of a part that is right by itself.
    fn field(&self, scope: &Scope, expr: &Expr) -> Option<FieldRef> {
        (self.check)(scope.over(expr)).ok()
    }

    fn explain(&self, scope: &Scope, expr: &Expr, error: &DataFusionError) -> SqlError {
        let said = match expr {
            Expr::CompoundIdentifier(parts) => self.about_path(scope, parts),
            Expr::CompoundFieldAccess { root, access_chain } => self.about_access(scope, root, access_chain),
            _ => None,
        };
        at(expr, said.unwrap_or_else(|| SqlError::new(self.message(scope, expr, error))))
    }

    fn message(&self, scope: &Scope, expr: &Expr, error: &DataFusionError) -> String {
        let kind = |e: &Expr| self.field(scope, e).map(|field| kind_of(&field));
        let said = match expr {
            Expr::BinaryOp { left, op, right } => {
                let (l, r) = (self.field(scope, left), self.field(scope, right));
                l.zip(r).map(|(l, r)| about_operands(left, op, right, (&l, &r)))
            }
            Expr::UnaryOp { op, expr } => kind(expr).map(|kind| {
                let takes = if *op == UnaryOperator::Not { "true or false" } else { "a number" };
                format!("`{expr}` is {kind}: `{op}` takes {takes}")
            }),
            Expr::Function(function) => Some(self.about_call(scope, function, error)),
            Expr::Cast { expr, data_type, .. } => kind(expr).map(|kind| match &**expr {
                Expr::Value(value) => format!("{value} can't be read as {}", data_type.to_string().to_lowercase()),
                _ => format!("`{expr}` is {kind}, which can't be cast to {}", data_type.to_string().to_lowercase()),
            }),
            Expr::Like { expr, .. } | Expr::ILike { expr, .. } | Expr::SimilarTo { expr, .. } => {
                kind(expr).map(|kind| format!("`{expr}` is {kind}: LIKE takes a string"))
            }
            Expr::InList { expr, list, .. } => {
                let own = kind(expr);
                let wrong = list.iter().find(|item| {
                    let equal =
                        Expr::BinaryOp { left: expr.clone(), op: BinaryOperator::Eq, right: Box::new((*item).clone()) };
                    (self.check)(scope.over(&equal)).is_err()
                });
                own.zip(wrong).map(|(kind, wrong)| format!("`{expr}` is {kind}: {wrong} can't be compared with it"))
            }
            Expr::Between { expr, low, high, .. } => {
                kind(expr).map(|kind| format!("`{expr}` is {kind}: it can't be compared with {low} and {high}"))
            }
            _ => None,
        };
        said.unwrap_or_else(|| run_time_message(error))
    }

    /// `payload.a` where `payload` is no struct, or has no `a`.
    fn about_path(&self, scope: &Scope, parts: &[Ident]) -> Option<SqlError> {
        for length in (1..parts.len()).rev() {
            let base = match &parts[..length] {
                [one] => Expr::Identifier(one.clone()),
                several => Expr::CompoundIdentifier(several.to_vec()),
            };
            if let Some(field) = self.field(scope, &base) {
                let fields: Vec<&str> = parts[length..].iter().map(|part| part.value.as_str()).collect();
                return Some(no_field(&base.to_string(), &field, &fields));
            }
        }
        None
    }

    /// As [`Self::about_path`], for `sentiment['label']`.
    fn about_access(&self, scope: &Scope, root: &Expr, chain: &[AccessExpr]) -> Option<SqlError> {
        let mut fields = Vec::new();
        for step in chain {
            match step {
                AccessExpr::Dot(Expr::Identifier(name)) => fields.push(name.value.as_str()),
                AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) }) => match &value.value {
                    Value::SingleQuotedString(name) => fields.push(name.as_str()),
                    _ => return None,
                },
                _ => return None,
            }
        }
        Some(no_field(&root.to_string(), &*self.field(scope, root)?, &fields))
    }

    fn about_call(&self, scope: &Scope, function: &Function, error: &DataFusionError) -> String {
        let name = function.name.to_string().to_lowercase();
        let said = error.to_string();
        // Our own functions say what they take.
        if let Some((_, own)) = said.split_once(&format!("Error during planning: {name} takes")) {
            let own = own.split(". No function matches").next().unwrap_or(own);
            return format!("{name} takes{}", in_our_words(own));
        }
        let arguments: Vec<&Expr> = arguments(function);
        let count = said.contains("arguments but received") && !said.contains("requires");
        if count || said.contains("zero arguments") || said.contains("to the signature") && arguments.is_empty() {
            return format!("{name} does not take {} argument{}", arguments.len(), plural(arguments.len()));
        }
        if !said.contains("signature") && !said.contains("No function matches") && !said.contains("requires") {
            return run_time_message(error);
        }
        let kinds: Vec<String> = arguments
            .iter()
            .filter_map(|arg| Some(format!("`{arg}` is {}", kind_of(&*self.field(scope, arg)?))))
            .collect();
        let json = if kinds.iter().any(|kind| kind.ends_with("is json")) { JSON_HINT } else { "" };
        match kinds.as_slice() {
            [] => format!("{name} can't be called like this"),
            [one] => format!("{one}, which {name} does not take{json}"),
            several => format!("{name} does not take these arguments: {}{json}", several.join(", ")),
        }
    }
}

/// What to do with json.
const JSON_HINT: &str = "; take text with ->>, or a value with json_get_int, json_get_float or json_get_bool";

/// What is said of `expr`, where it begins.
fn at(expr: &Expr, said: SqlError) -> SqlError {
    let start = expr.span().start;
    said.placed((start.line > 0).then_some((start.line as u32, start.column as u32)))
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

fn arguments(function: &Function) -> Vec<&Expr> {
    let FunctionArguments::List(list) = &function.args else { return Vec::new() };
    list.args
        .iter()
        .filter_map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
            | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. } => Some(expr),
            _ => None,
        })
        .collect()
}

/// `base` has no field at the path `fields`.
fn no_field(base: &str, field: &Field, fields: &[&str]) -> SqlError {
    let first = fields.first().copied().unwrap_or_default();
    match field.data_type() {
        _ if millstream_core::schema::is_json(field) => {
            let (last, path) = fields.split_last().unwrap_or((&first, &[]));
            let path: String = path.iter().map(|part| format!("->'{part}'")).collect();
            SqlError::new(format!(
                "`{base}` is json: write `{base}{path}->'{last}'` (json) or `{base}{path}->>'{last}'` (text)"
            ))
        }
        DataType::Struct(known) => {
            let names = known.iter().map(|f| f.name().as_str());
            match known.iter().find(|f| f.name() == first) {
                Some(inner) if fields.len() > 1 => no_field(&format!("{base}.{first}"), inner, &fields[1..]),
                _ => not_there(format!("`{base}` has no field `{first}`"), first, names),
            }
        }
        DataType::List(_) => SqlError::new(format!("`{base}` is a list: take an item of it first, `{base}[1]`")),
        _ => SqlError::new(format!("`{base}` is {}, which has no fields", kind_of(field))),
    }
}

fn about_operands(left: &Expr, op: &BinaryOperator, right: &Expr, (l, r): (&FieldRef, &FieldRef)) -> String {
    use BinaryOperator as B;
    let (lk, rk) = (kind_of(l), kind_of(r));
    let is_text = |e: &Expr| matches!(e, Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_)));
    let is_moment = |f: &FieldRef| matches!(f.data_type(), DataType::Timestamp(_, _) | DataType::Date32);
    let is_string = |f: &FieldRef| type_name(f.data_type()) == "string";
    match op {
        B::Eq | B::NotEq | B::Lt | B::LtEq | B::Gt | B::GtEq => match (is_text(left), is_text(right)) {
            (false, true) => format!("`{left}` is {lk}: {right} can't be compared with it"),
            (true, false) => format!("`{right}` is {rk}: {left} can't be compared with it"),
            _ => format!("`{left}` is {lk} and `{right}` is {rk}: they can't be compared"),
        },
        B::And | B::Or => {
            let wrong = if l.data_type() == &DataType::Boolean { (right, rk) } else { (left, lk) };
            format!("`{}` is {}: {op} takes true or false", wrong.0, wrong.1)
        }
        B::Plus | B::Minus | B::Multiply | B::Divide | B::Modulo => {
            let hint = if lk == "json" || rk == "json" {
                JSON_HINT
            } else if is_moment(l) || is_moment(r) {
                "; a moment is moved by a span of time: INTERVAL '1 day'"
            } else if *op == B::Plus && (is_string(l) || is_string(r)) {
                "; texts are joined with ||, and read as numbers with CAST(… AS int)"
            } else {
                ""
            };
            format!("`{left}` is {lk} and `{right}` is {rk}: `{op}` takes numbers{hint}")
        }
        B::PGRegexMatch | B::PGRegexIMatch | B::PGRegexNotMatch | B::PGRegexNotIMatch
            if is_string(l) && is_text(right) =>
        {
            format!("{right} is no regular expression")
        }
        _ => format!("`{left}` is {lk} and `{right}` is {rk}: `{op}` does not take them"),
    }
}

/// Arrow's names of types as the pipeline file's.
pub(crate) fn in_our_words(text: &str) -> String {
    const NAMES: &[(&str, &str)] = &[
        ("LargeUtf8", "string"),
        ("Utf8View", "string"),
        ("Utf8", "string"),
        ("UInt64", "int"),
        ("UInt32", "int"),
        ("UInt16", "int"),
        ("UInt8", "int"),
        ("Int64", "int"),
        ("Int32", "int"),
        ("Int16", "smallint"),
        ("Int8", "tinyint"),
        ("Float64", "float"),
        ("Float32", "float"),
        ("Boolean", "bool"),
        ("Date32", "date"),
        ("Timestamp(µs, \"UTC\")", "timestamp"),
        ("Timestamp(us)", "timestamp"),
        ("Timestamp(ns)", "timestamp"),
        ("Time64(ns)", "time"),
        ("Binary", "bytes"),
    ];
    NAMES.iter().fold(text.to_owned(), |text, (arrow, ours)| text.replace(arrow, ours))
}

/// The message about a column that is not there, where a text was put in double quotes, or a clock was meant.
fn quoted_text(sql: &str, error: &DataFusionError) -> Option<String> {
    let DataFusionError::SchemaError(schema, _) = root(error) else { return None };
    let SchemaError::FieldNotFound { field, .. } = &**schema else { return None };
    if let Some(advice) = spellings::advice(&field.name.to_lowercase()).filter(|_| field.name.starts_with("LOCALTIME"))
    {
        return Some(format!("no column `{}`: {advice}", field.name));
    }
    let is_quoted = sql.contains(&format!("\"{}\"", field.name));
    is_quoted.then(|| format!("no column `{}`: text is written in single quotes, '{}'", field.name, field.name))
}
