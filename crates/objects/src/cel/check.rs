//! What can be said of an expression before it is evaluated: that its names, functions and fields exist. Types are followed as far as the schema
//! says them; where it does not, anything goes.

use super::CompileError;
use super::ast::{Expr, ExprKind, Literal, Loop, LoopKind, Operator};
use super::{library, names};
use crate::custom::structural::{Kind, Node};

/// What is known of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type<'n> {
    /// Nothing.
    Dyn,
    /// A truth value.
    Bool,
    /// A whole number.
    Int,
    /// A number with a fraction.
    Double,
    /// Text.
    String,
    /// What stands at a place of a schema.
    Place(Place<'n>),
}

/// A place of a schema, compared by identity.
#[derive(Debug, Clone, Copy)]
pub struct Place<'n> {
    node: &'n Node,
    is_object: bool,
}

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.node, other.node)
    }
}

impl<'n> Type<'n> {
    /// What stands at a place.
    pub fn of(node: &'n Node) -> Type<'n> {
        Self::at(node, false)
    }

    /// The object as a whole, which also has its type and its name.
    pub fn object(node: &'n Node) -> Type<'n> {
        Self::at(node, true)
    }

    fn at(node: &'n Node, is_object: bool) -> Type<'n> {
        let plain = node.checks.format.is_none();
        match node.kind {
            Kind::Unstated | Kind::IntOrString => Type::Dyn,
            Kind::Object | Kind::Array => Type::Place(Place { node, is_object: is_object || node.embedded }),
            Kind::String if plain => Type::String,
            Kind::String => Type::Dyn,
            Kind::Integer => Type::Int,
            Kind::Number => Type::Double,
            Kind::Boolean => Type::Bool,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Dyn => "dyn",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::String => "string",
            Self::Place(place) if place.node.kind == Kind::Array => "list",
            Self::Place(_) => "object",
        }
    }
}

type Checked<'n> = Result<Type<'n>, CompileError>;
type Variables<'v, 'n> = [(&'v str, Type<'n>)];

struct Scope<'s, 'n> {
    name: &'s str,
    ty: Type<'n>,
    outer: Option<&'s Scope<'s, 'n>>,
}

struct Checker<'c, 'n> {
    source: &'c str,
    variables: &'c Variables<'c, 'n>,
}

/// Fails for names, functions and fields that do not exist.
pub(super) fn check(source: &str, expr: &Expr, variables: &Variables<'_, '_>) -> Result<(), CompileError> {
    infer(source, expr, variables).map(drop)
}

/// The type of an expression.
pub(super) fn infer<'n>(source: &str, expr: &Expr, variables: &Variables<'_, 'n>) -> Checked<'n> {
    Checker { source, variables }.infer(expr, None)
}

/// Whether an expression names a variable.
pub(super) fn mentions(expr: &Expr, name: &str) -> bool {
    match &expr.kind {
        ExprKind::Name(other) => other == name,
        _ => children(expr).iter().any(|child| mentions(child, name)),
    }
}

fn children(expr: &Expr) -> Vec<&Expr> {
    match &expr.kind {
        ExprKind::Literal(_) | ExprKind::Name(_) => Vec::new(),
        ExprKind::Select { operand, .. }
        | ExprKind::Has { operand, .. }
        | ExprKind::Matches { operand, .. }
        | ExprKind::Not(operand)
        | ExprKind::Negate(operand) => vec![operand],
        ExprKind::Index { operand, index, .. } => vec![operand, index],
        ExprKind::Call { target, arguments, .. } => target.as_deref().into_iter().chain(arguments).collect(),
        ExprKind::List(items) => items.iter().map(|(item, _)| item).collect(),
        ExprKind::Map(entries) => entries.iter().flat_map(|(key, value, _)| [key, value]).collect(),
        ExprKind::Binary { left, right, .. } => vec![left, right],
        ExprKind::Choice { condition, yes, no } => vec![condition, yes, no],
        ExprKind::Loop(all) => [&all.range].into_iter().chain(&all.filter).chain([&all.body]).collect(),
        ExprKind::Bind { value, body, .. } => vec![value, body],
        ExprKind::OptMap { operand, body, .. } => vec![operand, body],
    }
}

impl<'n> Checker<'_, 'n> {
    fn error(&self, at: usize, message: impl Into<String>) -> Checked<'n> {
        Err(CompileError::new(self.source, at, message.into()))
    }

    fn infer(&self, expr: &Expr, scope: Option<&Scope<'_, 'n>>) -> Checked<'n> {
        match &expr.kind {
            ExprKind::Literal(literal) => Ok(match literal {
                Literal::Bool(_) => Type::Bool,
                Literal::Int(_) => Type::Int,
                Literal::Double(_) => Type::Double,
                Literal::String(_) => Type::String,
                Literal::Null | Literal::Uint(_) | Literal::Bytes(_) => Type::Dyn,
            }),
            ExprKind::Name(name) => self.name(expr.at, name, scope),
            ExprKind::Select { operand, field, optional } => {
                let operand = self.infer(operand, scope)?;
                let ty = self.field(expr.at, operand, field)?;
                Ok(if *optional { Type::Dyn } else { ty })
            }
            ExprKind::Has { operand, field } => {
                let operand = self.infer(operand, scope)?;
                self.field(expr.at, operand, field)?;
                Ok(Type::Bool)
            }
            ExprKind::Index { operand, index, optional } => {
                self.infer(index, scope)?;
                let ty = self.element(self.infer(operand, scope)?);
                Ok(if *optional { Type::Dyn } else { ty })
            }
            ExprKind::Call { function, target, arguments } => {
                self.call(expr.at, function, target.as_deref(), arguments, scope)
            }
            ExprKind::Matches { operand, .. } => {
                let operand = self.infer(operand, scope)?;
                match operand {
                    Type::Dyn | Type::String => Ok(Type::Bool),
                    other => self.no_overload(expr.at, "matches", &[other, Type::String]),
                }
            }
            ExprKind::Not(operand) => match self.infer(operand, scope)? {
                Type::Bool | Type::Dyn => Ok(Type::Bool),
                other => self.no_overload(expr.at, "!_", &[other]),
            },
            ExprKind::Negate(operand) => self.infer(operand, scope),
            ExprKind::Binary { operator, left, right } => self.binary(expr.at, *operator, left, right, scope),
            ExprKind::Choice { condition, yes, no } => {
                self.infer(condition, scope)?;
                let (yes, no) = (self.infer(yes, scope)?, self.infer(no, scope)?);
                Ok(if yes == no { yes } else { Type::Dyn })
            }
            ExprKind::Loop(all) => self.comprehension(all, scope),
            ExprKind::Bind { name, value, body } => {
                let ty = self.infer(value, scope)?;
                self.infer(body, Some(&Scope { name, ty, outer: scope }))
            }
            ExprKind::OptMap { operand, name, body, .. } => {
                self.infer(operand, scope)?;
                self.infer(body, Some(&Scope { name, ty: Type::Dyn, outer: scope }))?;
                Ok(Type::Dyn)
            }
            ExprKind::List(_) | ExprKind::Map(_) => {
                for child in children(expr) {
                    self.infer(child, scope)?;
                }
                Ok(Type::Dyn)
            }
        }
    }

    fn name(&self, at: usize, name: &str, scope: Option<&Scope<'_, 'n>>) -> Checked<'n> {
        let mut inner = scope;
        while let Some(scope) = inner {
            if scope.name == name {
                return Ok(scope.ty);
            }
            inner = scope.outer;
        }
        match self.variables.iter().find(|(known, _)| *known == name) {
            Some((_, ty)) => Ok(*ty),
            None if library::type_named(name).is_some() => Ok(Type::Dyn),
            None => self.error(at, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn field(&self, at: usize, operand: Type<'n>, field: &str) -> Checked<'n> {
        let Type::Place(place) = operand else {
            return match operand {
                Type::Dyn => Ok(Type::Dyn),
                other => self.error(at, format!("type '{}' does not support field selection", other.name())),
            };
        };
        if place.node.kind == Kind::Array {
            return self.error(at, "type 'list' does not support field selection");
        }
        let name = if place.node.properties.is_empty() { field.into() } else { names::unescape(field) };
        if let Some(child) = place.node.child(&name) {
            return Ok(Type::of(child));
        }
        match &*name {
            "apiVersion" | "kind" if place.is_object => Ok(Type::String),
            "metadata" if place.is_object => Ok(Type::Dyn),
            // What is kept without being known cannot be spoken of either.
            _ if place.node.preserve_unknown && place.node.properties.is_empty() => Ok(Type::Dyn),
            _ => self.error(at, format!("undefined field '{field}'")),
        }
    }

    fn element(&self, operand: Type<'n>) -> Type<'n> {
        let Type::Place(place) = operand else { return Type::Dyn };
        let inner = place.node.items.as_deref().or(place.node.additional.as_deref());
        inner.map_or(Type::Dyn, Type::of)
    }

    fn no_overload(&self, at: usize, function: &str, types: &[Type<'n>]) -> Checked<'n> {
        let types: Vec<&str> = types.iter().map(|ty| ty.name()).collect();
        self.error(
            at,
            format!("found no matching overload for '{function}' applied to '({})'", types.join(", ")),
        )
    }

    fn binary(
        &self,
        at: usize,
        operator: Operator,
        left: &Expr,
        right: &Expr,
        scope: Option<&Scope<'_, 'n>>,
    ) -> Checked<'n> {
        let (left, right) = (self.infer(left, scope)?, self.infer(right, scope)?);
        let scalar = |ty: Type<'n>| matches!(ty, Type::Bool | Type::Int | Type::Double | Type::String);
        let function = || format!("_{}_", operator.symbol());
        match operator {
            Operator::And | Operator::Or => {
                match [left, right].iter().all(|ty| matches!(ty, Type::Bool | Type::Dyn)) {
                    true => Ok(Type::Bool),
                    false => self.no_overload(at, &function(), &[left, right]),
                }
            }
            Operator::Equal | Operator::NotEqual if scalar(left) && scalar(right) && left != right => {
                self.no_overload(at, &function(), &[left, right])
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual
                if [left, right].iter().any(|ty| matches!(ty, Type::Place(_)))
                    || (left == Type::String || right == Type::String)
                        && scalar(left)
                        && scalar(right)
                        && left != right =>
            {
                self.no_overload(at, &function(), &[left, right])
            }
            Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual
            | Operator::In => Ok(Type::Bool),
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => match (left, right) {
                (a, b) if scalar(a) && scalar(b) && a != b => self.no_overload(at, &function(), &[a, b]),
                (a, b) if a == b && scalar(a) => Ok(a),
                _ => Ok(Type::Dyn),
            },
        }
    }

    fn call(
        &self,
        at: usize,
        function: &str,
        target: Option<&Expr>,
        arguments: &[Expr],
        scope: Option<&Scope<'_, 'n>>,
    ) -> Checked<'n> {
        let mut types = Vec::new();
        for argument in arguments {
            types.push(self.infer(argument, scope)?);
        }
        let known = |table: &[(&str, usize, usize)], name: &str| {
            let fits = |least: usize, most: usize| (least..=most).contains(&arguments.len());
            table.iter().find(|(known, ..)| *known == name).map(|(_, least, most)| fits(*least, *most))
        };
        let namespace = match target.map(|target| &target.kind) {
            Some(ExprKind::Name(name))
                if library::is_namespace(name) && self.name(at, name, scope).is_err() =>
            {
                Some(name.as_str())
            }
            _ => None,
        };
        let found = match (target, namespace) {
            (_, Some("format")) if arguments.is_empty() => library::is_format(function).then_some(true),
            (_, Some(namespace)) => known(library::FUNCTIONS, &format!("{namespace}.{function}")),
            (Some(target), None) => {
                let target = self.infer(target, scope)?;
                types.insert(0, target);
                known(library::METHODS, function)
            }
            (None, None) => known(library::FUNCTIONS, function),
        };
        match found {
            None => self.error(at, format!("undeclared reference to '{function}' (in container '')")),
            Some(false) => self.no_overload(at, function, &types),
            Some(true) => Ok(result(function)),
        }
    }

    fn comprehension(&self, all: &Loop, scope: Option<&Scope<'_, 'n>>) -> Checked<'n> {
        let range = self.infer(&all.range, scope)?;
        let is_list = matches!(range, Type::Place(place) if place.node.kind == Kind::Array);
        let is_map = matches!(range, Type::Place(place) if place.node.kind == Kind::Object);
        if !is_list && !is_map && range != Type::Dyn {
            let message = format!("expression of type '{}' cannot be range of a comprehension", range.name());
            return self.error(all.range.at, message);
        }
        let item = self.element(range);
        let first = match (&all.second, is_list, is_map) {
            (None, true, _) => item,
            (Some(_), true, _) => Type::Int,
            (_, _, true) => Type::String,
            _ => Type::Dyn,
        };
        let outer = all.second.as_deref().map(|name| Scope { name, ty: item, outer: scope });
        let scope = Scope { name: &all.name, ty: first, outer: outer.as_ref().or(scope) };
        if let Some(filter) = &all.filter {
            self.infer(filter, Some(&scope))?;
        }
        let body = self.infer(&all.body, Some(&scope))?;
        match all.kind {
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne | LoopKind::Filter
                if !matches!(body, Type::Bool | Type::Dyn) =>
            {
                self.error(all.body.at, format!("expected type 'bool' but found '{}'", body.name()))
            }
            LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne => Ok(Type::Bool),
            // The picked items are of the same kind, so the list is as good as the one they come from.
            LoopKind::Filter if is_list => Ok(range),
            LoopKind::Filter | LoopKind::List | LoopKind::Map => Ok(Type::Dyn),
        }
    }
}

/// What a function gives, when that is the same for all it takes.
fn result<'n>(function: &str) -> Type<'n> {
    match function {
        "bool" | "contains" | "containsCIDR" | "containsIP" | "endsWith" | "hasValue" | "isCIDR"
        | "isGlobalUnicast" | "isGreaterThan" | "isIP" | "isInteger" | "isLessThan" | "isLoopback"
        | "isQuantity" | "isSemver" | "isSorted" | "isURL" | "isUnspecified" | "matches" | "startsWith" => {
            Type::Bool
        }
        "size" | "int" | "lastIndexOf" | "indexOf" | "prefixLength" | "family" => Type::Int,
        "double" => Type::Double,
        "charAt" | "format" | "getHost" | "getHostname" | "getPort" | "getScheme" | "join" | "lowerAscii"
        | "string" | "substring" | "trim" | "upperAscii" => Type::String,
        _ => Type::Dyn,
    }
}
