//! The Common Expression Language as Kubernetes has it: rules of custom resources, admission policies, match conditions.
//!
//! Own, because nothing else meters: an expression that anybody may store is evaluated with every write, so every step of it is paid from a
//! [`Budget`] (steps, iterations, and the length of what is searched or compared), and nesting is bounded when it is read. Values of objects are
//! borrowed and read by their place in the schema, so that a number, a date or an escaped field name is what the schema says.
//!
//! ```text
//! text ─► lexer ─► parser ─► check (names, functions, fields) ─► eval (budget) ─► value
//! ```

mod ast;
mod check;
mod eval;
mod lexer;
mod library;
mod names;
mod parser;
mod value;

use std::fmt;

pub use check::Type;
pub use library::{Semver, Url};
pub use value::{Key, Value};

/// What one evaluation may cost.
pub const CALL_COST_MAX: u64 = 1_000_000;
/// What all evaluations for one object may cost.
pub const OBJECT_COST_MAX: u64 = 10_000_000;

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    line: usize,
    column: usize,
    message: String,
    source_line: String,
}

impl CompileError {
    fn new(source: &str, at: usize, message: String) -> Self {
        let before = source.get(..at).unwrap_or(source);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let source_line = source.lines().nth(line - 1).unwrap_or_default().to_owned();
        Self { line, column, message, source_line }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, message, source_line } = self;
        let dots = ".".repeat(column - 1);
        write!(f, "ERROR: <input>:{line}:{column}: {message}\n | {source_line}\n | {dots}^")
    }
}

/// Why an evaluation gave no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// What the expression does cannot be done with these values.
    #[error("{0}")]
    Failed(String),
    /// The budget is used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    TooExpensive,
    /// It nests too deep.
    #[error("operation cancelled: expression nests too deep")]
    TooDeep,
}

impl EvalError {
    fn no_overload() -> Self {
        Self::Failed("no such overload".to_owned())
    }

    fn overflow() -> Self {
        Self::Failed("integer overflow".to_owned())
    }

    /// Whether no other part of the expression can make up for it.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

/// What is left to spend.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u64,
}

impl Budget {
    /// So many steps.
    pub fn new(cost_max: u64) -> Self {
        Self { left: cost_max }
    }

    /// What is left.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.left = self.left.checked_sub(cost).ok_or(EvalError::TooExpensive)?;
        Ok(())
    }
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Program {
    expr: ast::Expr,
}

impl Program {
    /// Reads an expression that may use these names.
    pub fn compile(source: &str, variables: &[(&str, Type<'_>)]) -> Result<Program, CompileError> {
        let expr = parser::parse(source)?;
        check::check(source, &expr, variables)?;
        Ok(Program { expr })
    }

    /// The same for one that must give a truth value.
    pub fn compile_condition(source: &str, variables: &[(&str, Type<'_>)]) -> Result<Program, CompileError> {
        let program = Self::compile(source, variables)?;
        let ty = check::infer(source, &program.expr, variables)?;
        match ty {
            Type::Dyn | Type::Bool => Ok(program),
            _ => Err(CompileError::new(source, 0, "must evaluate to a bool".to_owned())),
        }
    }

    /// The same for one that must give text.
    pub fn compile_text(source: &str, variables: &[(&str, Type<'_>)]) -> Result<Program, CompileError> {
        let program = Self::compile(source, variables)?;
        let ty = check::infer(source, &program.expr, variables)?;
        match ty {
            Type::Dyn | Type::String => Ok(program),
            _ => Err(CompileError::new(source, 0, "must evaluate to a string".to_owned())),
        }
    }

    /// Whether the expression uses a variable of this name.
    pub fn mentions(&self, name: &str) -> bool {
        check::mentions(&self.expr, name)
    }

    /// Evaluates it; at most [`CALL_COST_MAX`] of the budget is spent.
    pub fn evaluate<'a>(
        &'a self,
        variables: &[(&str, Value<'a>)],
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        let mut own = Budget::new(budget.left.min(CALL_COST_MAX));
        let before = own.left;
        let mut evaluator = eval::Evaluator { variables, budget: &mut own, depth: 0 };
        let value = evaluator.evaluate(&self.expr, None);
        budget.left = budget.left.saturating_sub(before - own.left);
        value
    }
}

/// Nanoseconds of a duration as Go writes it: `1h30m`, `-1.5s`.
pub fn duration_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, after) = rest.split_at_checked(digits)?;
        let letters = after.len() - after.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '.').len();
        let (unit, after) = after.split_at_checked(letters)?;
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// A decimal number times a unit.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || number.len() > 30 {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
    let fraction = fraction.get(..fraction.len().min(15))?;
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(unit)?.checked_add(digits(fraction)?.checked_mul(unit)? / scale)
}
