//! Text to tokens.

use super::CompileError;

/// A token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A name or keyword.
    Name(String),
    /// A whole number.
    Int(i64),
    /// A whole number without sign, `5u`.
    Uint(u64),
    /// The magnitude of the least whole number, which only a minus sign before it makes one.
    IntMin,
    /// A number with a fraction.
    Double(f64),
    /// Text.
    String(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An operator or a bracket.
    Punct(&'static str),
}

const PUNCTS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

/// The tokens of a text with the byte where each begins.
pub(super) fn tokens(source: &str) -> Result<Vec<(Token, usize)>, CompileError> {
    let mut out = Vec::new();
    let mut rest = source;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        if rest.is_empty() {
            return Ok(out);
        }
        let at = source.len() - rest.len();
        let error = |what: &str| CompileError::new(source, at, format!("Syntax error: {what}"));
        let (token, after) = match quoted(rest) {
            Some(literal) => literal.map_err(|what| error(&what))?,
            None if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') => {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                let (name, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
                (Token::Name(name.to_owned()), after)
            }
            None if starts_number(rest) => number(rest).map_err(|what| error(&what))?,
            None => {
                let found = PUNCTS.iter().find_map(|punct| Some((*punct, rest.strip_prefix(punct)?)));
                let Some((punct, after)) = found else {
                    let c = rest.chars().next().unwrap_or(' ');
                    return Err(error(&format!("token recognition error at: '{c}'")));
                };
                (Token::Punct(punct), after)
            }
        };
        out.push((token, at));
        rest = after;
    }
}

fn starts_number(text: &str) -> bool {
    let mut bytes = text.bytes();
    match bytes.next() {
        Some(b'.') => bytes.next().is_some_and(|c| c.is_ascii_digit()),
        Some(c) => c.is_ascii_digit(),
        None => false,
    }
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let digits_end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let (digits, after) = hex.split_at_checked(end).unwrap_or((hex, ""));
        return whole(digits, 16, after);
    }
    let mut end = digits_end(text);
    let mut is_double = false;
    let from = |at: usize| text.get(at..).unwrap_or_default();
    if from(end).starts_with('.') && from(end + 1).starts_with(|c: char| c.is_ascii_digit()) {
        is_double = true;
        end += 1 + digits_end(from(end + 1));
    }
    if from(end).starts_with(['e', 'E']) {
        let sign = usize::from(from(end + 1).starts_with(['+', '-']));
        let digits = digits_end(from(end + 1 + sign));
        if digits > 0 {
            is_double = true;
            end += 1 + sign + digits;
        }
    }
    let (digits, after) = text.split_at_checked(end).unwrap_or((text, ""));
    if is_double {
        let number = digits.parse().map_err(|_| format!("invalid number {digits}"))?;
        return Ok((Token::Double(number), after));
    }
    whole(digits, 10, after)
}

fn whole<'a>(digits: &str, radix: u32, after: &'a str) -> Result<(Token, &'a str), String> {
    let number = u64::from_str_radix(digits, radix).map_err(|_| format!("invalid number {digits}"))?;
    if let Some(after) = after.strip_prefix(['u', 'U']) {
        return Ok((Token::Uint(number), after));
    }
    match i64::try_from(number) {
        Ok(number) => Ok((Token::Int(number), after)),
        Err(_) if number == 1 << 63 => Ok((Token::IntMin, after)),
        Err(_) => Err(format!("invalid int literal {digits}")),
    }
}

/// A text or bytes literal at the start, with what follows it; none when there is no such thing.
fn quoted(text: &str) -> Option<Result<(Token, &str), String>> {
    let prefix = text.find(['"', '\'']).filter(|len| *len <= 2)?;
    let (letters, rest) = text.split_at_checked(prefix)?;
    let (mut raw, mut bytes) = (false, false);
    for letter in letters.chars() {
        match letter {
            'r' | 'R' if !raw => raw = true,
            'b' | 'B' if !bytes => bytes = true,
            _ => return None,
        }
    }
    let quote = rest.chars().next()?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let (close, body) = match rest.strip_prefix(triple.as_str()) {
        Some(body) => (triple, body),
        None => (quote.to_string(), rest.get(1..)?),
    };
    Some(literal(body, &close, raw, bytes))
}

fn literal<'a>(body: &'a str, close: &str, raw: bool, bytes: bool) -> Result<(Token, &'a str), String> {
    let mut out: Vec<u8> = Vec::new();
    let mut rest = body;
    loop {
        if let Some(after) = rest.strip_prefix(close) {
            let token = match bytes {
                true => Token::Bytes(out),
                false => Token::String(String::from_utf8(out).map_err(|_| "invalid text".to_owned())?),
            };
            return Ok((token, after));
        }
        let mut chars = rest.chars();
        match chars.next() {
            None => return Err("unterminated text".to_owned()),
            Some('\n' | '\r') if close.len() == 1 => return Err("unterminated text".to_owned()),
            Some('\\') if !raw => {
                rest = escape(chars.as_str(), bytes, &mut out)?;
                continue;
            }
            Some(c) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = chars.as_str();
    }
}

/// What follows a backslash; the rest of the text.
fn escape<'a>(text: &'a str, bytes: bool, out: &mut Vec<u8>) -> Result<&'a str, String> {
    let mut chars = text.chars();
    let c = chars.next().ok_or("unterminated text")?;
    let simple = match c {
        'a' => Some(7),
        'b' => Some(8),
        'f' => Some(12),
        'n' => Some(b'\n'),
        'r' => Some(b'\r'),
        't' => Some(b'\t'),
        'v' => Some(11),
        '\\' | '?' | '"' | '\'' | '`' => u8::try_from(c).ok(),
        _ => None,
    };
    if let Some(byte) = simple {
        out.push(byte);
        return Ok(chars.as_str());
    }
    let (len, radix, digits) = match c {
        'x' | 'X' => (2, 16, chars.as_str()),
        'u' => (4, 16, chars.as_str()),
        'U' => (8, 16, chars.as_str()),
        '0'..='3' => (3, 8, text),
        c => return Err(format!("invalid escape \\{c}")),
    };
    let (digits, rest) = digits.split_at_checked(len).ok_or("invalid escape")?;
    let code = u32::from_str_radix(digits, radix).map_err(|_| "invalid escape".to_owned())?;
    match u8::try_from(code) {
        Ok(byte) if bytes => out.push(byte),
        _ => {
            let c = char::from_u32(code).ok_or("invalid escape")?;
            out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(rest)
}
