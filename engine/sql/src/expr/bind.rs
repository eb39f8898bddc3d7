//! Binding: from the syntax tree to [`Expr`], settling names, types, coercions and the types of parameters.

use super::{Comparison, Expr, Function, Operator};
use crate::error::SqlError;
use crate::types::{DataType, Value, cast, parse_text};
use bigdecimal::BigDecimal;
use sqlparser::ast;
use std::str::FromStr;

/// A column that an expression may name.
#[derive(Debug, Clone)]
pub(crate) struct ScopeColumn {
    pub table: String,
    pub name: String,
    pub data_type: DataType,
}

/// An aggregate function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AggregateKind {
    Count,
    Sum,
    Min,
    Max,
    Average,
    Every,
    Any,
    StringAggregate,
}

/// A call of an aggregate.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub kind: AggregateKind,
    /// `None` for `count(*)`.
    pub argument: Option<Expr>,
    pub separator: Option<Expr>,
    pub distinct: bool,
    pub filter: Option<Expr>,
}

/// Expressions of GROUP BY with their types, and the aggregates found so far.
type GroupScope<'a> = (&'a [(ast::Expr, DataType)], &'a mut Vec<Aggregate>);

/// Binds expressions over a scope.
pub(crate) struct Binder<'a> {
    pub scope: &'a [ScopeColumn],
    /// Types of `$1`...; `Unknown` until something settles them.
    pub parameters: &'a mut Vec<DataType>,
    /// Expressions of GROUP BY with their types, and the aggregates found so far, when the query is grouped: the
    /// expression is then over (groups, aggregates).
    pub grouping: Option<GroupScope<'a>>,
}

type Bound = (Expr, DataType);

/// Last part of a name, or an error for a schema that does not exist.
pub(crate) fn object_name(name: &ast::ObjectName) -> Result<String, SqlError> {
    let parts: Result<Vec<_>, _> = name
        .0
        .iter()
        .map(|part| match part {
            ast::ObjectNamePart::Identifier(ident) => Ok(fold(ident)),
            other => Err(SqlError::unsupported(other)),
        })
        .collect();
    let parts = parts?;
    match parts.as_slice() {
        [name] => Ok(name.clone()),
        [schema, name] | [_, schema, name] if schema == "public" => Ok(name.clone()),
        [.., schema, name] => Ok(format!("{schema}.{name}")),
        [] => Err(SqlError::syntax("a name is missing")),
    }
}

/// Unquoted names are lower case.
pub(crate) fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// The type a syntax tree names.
pub(crate) fn type_of(data_type: &ast::DataType) -> Result<DataType, SqlError> {
    use ast::DataType as T;
    let length = |length: &Option<ast::CharacterLength>| match length {
        Some(ast::CharacterLength::IntegerLength { length, .. }) => Some(*length as u32),
        _ => None,
    };
    let numeric = |info: &ast::ExactNumberInfo| match info {
        ast::ExactNumberInfo::None => DataType::Numeric(None),
        ast::ExactNumberInfo::Precision(precision) => DataType::Numeric(Some((*precision as u16, 0))),
        ast::ExactNumberInfo::PrecisionAndScale(precision, scale) => {
            DataType::Numeric(Some((*precision as u16, *scale as u16)))
        }
    };
    Ok(match data_type {
        T::Boolean | T::Bool => DataType::Boolean,
        T::SmallInt(_) | T::Int2(_) => DataType::SmallInt,
        T::Int(_) | T::Integer(_) | T::Int4(_) => DataType::Integer,
        T::BigInt(_) | T::Int8(_) => DataType::BigInt,
        T::Real | T::Float4 => DataType::Real,
        T::Float(ast::ExactNumberInfo::Precision(bits)) if *bits <= 24 => DataType::Real,
        T::Float(_) | T::Float8 | T::Double(_) | T::DoublePrecision => DataType::Double,
        T::Numeric(info) | T::Decimal(info) | T::Dec(info) => numeric(info),
        T::Text => DataType::Text,
        T::Varchar(limit) | T::CharacterVarying(limit) | T::CharVarying(limit) => {
            DataType::Varchar(length(limit))
        }
        T::Char(limit) | T::Character(limit) => DataType::Char(length(limit).unwrap_or(1)),
        T::Bytea => DataType::Bytea,
        T::Date => DataType::Date,
        T::Time(_, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => DataType::Time,
        T::Timestamp(_, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => DataType::Timestamp,
        T::Timestamp(..) => DataType::TimestampTz,
        T::Interval { .. } => DataType::Interval,
        T::Uuid => DataType::Uuid,
        T::JSON | T::JSONB => DataType::Json,
        T::Custom(name, _) => match object_name(name)?.as_str() {
            "bpchar" | "name" | "pg_catalog.text" | "regclass" | "pg_catalog.regclass" => DataType::Text,
            "oid" => DataType::BigInt,
            "timestamptz" => DataType::TimestampTz,
            name => return Err(SqlError::new("42704", format!("type \"{name}\" does not exist"))),
        },
        T::Regclass => DataType::Text,
        other => return Err(SqlError::unsupported(format!("type {other}"))),
    })
}

impl Binder<'_> {
    /// Binds and converts to `target` as an assignment does.
    pub(crate) fn bind_as(&mut self, expr: &ast::Expr, target: DataType) -> Result<Expr, SqlError> {
        let bound = self.bind(expr)?;
        self.coerce(bound, target, false)
    }

    /// Binds a condition.
    pub(crate) fn condition(&mut self, expr: &ast::Expr) -> Result<Expr, SqlError> {
        let (expr, data_type) = self.bind(expr)?;
        match data_type {
            DataType::Boolean | DataType::Unknown => self.coerce((expr, data_type), DataType::Boolean, false),
            other => Err(SqlError::new(
                "42804",
                format!(
                    "argument of a condition must be type boolean, not type {}",
                    other.name()
                ),
            )),
        }
    }

    /// Converts a bound expression; settles the type of an untyped literal or parameter.
    pub(crate) fn coerce(
        &mut self,
        (expr, from): Bound,
        to: DataType,
        explicit: bool,
    ) -> Result<Expr, SqlError> {
        // Unlimited text and numeric are stored as their limited kin: no conversion, so that a key column stays one.
        let same = match to {
            DataType::Text | DataType::Varchar(None) => from.is_text(),
            DataType::Numeric(None) => matches!(from, DataType::Numeric(_)),
            _ => from == to,
        };
        if same || to == DataType::Unknown {
            return Ok(expr);
        }
        match expr {
            Expr::Parameter(index) if from == DataType::Unknown => {
                if self.parameters[index] == DataType::Unknown {
                    self.parameters[index] = match to {
                        DataType::Varchar(_) | DataType::Char(_) => DataType::Varchar(None),
                        DataType::Numeric(_) => DataType::Numeric(None),
                        other => other,
                    };
                }
                let settled = self.parameters[index];
                if settled == to {
                    Ok(expr)
                } else {
                    Ok(Expr::Cast {
                        expr: Box::new(expr),
                        target: to,
                        explicit,
                    })
                }
            }
            Expr::Constant(value) => Ok(Expr::Constant(cast(value, to, explicit)?)),
            expr => {
                if !explicit && !assignable(from, to) {
                    let message = format!("cannot convert type {} to {} here", from.name(), to.name());
                    return Err(SqlError::new("42804", message));
                }
                Ok(Expr::Cast {
                    expr: Box::new(expr),
                    target: to,
                    explicit,
                })
            }
        }
    }

    /// Gives two expressions one type.
    fn unify(&mut self, left: Bound, right: Bound) -> Result<(Expr, Expr, DataType), SqlError> {
        let target = common(left.1, right.1)?;
        Ok((
            self.coerce(left, target, false)?,
            self.coerce(right, target, false)?,
            target,
        ))
    }

    fn unify_all(&mut self, bound: Vec<Bound>) -> Result<(Vec<Expr>, DataType), SqlError> {
        let target = bound
            .iter()
            .try_fold(DataType::Unknown, |target, (_, next)| common(target, *next))?;
        let target = if target == DataType::Unknown {
            DataType::Text
        } else {
            target
        };
        let list = bound
            .into_iter()
            .map(|bound| self.coerce(bound, target, false))
            .collect::<Result<_, _>>()?;
        Ok((list, target))
    }

    fn column(&self, table: Option<&str>, name: &str) -> Result<Bound, SqlError> {
        let mut found = self
            .scope
            .iter()
            .enumerate()
            .filter(|(_, column)| column.name == name && table.is_none_or(|table| column.table == table));
        let Some((index, column)) = found.next() else {
            if let Some(table) = table
                && !self.scope.iter().any(|column| column.table == table)
            {
                let message = format!("missing FROM-clause entry for table \"{table}\"");
                return Err(SqlError::new("42P01", message));
            }
            return Err(SqlError::undefined_column(name));
        };
        // In ON CONFLICT the scope has `excluded` beside the table: an unqualified name means the table.
        if table.is_none() && found.any(|(_, other)| other.table != "excluded") {
            return Err(SqlError::new(
                "42702",
                format!("column reference \"{name}\" is ambiguous"),
            ));
        }
        if self.grouping.is_some() {
            let message = format!(
                "column \"{}.{name}\" must appear in the GROUP BY clause or be used in an aggregate function",
                column.table
            );
            return Err(SqlError::new("42803", message));
        }
        Ok((Expr::Column(index), column.data_type))
    }

    /// Binds an expression.
    pub(crate) fn bind(&mut self, expr: &ast::Expr) -> Result<Bound, SqlError> {
        use ast::Expr as E;
        if let Some((groups, _)) = &self.grouping
            && let Some(index) = groups.iter().position(|(group, _)| group == expr)
        {
            return Ok((Expr::Column(index), groups[index].1));
        }
        match expr {
            E::Identifier(ident) => self.column(None, &fold(ident)),
            E::CompoundIdentifier(parts) => match parts.as_slice() {
                [.., table, name] => self.column(Some(&fold(table)), &fold(name)),
                _ => Err(SqlError::syntax(expr)),
            },
            E::Nested(inner) => self.bind(inner),
            E::Value(value) => self.literal(&value.value),
            E::TypedString(typed) => {
                let target = type_of(&typed.data_type)?;
                let text = typed.value.value.clone().into_string().unwrap_or_default();
                Ok((Expr::Constant(parse_text(target, &text)?), target))
            }
            E::Interval(interval) => self.interval(interval),
            E::Cast { expr, data_type, .. } => {
                let target = type_of(data_type)?;
                let bound = self.bind(expr)?;
                Ok((self.coerce(bound, target, true)?, target))
            }
            E::UnaryOp { op, expr } => self.unary(*op, expr),
            E::BinaryOp { left, op, right } => self.binary(left, op, right),
            E::Function(function) => self.function(function),
            E::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(operand.as_deref(), conditions, else_result.as_deref()),
            other => self.predicate(other),
        }
    }

    fn predicate(&mut self, expr: &ast::Expr) -> Result<Bound, SqlError> {
        use ast::Expr as E;
        let boolean = |expr| Ok((expr, DataType::Boolean));
        match expr {
            E::IsNull(expr) => boolean(Expr::IsNull {
                expr: Box::new(self.bind(expr)?.0),
                negated: false,
            }),
            E::IsNotNull(expr) => boolean(Expr::IsNull {
                expr: Box::new(self.bind(expr)?.0),
                negated: true,
            }),
            E::IsTrue(expr) => boolean(self.is_boolean(expr, true, false)?),
            E::IsNotTrue(expr) => boolean(self.is_boolean(expr, true, true)?),
            E::IsFalse(expr) => boolean(self.is_boolean(expr, false, false)?),
            E::IsNotFalse(expr) => boolean(self.is_boolean(expr, false, true)?),
            E::IsDistinctFrom(left, right) | E::IsNotDistinctFrom(left, right) => {
                let negated = matches!(expr, E::IsNotDistinctFrom(..));
                let (left, right) = (self.bind(left)?, self.bind(right)?);
                let (left, right, _) = self.unify(left, right)?;
                boolean(Expr::DistinctFrom {
                    left: Box::new(left),
                    right: Box::new(right),
                    negated,
                })
            }
            E::InList { expr, list, negated } => {
                let mut bound = vec![self.bind(expr)?];
                for item in list {
                    bound.push(self.bind(item)?);
                }
                let (mut list, _) = self.unify_all(bound)?;
                let expr = Box::new(list.remove(0));
                boolean(Expr::In {
                    expr,
                    list,
                    negated: *negated,
                })
            }
            E::Like {
                expr: text,
                pattern,
                negated,
                escape_char: None,
                ..
            }
            | E::ILike {
                expr: text,
                pattern,
                negated,
                escape_char: None,
                ..
            } => {
                let ignore_case = matches!(expr, E::ILike { .. });
                let (text, pattern) = (self.text(text)?, self.text(pattern)?);
                boolean(Expr::Like {
                    expr: Box::new(text),
                    pattern: Box::new(pattern),
                    negated: *negated,
                    ignore_case,
                })
            }
            other => self.special_function(other),
        }
    }

    /// Functions that have syntax of their own.
    fn special_function(&mut self, expr: &ast::Expr) -> Result<Bound, SqlError> {
        use ast::Expr as E;
        match expr {
            E::Between {
                expr,
                negated,
                low,
                high,
            } => {
                let above = self.compare(expr, Comparison::GreaterEqual, low)?;
                let below = self.compare(expr, Comparison::LessEqual, high)?;
                let both = Expr::And(Box::new(above), Box::new(below));
                let expr = if *negated { Expr::Not(Box::new(both)) } else { both };
                Ok((expr, DataType::Boolean))
            }
            E::Extract { field, expr, .. } => {
                let field = Expr::Constant(Value::Text(field.to_string().to_lowercase()));
                let (value, data_type) = self.bind(expr)?;
                self.check_moment(data_type)?;
                Ok((
                    Expr::Call {
                        function: Function::Extract,
                        arguments: vec![field, value],
                    },
                    DataType::Double,
                ))
            }
            E::Ceil { expr, .. } => self.call(Function::Ceil, &[expr]),
            E::Floor { expr, .. } => self.call(Function::Floor, &[expr]),
            E::Position { expr, r#in } => self.call(Function::Position, &[r#in, expr]),
            E::Substring {
                expr,
                substring_from: Some(from),
                substring_for,
                ..
            } => {
                let mut arguments: Vec<&ast::Expr> = vec![expr, from];
                arguments.extend(substring_for.as_deref());
                self.call(Function::Substring, &arguments)
            }
            E::Trim {
                trim_where,
                trim_what,
                expr,
                ..
            } => {
                let function = match trim_where {
                    Some(ast::TrimWhereField::Leading) => Function::TrimLeft,
                    Some(ast::TrimWhereField::Trailing) => Function::TrimRight,
                    _ => Function::Trim,
                };
                let mut arguments: Vec<&ast::Expr> = vec![expr];
                arguments.extend(trim_what.as_deref());
                self.call(function, &arguments)
            }
            E::AtTimeZone { .. } | E::Collate { .. } => Err(SqlError::unsupported(expr)),
            other => Err(SqlError::unsupported(format!("this expression here: {other}"))),
        }
    }

    fn is_boolean(&mut self, expr: &ast::Expr, expected: bool, negated: bool) -> Result<Expr, SqlError> {
        Ok(Expr::IsBoolean {
            expr: Box::new(self.condition(expr)?),
            expected,
            negated,
        })
    }

    fn text(&mut self, expr: &ast::Expr) -> Result<Expr, SqlError> {
        let bound = self.bind(expr)?;
        self.coerce(bound, DataType::Text, true)
    }

    fn literal(&mut self, value: &ast::Value) -> Result<Bound, SqlError> {
        use ast::Value as V;
        Ok(match value {
            V::Number(text, _) => number(text)?,
            V::Boolean(value) => (Expr::Constant(Value::Boolean(*value)), DataType::Boolean),
            V::Null => (Expr::Constant(Value::Null), DataType::Unknown),
            V::HexStringLiteral(_) => return Err(SqlError::unsupported("a bit string")),
            V::Placeholder(name) => {
                let index: usize = name
                    .strip_prefix('$')
                    .and_then(|digits| digits.parse().ok())
                    .filter(|index| (1..=65_535).contains(index))
                    .ok_or_else(|| SqlError::syntax(format!("\"{name}\" is not a parameter")))?;
                if self.parameters.len() < index {
                    self.parameters.resize(index, DataType::Unknown);
                }
                (Expr::Parameter(index - 1), self.parameters[index - 1])
            }
            other => {
                let text = other
                    .clone()
                    .into_string()
                    .ok_or_else(|| SqlError::unsupported(other))?;
                (Expr::Constant(Value::Text(text)), DataType::Unknown)
            }
        })
    }

    fn interval(&mut self, interval: &ast::Interval) -> Result<Bound, SqlError> {
        let ast::Expr::Value(value) = interval.value.as_ref() else {
            return Err(SqlError::unsupported("an interval that is not a literal"));
        };
        let mut text = value
            .value
            .clone()
            .into_string()
            .unwrap_or_else(|| value.value.to_string());
        if let Some(unit) = &interval.leading_field {
            text = format!("{text} {}", unit.to_string().to_lowercase());
        }
        Ok((
            Expr::Constant(parse_text(DataType::Interval, &text)?),
            DataType::Interval,
        ))
    }

    fn unary(&mut self, operator: ast::UnaryOperator, expr: &ast::Expr) -> Result<Bound, SqlError> {
        match operator {
            ast::UnaryOperator::Not => Ok((Expr::Not(Box::new(self.condition(expr)?)), DataType::Boolean)),
            ast::UnaryOperator::Plus => self.bind(expr),
            ast::UnaryOperator::Minus => {
                if let ast::Expr::Value(value) = expr
                    && let ast::Value::Number(text, _) = &value.value
                {
                    return number(&format!("-{text}"));
                }
                let (expr, data_type) = self.bind(expr)?;
                if data_type.numeric_rank().is_none() && data_type != DataType::Interval {
                    return Err(SqlError::new(
                        "42883",
                        format!("operator does not exist: - {}", data_type.name()),
                    ));
                }
                Ok((Expr::Negate(Box::new(expr)), data_type))
            }
            other => Err(SqlError::unsupported(format!("operator {other}"))),
        }
    }

    fn compare(
        &mut self,
        left: &ast::Expr,
        comparison: Comparison,
        right: &ast::Expr,
    ) -> Result<Expr, SqlError> {
        let (left, right) = (self.bind(left)?, self.bind(right)?);
        let (left, right, _) = self.unify(left, right)?;
        Ok(Expr::Compare {
            comparison,
            left: Box::new(left),
            right: Box::new(right),
        })
    }

    fn binary(
        &mut self,
        left: &ast::Expr,
        op: &ast::BinaryOperator,
        right: &ast::Expr,
    ) -> Result<Bound, SqlError> {
        use ast::BinaryOperator as B;
        let comparison = match op {
            B::Eq => Comparison::Equal,
            B::NotEq => Comparison::NotEqual,
            B::Lt => Comparison::Less,
            B::LtEq => Comparison::LessEqual,
            B::Gt => Comparison::Greater,
            B::GtEq => Comparison::GreaterEqual,
            B::And | B::Or => {
                let (left, right) = (Box::new(self.condition(left)?), Box::new(self.condition(right)?));
                let expr = if matches!(op, B::And) {
                    Expr::And(left, right)
                } else {
                    Expr::Or(left, right)
                };
                return Ok((expr, DataType::Boolean));
            }
            B::StringConcat => {
                let (left, right) = (self.bind(left)?, self.bind(right)?);
                let target = if left.1 == DataType::Bytea {
                    DataType::Bytea
                } else {
                    DataType::Text
                };
                let left = self.coerce(left, target, true)?;
                let right = self.coerce(right, target, true)?;
                return Ok((Expr::Concat(Box::new(left), Box::new(right)), target));
            }
            B::Plus => return self.arithmetic(Operator::Add, left, right),
            B::Minus => return self.arithmetic(Operator::Subtract, left, right),
            B::Multiply => return self.arithmetic(Operator::Multiply, left, right),
            B::Divide => return self.arithmetic(Operator::Divide, left, right),
            B::Modulo => return self.arithmetic(Operator::Modulo, left, right),
            other => return Err(SqlError::unsupported(format!("operator {other}"))),
        };
        Ok((self.compare(left, comparison, right)?, DataType::Boolean))
    }

    fn arithmetic(
        &mut self,
        operator: Operator,
        left: &ast::Expr,
        right: &ast::Expr,
    ) -> Result<Bound, SqlError> {
        use DataType as T;
        let (left, right) = (self.bind(left)?, self.bind(right)?);
        let is_moment = |data_type| {
            matches!(
                data_type,
                T::Date | T::Time | T::Timestamp | T::TimestampTz | T::Interval
            )
        };
        if !is_moment(left.1) && !is_moment(right.1) {
            let (left, right, data_type) = self.unify(left, right)?;
            if data_type.numeric_rank().is_none() {
                let message = format!("operator does not exist: {0} with {0}", data_type.name());
                return Err(SqlError::new("42883", message));
            }
            let result = if matches!(data_type, T::Numeric(_)) {
                T::Numeric(None)
            } else {
                data_type
            };
            return Ok((
                Expr::Arithmetic {
                    operator,
                    left: Box::new(left),
                    right: Box::new(right),
                },
                result,
            ));
        }
        let (left_type, right_type, result) = moment_types(left.1, operator, right.1)?;
        let left = Box::new(self.coerce(left, left_type, true)?);
        let right = Box::new(self.coerce(right, right_type, true)?);
        Ok((
            Expr::Arithmetic {
                operator,
                left,
                right,
            },
            result,
        ))
    }

    fn case(
        &mut self,
        operand: Option<&ast::Expr>,
        conditions: &[ast::CaseWhen],
        otherwise: Option<&ast::Expr>,
    ) -> Result<Bound, SqlError> {
        let mut tests = Vec::new();
        let mut results = Vec::new();
        for when in conditions {
            tests.push(match operand {
                Some(operand) => self.compare(operand, Comparison::Equal, &when.condition)?,
                None => self.condition(&when.condition)?,
            });
            results.push(self.bind(&when.result)?);
        }
        results.push(match otherwise {
            Some(otherwise) => self.bind(otherwise)?,
            None => (Expr::Constant(Value::Null), DataType::Unknown),
        });
        let (mut results, data_type) = self.unify_all(results)?;
        let otherwise = Box::new(results.pop().expect("the ELSE branch was pushed last"));
        Ok((
            Expr::Case {
                conditions: tests.into_iter().zip(results).collect(),
                otherwise,
            },
            data_type,
        ))
    }

    fn function(&mut self, call: &ast::Function) -> Result<Bound, SqlError> {
        let name = object_name(&call.name)?;
        let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
        let mut arguments: Vec<&ast::Expr> = Vec::new();
        let mut star = false;
        let mut distinct = false;
        if let ast::FunctionArguments::List(list) = &call.args {
            distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
            for argument in &list.args {
                match argument {
                    ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => arguments.push(expr),
                    ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Wildcard) => star = true,
                    other => return Err(SqlError::unsupported(format!("argument {other}"))),
                }
            }
        }
        if call.over.is_some() {
            return Err(SqlError::unsupported("a window function"));
        }
        if let Some(kind) = aggregate_kind(name) {
            return self.aggregate(kind, call, &arguments, star, distinct);
        }
        let constant = |text: &str| Ok((Expr::Constant(Value::Text(text.into())), DataType::Text));
        match name {
            "coalesce" => {
                let bound = arguments
                    .iter()
                    .map(|expr| self.bind(expr))
                    .collect::<Result<Vec<_>, _>>()?;
                let (list, data_type) = self.unify_all(bound)?;
                Ok((Expr::Coalesce(list), data_type))
            }
            "now"
            | "current_timestamp"
            | "transaction_timestamp"
            | "statement_timestamp"
            | "clock_timestamp" => Ok((Expr::Now(DataType::TimestampTz), DataType::TimestampTz)),
            "localtimestamp" => Ok((Expr::Now(DataType::Timestamp), DataType::Timestamp)),
            "current_date" => Ok((Expr::Now(DataType::Date), DataType::Date)),
            "current_time" | "localtime" => Ok((Expr::Now(DataType::Time), DataType::Time)),
            "version" => constant(crate::session::VERSION_TEXT),
            "current_user" | "session_user" | "user" => constant("aquifer"),
            "current_database" | "current_catalog" => constant("aquifer"),
            "current_schema" => constant("public"),
            "date_trunc" | "date_part" => self.moment_function(name, &arguments),
            _ => match Function::named(name) {
                Some(function) => self.call(function, &arguments),
                None => Err(SqlError::new(
                    "42883",
                    format!("function {name}() does not exist"),
                )),
            },
        }
    }

    fn check_moment(&self, data_type: DataType) -> Result<(), SqlError> {
        use DataType::{Date, Interval, Time, Timestamp, TimestampTz};
        if matches!(data_type, Date | Interval | Time | Timestamp | TimestampTz) {
            return Ok(());
        }
        Err(SqlError::new(
            "42883",
            format!("function does not exist for type {}", data_type.name()),
        ))
    }

    fn moment_function(&mut self, name: &str, arguments: &[&ast::Expr]) -> Result<Bound, SqlError> {
        let [field, value] = arguments else {
            return Err(SqlError::new(
                "42883",
                format!("function {name} takes two arguments"),
            ));
        };
        let field = self.text(field)?;
        let (value, data_type) = self.bind(value)?;
        self.check_moment(data_type)?;
        let (function, result) = match name {
            "date_part" => (Function::Extract, DataType::Double),
            _ if data_type == DataType::TimestampTz => (Function::DateTruncate, DataType::TimestampTz),
            _ => (Function::DateTruncate, DataType::Timestamp),
        };
        Ok((
            Expr::Call {
                function,
                arguments: vec![field, value],
            },
            result,
        ))
    }

    fn call(&mut self, function: Function, arguments: &[&ast::Expr]) -> Result<Bound, SqlError> {
        let bound = arguments
            .iter()
            .map(|expr| self.bind(expr))
            .collect::<Result<Vec<_>, _>>()?;
        let wrong = || {
            SqlError::new(
                "42883",
                format!("function {function:?} does not take these arguments"),
            )
        };
        if let Some(signature) = function.signature() {
            if bound.len() < signature.required || bound.len() > signature.arguments.len() {
                return Err(wrong());
            }
            let arguments = bound
                .into_iter()
                .zip(signature.arguments)
                .map(|(bound, target)| self.coerce(bound, *target, true))
                .collect::<Result<_, _>>()?;
            return Ok((Expr::Call { function, arguments }, signature.result));
        }
        match function {
            Function::Concat => {
                let arguments = bound
                    .into_iter()
                    .map(|bound| self.coerce(bound, DataType::Text, true))
                    .collect::<Result<_, _>>()?;
                Ok((Expr::Call { function, arguments }, DataType::Text))
            }
            Function::Greatest | Function::Least | Function::NullIf => {
                if bound.is_empty() || (function == Function::NullIf && bound.len() != 2) {
                    return Err(wrong());
                }
                let (arguments, data_type) = self.unify_all(bound)?;
                Ok((Expr::Call { function, arguments }, data_type))
            }
            _ => self.numeric_function(function, bound),
        }
    }

    fn numeric_function(&mut self, function: Function, mut bound: Vec<Bound>) -> Result<Bound, SqlError> {
        let wrong = || {
            SqlError::new(
                "42883",
                format!("function {function:?} does not take these arguments"),
            )
        };
        if bound.is_empty() || bound.len() > 2 {
            return Err(wrong());
        }
        let places = if bound.len() == 2 { bound.pop() } else { None };
        let (value, data_type) = bound.pop().ok_or_else(wrong)?;
        data_type.numeric_rank().ok_or_else(wrong)?;
        // Integers keep their type only in abs; the rest goes through double, with places through numeric.
        let target = match data_type {
            DataType::Numeric(_) => DataType::Numeric(None),
            _ if places.is_some() => DataType::Numeric(None),
            DataType::Real | DataType::Double => DataType::Double,
            other if function == Function::Abs => other,
            _ => DataType::Double,
        };
        let mut arguments = vec![self.coerce((value, data_type), target, true)?];
        if let Some(places) = places {
            arguments.push(self.coerce(places, DataType::Integer, true)?);
        }
        Ok((Expr::Call { function, arguments }, target))
    }

    fn aggregate(
        &mut self,
        kind: AggregateKind,
        call: &ast::Function,
        arguments: &[&ast::Expr],
        star: bool,
        distinct: bool,
    ) -> Result<Bound, SqlError> {
        let Some((groups, _)) = &self.grouping else {
            return Err(SqlError::new("42803", "aggregate functions are not allowed here"));
        };
        let groups = groups.len();
        // The argument is over the rows of the table, not over the groups.
        let mut inner = Binder {
            scope: self.scope,
            parameters: self.parameters,
            grouping: None,
        };
        let filter = call
            .filter
            .as_deref()
            .map(|filter| inner.condition(filter))
            .transpose()?;
        let mut separator = None;
        let bound = match arguments {
            [] if star && kind == AggregateKind::Count => None,
            [argument] => Some(inner.bind(argument)?),
            [argument, delimiter] if kind == AggregateKind::StringAggregate => {
                separator = Some(inner.text(delimiter)?);
                Some((inner.text(argument)?, DataType::Text))
            }
            _ => {
                return Err(SqlError::new(
                    "42883",
                    "an aggregate does not take these arguments",
                ));
            }
        };
        let argument_type = bound.as_ref().map_or(DataType::BigInt, |bound| bound.1);
        let result = aggregate_type(kind, argument_type)?;
        let argument = match (bound, kind) {
            (Some(bound), AggregateKind::Average | AggregateKind::Sum) => {
                Some(inner.coerce(bound, result, true)?)
            }
            (bound, _) => bound.map(|bound| bound.0),
        };
        let Some((_, aggregates)) = &mut self.grouping else {
            unreachable!("checked above")
        };
        aggregates.push(Aggregate {
            kind,
            argument,
            separator,
            distinct,
            filter,
        });
        Ok((Expr::Column(groups + aggregates.len() - 1), result))
    }
}

/// What each side of an operator with a date, time or interval becomes, and the result.
fn moment_types(
    left: DataType,
    operator: Operator,
    right: DataType,
) -> Result<(DataType, DataType, DataType), SqlError> {
    use DataType as T;
    Ok(match (left, operator, right) {
        (T::Date, Operator::Add | Operator::Subtract, T::Integer | T::SmallInt) => {
            (T::Date, T::Integer, T::Date)
        }
        (T::Integer | T::SmallInt, Operator::Add, T::Date) => (T::Integer, T::Date, T::Date),
        (T::Date, Operator::Subtract, T::Date | T::Unknown) => (T::Date, T::Date, T::Integer),
        (T::Date | T::Timestamp, Operator::Add | Operator::Subtract, T::Interval) => {
            (T::Timestamp, T::Interval, T::Timestamp)
        }
        (T::TimestampTz, Operator::Add | Operator::Subtract, T::Interval | T::Unknown) => {
            (T::TimestampTz, T::Interval, T::TimestampTz)
        }
        (T::Interval, Operator::Add, T::Date | T::Timestamp) => (T::Interval, T::Timestamp, T::Timestamp),
        (T::Interval, Operator::Add, T::TimestampTz) => (T::Interval, T::TimestampTz, T::TimestampTz),
        (T::Timestamp, Operator::Subtract, T::Timestamp | T::Date) => {
            (T::Timestamp, T::Timestamp, T::Interval)
        }
        (T::TimestampTz, Operator::Subtract, T::TimestampTz | T::Timestamp | T::Date) => {
            (T::TimestampTz, T::TimestampTz, T::Interval)
        }
        (T::Interval, Operator::Add | Operator::Subtract, T::Interval | T::Unknown) => {
            (T::Interval, T::Interval, T::Interval)
        }
        (T::Interval, Operator::Multiply | Operator::Divide, right) if right.numeric_rank().is_some() => {
            (T::Interval, T::Double, T::Interval)
        }
        (left, Operator::Multiply, T::Interval) if left.numeric_rank().is_some() => {
            (T::Double, T::Interval, T::Interval)
        }
        (left, _, right) => {
            let message = format!("operator does not exist: {} with {}", left.name(), right.name());
            return Err(SqlError::new("42883", message));
        }
    })
}

fn aggregate_kind(name: &str) -> Option<AggregateKind> {
    Some(match name {
        "count" => AggregateKind::Count,
        "sum" => AggregateKind::Sum,
        "min" => AggregateKind::Min,
        "max" => AggregateKind::Max,
        "avg" => AggregateKind::Average,
        "every" | "bool_and" => AggregateKind::Every,
        "bool_or" => AggregateKind::Any,
        "string_agg" => AggregateKind::StringAggregate,
        _ => return None,
    })
}

fn aggregate_type(kind: AggregateKind, argument: DataType) -> Result<DataType, SqlError> {
    use DataType as T;
    let wrong = || {
        SqlError::new(
            "42883",
            format!("function does not exist for type {}", argument.name()),
        )
    };
    Ok(match kind {
        AggregateKind::Count => T::BigInt,
        AggregateKind::Min | AggregateKind::Max => argument,
        AggregateKind::Sum => match argument {
            T::SmallInt | T::Integer => T::BigInt,
            T::BigInt | T::Numeric(_) => T::Numeric(None),
            T::Real | T::Double => argument,
            _ => return Err(wrong()),
        },
        AggregateKind::Average => match argument {
            T::SmallInt | T::Integer | T::BigInt | T::Numeric(_) => T::Numeric(None),
            T::Real | T::Double => T::Double,
            _ => return Err(wrong()),
        },
        AggregateKind::Every | AggregateKind::Any if argument == T::Boolean => T::Boolean,
        AggregateKind::StringAggregate => T::Text,
        _ => return Err(wrong()),
    })
}

/// An integer literal is int4, or int8, or numeric, whichever is the first to hold it; with a point or exponent numeric.
fn number(text: &str) -> Result<Bound, SqlError> {
    if let Ok(value) = text.parse::<i32>() {
        return Ok((Expr::Constant(Value::Int4(value)), DataType::Integer));
    }
    if let Ok(value) = text.parse::<i64>() {
        return Ok((Expr::Constant(Value::Int8(value)), DataType::BigInt));
    }
    let value =
        BigDecimal::from_str(text).map_err(|_| SqlError::syntax(format!("\"{text}\" is not a number")))?;
    Ok((Expr::Constant(Value::Numeric(value)), DataType::Numeric(None)))
}

/// Implicit and assignment conversions between types.
fn assignable(from: DataType, to: DataType) -> bool {
    use DataType as T;
    if from == T::Unknown || to.is_text() || (from.numeric_rank().is_some() && to.numeric_rank().is_some()) {
        return true;
    }
    match (from, to) {
        (T::Date, T::Timestamp | T::TimestampTz)
        | (T::Timestamp | T::TimestampTz, T::Timestamp | T::TimestampTz | T::Date | T::Time)
        | (T::Interval, T::Time)
        | (T::Time, T::Interval) => true,
        (from, T::Json) => from.is_text(),
        (from, to) => std::mem::discriminant(&from) == std::mem::discriminant(&to),
    }
}

/// The type two operands meet in.
fn common(left: DataType, right: DataType) -> Result<DataType, SqlError> {
    use DataType as T;
    let unlimited = |data_type| match data_type {
        T::Varchar(_) => T::Text,
        T::Numeric(_) => T::Numeric(None),
        other => other,
    };
    let (left, right) = (unlimited(left), unlimited(right));
    if left == right || right == T::Unknown {
        return Ok(left);
    }
    if left == T::Unknown {
        return Ok(right);
    }
    if let (Some(left_rank), Some(right_rank)) = (left.numeric_rank(), right.numeric_rank()) {
        let wider = if left_rank >= right_rank { left } else { right };
        // A numeric and a float meet in double; limits of numerics do not matter in between.
        return Ok(match wider {
            T::Numeric(_) => T::Numeric(None),
            T::Real => {
                if left == right {
                    T::Real
                } else {
                    T::Double
                }
            }
            other => other,
        });
    }
    Ok(match (left, right) {
        // Blank-padded text meets plain text as it is stored; of two padded ones the longer counts.
        (T::Char(left), T::Char(right)) => T::Char(left.max(right)),
        (left, right) if left.is_text() && right.is_text() => T::Text,
        (T::Json, right) if right.is_text() => T::Text,
        (left, T::Json) if left.is_text() => T::Text,
        (T::Date, T::Timestamp) | (T::Timestamp, T::Date) => T::Timestamp,
        (T::TimestampTz, T::Date | T::Timestamp) | (T::Date | T::Timestamp, T::TimestampTz) => T::TimestampTz,
        (left, right) => {
            let message = format!("operator does not exist: {} with {}", left.name(), right.name());
            return Err(SqlError::new("42883", message));
        }
    })
}
