//! Expressions.

use crate::custom::pattern::Pattern;

/// An expression and the byte of the source that it is about.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: ExprKind,
}

/// What an expression is.
#[derive(Debug, Clone)]
pub(super) enum ExprKind {
    Literal(Literal),
    Name(String),
    /// `a.b`, `a.?b`
    Select {
        operand: Box<Expr>,
        field: String,
        optional: bool,
    },
    /// `has(a.b)`
    Has {
        operand: Box<Expr>,
        field: String,
    },
    /// `a[b]`, `a[?b]`
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
        optional: bool,
    },
    /// `a.f(b)`, `f(b)`
    Call {
        function: String,
        target: Option<Box<Expr>>,
        arguments: Vec<Expr>,
    },
    /// `a.matches("b")`
    Matches {
        operand: Box<Expr>,
        pattern: Pattern,
    },
    /// `[a, ?b]`
    List(Vec<(Expr, bool)>),
    /// `{a: b, ?c: d}`
    Map(Vec<(Expr, Expr, bool)>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary {
        operator: Operator,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// `a ? b : c`
    Choice {
        condition: Box<Expr>,
        yes: Box<Expr>,
        no: Box<Expr>,
    },
    /// `a.all(x, b)` and the like.
    Loop(Box<Loop>),
    /// `cel.bind(x, a, b)`
    Bind {
        name: String,
        value: Box<Expr>,
        body: Box<Expr>,
    },
    /// `a.optMap(x, b)`, and `a.optFlatMap(x, b)`, whose body is optional itself.
    OptMap {
        operand: Box<Expr>,
        name: String,
        body: Box<Expr>,
        flat: bool,
    },
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    /// As messages name it.
    pub(super) fn symbol(self) -> &'static str {
        match self {
            Self::Or => "||",
            Self::And => "&&",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

/// A comprehension: `filter` picks, `body` decides or makes.
#[derive(Debug, Clone)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    pub(super) range: Expr,
    /// The item; of a map the key. With two names: index or key.
    pub(super) name: String,
    /// The item, when there are two names.
    pub(super) second: Option<String>,
    pub(super) filter: Option<Expr>,
    pub(super) body: Expr,
}

/// What a comprehension gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    Filter,
    List,
    Map,
}
