//! Tokens to expressions. Macros become expressions of their own.

use super::CompileError;
use super::ast::{Expr, ExprKind, Literal, Loop, LoopKind, Operator};
use super::lexer::{Token, tokens};
use super::names;
use crate::custom::pattern::Pattern;

/// Nesting of one expression at most.
const DEPTH_MAX: usize = 64;
/// The same, counting operators that follow each other too.
const HEIGHT_MAX: usize = 100;
/// Operands of `&&` and `||` in a row at most.
const OPERANDS_MAX: usize = 1000;
/// Bytes of one expression at most.
const BYTES_MAX: usize = 100 << 10;

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Expr, CompileError> {
    if source.len() > BYTES_MAX {
        return Err(CompileError::new(source, 0, format!("expression is longer than {BYTES_MAX} bytes")));
    }
    let mut parser = Parser { source, tokens: tokens(source)?, next: 0, depth: 0 };
    let expr = parser.expression()?;
    match parser.tokens.get(parser.next) {
        None => Ok(expr),
        Some((token, at)) => {
            Err(CompileError::new(source, *at, format!("Syntax error: extraneous input {}", shown(token))))
        }
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<(Token, usize)>,
    next: usize,
    depth: usize,
}

type Parsed = Result<Expr, CompileError>;

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("'{name}'"),
        Token::Punct(punct) => format!("'{punct}'"),
        Token::String(text) => format!("{text:?}"),
        Token::Int(number) => format!("'{number}'"),
        Token::Uint(number) => format!("'{number}u'"),
        Token::Double(number) => format!("'{number}'"),
        Token::IntMin => "'9223372036854775808'".to_owned(),
        Token::Bytes(_) => "bytes".to_owned(),
    }
}

impl Parser<'_> {
    fn error<T>(&self, at: usize, what: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.source, at, what.into()))
    }

    /// An expression, unless it nests too deep.
    fn node(&self, at: usize, kind: ExprKind) -> Parsed {
        let height = 1 + kind.children().iter().map(|child| child.height).max().unwrap_or(0);
        if height > HEIGHT_MAX {
            return self.error(at, "expression recursion limit exceeded");
        }
        Ok(Expr { at, height, kind })
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.source.len(), |(_, at)| *at)
    }

    fn peek(&self, punct: &str) -> bool {
        matches!(self.tokens.get(self.next), Some((Token::Punct(found), _)) if *found == punct)
    }

    fn take(&mut self, punct: &str) -> bool {
        let found = self.peek(punct);
        self.next += usize::from(found);
        found
    }

    fn take_any<T: Copy>(&mut self, puncts: &[(&str, T)]) -> Option<T> {
        puncts.iter().find(|(punct, _)| self.take(punct)).map(|(_, value)| *value)
    }

    fn expect(&mut self, punct: &str) -> Result<(), CompileError> {
        if self.take(punct) {
            return Ok(());
        }
        let found = self.tokens.get(self.next).map_or("<EOF>".to_owned(), |(token, _)| shown(token));
        self.error(self.at(), format!("Syntax error: mismatched input {found} expecting '{punct}'"))
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error(self.at(), "expression recursion limit exceeded");
        }
        let result = self.choice();
        self.depth -= 1;
        result
    }

    fn choice(&mut self) -> Parsed {
        let condition = self.binary(0)?;
        let at = self.at();
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.expression()?;
        self.expect(":")?;
        let no = self.expression()?;
        let kind = ExprKind::Choice { condition: condition.into(), yes: yes.into(), no: no.into() };
        self.node(at, kind)
    }

    /// Binary operators, loosest first.
    fn binary(&mut self, level: usize) -> Parsed {
        use Operator::{
            Add, And, Divide, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Multiply, NotEqual, Or,
            Remainder, Subtract,
        };
        const LEVELS: &[&[(&str, Operator)]] = &[
            &[("||", Or)],
            &[("&&", And)],
            &[
                ("==", Equal),
                ("!=", NotEqual),
                ("<=", LessOrEqual),
                (">=", GreaterOrEqual),
                ("<", Less),
                (">", Greater),
            ],
            &[("+", Add), ("-", Subtract)],
            &[("*", Multiply), ("/", Divide), ("%", Remainder)],
        ];
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        if let [(_, operator @ (Or | And))] = operators {
            return self.chain(level, *operator, left);
        }
        loop {
            let at = self.at();
            let operator = match self.take_any(operators) {
                Some(operator) => operator,
                None if level == 2 && self.take_in() => Operator::In,
                None => return Ok(left),
            };
            let right = self.binary(level + 1)?;
            left = self.node(at, ExprKind::Binary { operator, left: left.into(), right: right.into() })?;
        }
    }

    /// Long chains of conditions are common: they become a balanced tree, which means the same.
    fn chain(&mut self, level: usize, operator: Operator, first: Expr) -> Parsed {
        let mut operands = vec![first];
        let at = self.at();
        while self.take(operator.symbol()) {
            if operands.len() == OPERANDS_MAX {
                return self.error(self.at(), "expression recursion limit exceeded");
            }
            operands.push(self.binary(level + 1)?);
        }
        while operands.len() > 1 {
            let mut paired = Vec::with_capacity(operands.len().div_ceil(2));
            let mut rest = operands.into_iter();
            while let Some(left) = rest.next() {
                paired.push(match rest.next() {
                    Some(right) => {
                        self.node(at, ExprKind::Binary { operator, left: left.into(), right: right.into() })?
                    }
                    None => left,
                });
            }
            operands = paired;
        }
        operands
            .pop()
            .ok_or_else(|| CompileError::new(self.source, at, "Syntax error: no operand".to_owned()))
    }

    fn take_in(&mut self) -> bool {
        let found = matches!(self.tokens.get(self.next), Some((Token::Name(name), _)) if name == "in");
        self.next += usize::from(found);
        found
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let mut nots = 0;
        while self.take("!") {
            nots += 1;
        }
        if nots > 0 {
            let operand = self.member()?;
            if nots % 2 == 1 {
                return self.node(at, ExprKind::Not(operand.into()));
            }
            // Twice not is a truth value all the same.
            let not = self.node(at, ExprKind::Not(operand.into()))?;
            return self.node(at, ExprKind::Not(not.into()));
        }
        let mut minuses = 0;
        while self.take("-") {
            minuses += 1;
        }
        if minuses == 0 {
            return self.member();
        }
        let literal = match self.tokens.get(self.next) {
            Some((Token::Int(number), _)) => Some(Literal::Int(number.wrapping_neg())),
            Some((Token::IntMin, _)) => Some(Literal::Int(i64::MIN)),
            Some((Token::Double(number), _)) => Some(Literal::Double(-number)),
            _ => None,
        };
        if let (Some(literal), true) = (literal, minuses % 2 == 1) {
            self.next += 1;
            let literal = self.node(at, ExprKind::Literal(literal))?;
            return self.suffixes(literal);
        }
        let operand = self.member()?;
        match minuses % 2 {
            0 => Ok(operand),
            _ => self.node(at, ExprKind::Negate(operand.into())),
        }
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    fn suffixes(&mut self, mut operand: Expr) -> Parsed {
        for _ in 0..DEPTH_MAX * 2 {
            let at = self.at();
            if self.take(".") {
                let optional = self.take("?");
                let name = self.name()?;
                operand = if !optional && self.take("(") {
                    let arguments = self.list(")")?;
                    self.method(at, operand, name, arguments)?
                } else {
                    let kind = ExprKind::Select { operand: operand.into(), field: name, optional };
                    self.node(at, kind)?
                };
            } else if self.take("[") {
                let optional = self.take("?");
                let index = self.expression()?;
                self.expect("]")?;
                let kind = ExprKind::Index { operand: operand.into(), index: index.into(), optional };
                operand = self.node(at, kind)?;
            } else {
                return Ok(operand);
            }
        }
        self.error(self.at(), "expression recursion limit exceeded")
    }

    /// A field or function name after a dot: reserved words are allowed there, except `in` and the constants.
    fn name(&mut self) -> Result<String, CompileError> {
        match self.tokens.get(self.next) {
            Some((Token::Name(name), _)) if !matches!(name.as_str(), "in" | "true" | "false" | "null") => {
                self.next += 1;
                Ok(name.clone())
            }
            Some((token, at)) => {
                let what = format!("Syntax error: no viable alternative at input {}", shown(token));
                self.error(*at, what)
            }
            None => self.error(self.source.len(), "Syntax error: mismatched input '<EOF>'"),
        }
    }

    fn list(&mut self, close: &str) -> Result<Vec<Expr>, CompileError> {
        let mut items = Vec::new();
        while !self.take(close) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.take(close) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let Some((token, _)) = self.tokens.get(self.next).cloned() else {
            return self.error(at, "Syntax error: mismatched input '<EOF>' expecting an expression");
        };
        self.next += 1;
        let literal = |literal| self.node(at, ExprKind::Literal(literal));
        match token {
            Token::Int(number) => literal(Literal::Int(number)),
            Token::Uint(number) => literal(Literal::Uint(number)),
            Token::Double(number) => literal(Literal::Double(number)),
            Token::String(text) => literal(Literal::String(text)),
            Token::Bytes(bytes) => literal(Literal::Bytes(bytes)),
            Token::IntMin => self.error(at, "invalid int literal"),
            Token::Punct("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Punct("[") => self.list_literal(at),
            Token::Punct("{") => self.map_literal(at),
            Token::Punct(".") => {
                let name = self.name()?;
                self.named(at, name)
            }
            Token::Punct(punct) => {
                self.error(at, format!("Syntax error: no viable alternative at input '{punct}'"))
            }
            Token::Name(name) => match name.as_str() {
                "true" => literal(Literal::Bool(true)),
                "false" => literal(Literal::Bool(false)),
                "null" => literal(Literal::Null),
                reserved if names::RESERVED.contains(&reserved) => {
                    self.error(at, format!("reserved identifier: {reserved}"))
                }
                _ => self.named(at, name),
            },
        }
    }

    fn named(&mut self, at: usize, name: String) -> Parsed {
        if !self.take("(") {
            return self.node(at, ExprKind::Name(name));
        }
        let mut arguments = self.list(")")?;
        if name == "has" {
            return match (arguments.pop().map(|argument| argument.kind), arguments.is_empty()) {
                (Some(ExprKind::Select { operand, field, optional: false }), true) => {
                    self.node(at, ExprKind::Has { operand, field })
                }
                _ => self.error(at, "invalid argument to has() macro"),
            };
        }
        self.node(at, ExprKind::Call { function: name, target: None, arguments })
    }

    fn list_literal(&mut self, at: usize) -> Parsed {
        let mut items = Vec::new();
        while !self.take("]") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.take("]") {
                    break;
                }
            }
            let optional = self.take("?");
            items.push((self.expression()?, optional));
        }
        self.node(at, ExprKind::List(items))
    }

    fn map_literal(&mut self, at: usize) -> Parsed {
        let mut entries = Vec::new();
        while !self.take("}") {
            if !entries.is_empty() {
                self.expect(",")?;
                if self.take("}") {
                    break;
                }
            }
            let optional = self.take("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?, optional));
        }
        self.node(at, ExprKind::Map(entries))
    }

    /// A call on an operand: a macro when it has the form of one.
    fn method(&mut self, at: usize, target: Expr, function: String, mut arguments: Vec<Expr>) -> Parsed {
        if let ExprKind::Name(namespace) = &target.kind
            && namespace == "cel"
            && function == "bind"
        {
            let mut arguments = arguments.into_iter();
            return match (arguments.next(), arguments.next(), arguments.next()) {
                (Some(Expr { kind: ExprKind::Name(name), .. }), Some(value), Some(body)) => {
                    self.node(at, ExprKind::Bind { name, value: value.into(), body: body.into() })
                }
                _ => self.error(at, "cel.bind() variable names must be simple identifiers"),
            };
        }
        if matches!(function.as_str(), "optMap" | "optFlatMap") && arguments.len() == 2 {
            let body = arguments.pop();
            return match (arguments.pop().map(|name| name.kind), body) {
                (Some(ExprKind::Name(name)), Some(body)) => {
                    let flat = function == "optFlatMap";
                    let kind = ExprKind::OptMap { operand: target.into(), name, body: body.into(), flat };
                    self.node(at, kind)
                }
                _ => self.error(at, format!("{function}() variable name must be a simple identifier")),
            };
        }
        if let Some(kind) = loop_kind(&function, arguments.len()) {
            return self.comprehension(at, target, &function, kind, arguments);
        }
        if function == "matches"
            && let [Expr { kind: ExprKind::Literal(Literal::String(text)), at: pattern_at, .. }] =
                arguments.as_slice()
        {
            let pattern = Pattern::new(text);
            return match pattern {
                Ok(pattern) => self.node(at, ExprKind::Matches { operand: target.into(), pattern }),
                Err(error) => self.error(*pattern_at, format!("invalid matches argument: {error}")),
            };
        }
        self.node(at, ExprKind::Call { function, target: Some(target.into()), arguments })
    }

    fn comprehension(
        &mut self,
        at: usize,
        range: Expr,
        function: &str,
        kind: LoopKind,
        arguments: Vec<Expr>,
    ) -> Parsed {
        let mut arguments = arguments.into_iter();
        let not_a_name = format!("argument must be a simple name in {function}()");
        let Some(Expr { kind: ExprKind::Name(name), .. }) = arguments.next() else {
            return self.error(at, not_a_name);
        };
        let mut rest: Vec<Expr> = arguments.collect();
        let two_names = matches!(function, "transformList" | "transformMap")
            || rest.len() == 2 && matches!(function, "all" | "exists" | "exists_one" | "existsOne");
        let second = if two_names {
            match (!rest.is_empty()).then(|| rest.remove(0).kind) {
                Some(ExprKind::Name(name)) => Some(name),
                _ => return self.error(at, not_a_name),
            }
        } else {
            None
        };
        let Some(body) = rest.pop() else { return self.error(at, not_a_name) };
        let filter = rest.pop();
        let all = Loop { kind, range, name, second, filter, body };
        self.node(at, ExprKind::Loop(all.into()))
    }
}

fn loop_kind(function: &str, arguments: usize) -> Option<LoopKind> {
    Some(match (function, arguments) {
        ("all", 2 | 3) => LoopKind::All,
        ("exists", 2 | 3) => LoopKind::Exists,
        ("exists_one" | "existsOne", 2 | 3) => LoopKind::ExistsOne,
        ("filter", 2) => LoopKind::Filter,
        ("map", 2 | 3) | ("transformList", 3 | 4) => LoopKind::List,
        ("transformMap", 3 | 4) => LoopKind::Map,
        _ => return None,
    })
}
