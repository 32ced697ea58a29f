//! Resource quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! A quantity is a decimal number and a suffix that only says how to print it. Values are kept exactly as nano units
//! in 128 bits, which holds every quantity a server accepts (up to 2⁶³ units); finer fractions round away from zero,
//! as in Kubernetes.

use std::cmp::Ordering;
use std::fmt;

/// What is said of text that is no quantity.
pub const FORM: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;
const MAX: i128 = (1_i128 << 63) * NANO;

/// How a quantity prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `Ki`, `Mi` …
    Binary,
    /// `m`, `k`, `M` …
    Decimal,
    /// `e3`, `e6` …
    Exponent,
}

/// A parsed quantity. Quantities compare by value.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number and a suffix.
    #[error("{FORM}")]
    Malformed,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Quantity {
    /// Parses text.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at_checked(end).ok_or(QuantityError::Malformed)?;
        let (negative, digits) = match number.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let is_digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
        if !is_digits(whole) || !is_digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Malformed);
        }
        let (format, binary, decimal) = parse_suffix(suffix)?;
        let nanos = scale(whole, fraction, binary, decimal);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// The value in whole units, rounded up.
    pub fn value(&self) -> i64 {
        i64::try_from(div_away(self.nanos, NANO)).unwrap_or(i64::MAX)
    }

    /// The value in thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        i64::try_from(div_away(self.nanos, NANO / 1000)).unwrap_or(i64::MAX)
    }

    /// So many whole units.
    pub fn whole(units: i64) -> Quantity {
        Quantity { nanos: (i128::from(units) * NANO).clamp(-MAX, MAX), format: Format::Decimal }
    }

    /// The sum, printed as the first of the two that is not zero.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity { nanos: -other.nanos, format: other.format })
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }
}

/// Format, binary exponent and decimal exponent of a suffix.
fn parse_suffix(suffix: &str) -> Result<(Format, u32, i32), QuantityError> {
    let binary = |power| Ok((Format::Binary, power, 0));
    let decimal = |power| Ok((Format::Decimal, 0, power));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).and_then(|text| text.parse().ok());
            let exponent: i32 = exponent.ok_or(QuantityError::Suffix)?;
            Ok((Format::Exponent, 0, exponent))
        }
    }
}

/// `whole.fraction × 2^binary × 10^decimal` in nanos, rounded away from zero, at most [`MAX`].
fn scale(whole: &str, fraction: &str, binary: u32, decimal: i32) -> i128 {
    // 40 significant digits are more than 128 bits hold; further ones cannot change the result.
    let digits: String = whole.chars().chain(fraction.chars()).collect();
    let digits = digits.trim_start_matches('0');
    let kept = digits.get(..digits.len().min(30)).unwrap_or_default();
    let dropped = i32::try_from(digits.len() - kept.len()).unwrap_or(i32::MAX);
    let mut value: i128 = kept.parse().unwrap_or(0);
    if value == 0 {
        return 0;
    }
    let fraction = i32::try_from(fraction.len()).unwrap_or(i32::MAX);
    let mut power = decimal.saturating_add(9).saturating_sub(fraction).saturating_add(dropped);
    for _ in 0..binary {
        // Dividing first would lose digits; beyond the maximum the exact value no longer matters.
        match value.checked_mul(2) {
            Some(doubled) => value = doubled,
            None => return MAX,
        }
    }
    while power > 0 {
        match value.checked_mul(10) {
            Some(grown) if grown <= MAX.saturating_mul(1000) => value = grown,
            _ => return MAX,
        }
        power -= 1;
    }
    let mut inexact = false;
    while power < 0 && value != 0 {
        inexact |= value % 10 != 0;
        value /= 10;
        power += 1;
    }
    (value + i128::from(inexact)).min(MAX)
}

fn div_away(value: i128, unit: i128) -> i128 {
    let quotient = value / unit;
    match value % unit {
        0 => quotient,
        rest => quotient + rest.signum(),
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that allows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const EXPONENT: [&str; 10] = ["e-9", "e-6", "e-3", "", "e3", "e6", "e9", "e12", "e15", "e18"];
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / NANO;
        if self.format == Format::Binary && self.nanos % NANO == 0 && whole.abs() >= 1024 {
            let (number, suffix) = reduce(whole, 1024, &BINARY);
            return write!(f, "{number}{suffix}");
        }
        let suffixes = if self.format == Format::Exponent { &EXPONENT } else { &DECIMAL };
        let (number, suffix) = reduce(self.nanos, 1000, suffixes);
        write!(f, "{number}{suffix}")
    }
}

fn reduce<'a>(mut number: i128, base: i128, suffixes: &[&'a str]) -> (i128, &'a str) {
    let mut suffixes = suffixes.iter().peekable();
    let mut suffix = suffixes.next().copied().unwrap_or_default();
    while number % base == 0
        && let Some(next) = suffixes.next()
    {
        number /= base;
        suffix = next;
    }
    (number, suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_print_canonically() {
        let cases = [
            ("0", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000", "1k"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("1e3", "1e3"),
            ("129M", "129M"),
            ("123Mi", "123Mi"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("-5", "-5"),
            (".5", "500m"),
            ("5.", "5"),
            ("0.0000000001", "1n"),
            ("1E", "1E"),
            ("64Ei", "8Ei"),
        ];
        for (text, want) in cases {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in ["", "abc", "1.2.3", "--1", "1-", ".", "+"] {
            assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Malformed, "{text}");
        }
        for text in ["1Xi", "1 ", "1kk", "1e", "1ex"] {
            assert_eq!(Quantity::parse(text).unwrap_err(), QuantityError::Suffix, "{text}");
        }
    }

    #[test]
    fn quantities_compare_by_value_and_round_up() {
        let parse = |text| Quantity::parse(text).unwrap();
        assert_eq!(parse("1Gi"), parse("1024Mi"));
        assert!(parse("1G") < parse("1Gi"));
        assert_eq!(parse("100m").value(), 1);
        assert_eq!(parse("1500m").millis(), 1500);
        assert!(parse("-1m").is_negative());
    }
}
