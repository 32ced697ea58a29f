//! Counts that may be written as a percentage.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What becomes of a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    Up,
    Down,
}

/// A count, or a percentage of `total`; anything else counts as nothing (validation refuses it).
pub(crate) fn scaled(value: &IntOrString, total: i32, round: Round) -> i32 {
    let scaled = match value {
        IntOrString::Int(count) => i64::from(*count),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok()).unwrap_or(0);
            let hundredfold = percent.saturating_mul(i64::from(total));
            match round {
                Round::Up => hundredfold.saturating_add(99).div_euclid(100),
                Round::Down => hundredfold.div_euclid(100),
            }
        }
    };
    i32::try_from(scaled.max(0)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_percentages() {
        for (given, total, round, want) in [
            ("25%", 10, Round::Up, 3),
            ("25%", 10, Round::Down, 2),
            ("100%", 7, Round::Down, 7),
            ("200%", 7, Round::Up, 14),
            ("-5%", 7, Round::Up, 0),
            ("many", 7, Round::Up, 0),
        ] {
            assert_eq!(scaled(&IntOrString::String(given.into()), total, round), want, "{given} of {total}");
        }
        assert_eq!(scaled(&IntOrString::Int(5), 3, Round::Up), 5);
        assert_eq!(scaled(&IntOrString::Int(-5), 3, Round::Up), 0);
    }
}
