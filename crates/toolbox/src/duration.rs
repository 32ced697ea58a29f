//! Durations as people write them: `200ms`, `1.5s`, `2m`.

use std::time::Duration;

/// The longest accepted duration; longer ones are slips of the pen.
pub const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// There is no number before the unit.
    #[error("\"{text}\" is not a duration: write a number and a unit, such as 200ms, 1.5s or 2m")]
    Syntax {
        /// What was written.
        text: String,
    },
    /// The unit is not known (or there is none).
    #[error("\"{text}\" has no unit that is known: use us, ms, s, m or h")]
    Unit {
        /// What was written.
        text: String,
    },
    /// More than [`DURATION_MAX`].
    #[error("\"{text}\" is longer than a day")]
    TooLong {
        /// What was written.
        text: String,
    },
}

/// Reads a number with a unit (`us`, `ms`, `s`, `m`, `h`).
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let given = text.trim();
    let failed = || given.to_owned();
    let digits = given.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(given.len());
    let (number, unit) = given.split_at(digits);
    let number: f64 = number.parse().map_err(|_| DurationError::Syntax { text: failed() })?;
    let seconds = match unit.trim() {
        "us" | "µs" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(DurationError::Unit { text: failed() }),
    };
    if seconds > DURATION_MAX.as_secs_f64() {
        return Err(DurationError::TooLong { text: failed() });
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| DurationError::Syntax { text: failed() })
}

/// The shortest exact text in one unit, at most microseconds: `1.5s`, `250ms`, `80us`.
pub fn render(duration: Duration) -> String {
    let us = duration.as_micros();
    if us >= 1_000_000 {
        let text = format!("{:.3}", us as f64 / 1e6);
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    } else if us >= 1_000 {
        let text = format!("{:.1}", us as f64 / 1e3);
        format!("{}ms", text.trim_end_matches(".0"))
    } else {
        format!("{us}us")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        struct Case {
            given: &'static str,
            want: Option<Duration>,
        }
        let cases = [
            Case { given: "200ms", want: Some(Duration::from_millis(200)) },
            Case { given: "1.5s", want: Some(Duration::from_millis(1500)) },
            Case { given: " 2m ", want: Some(Duration::from_secs(120)) },
            Case { given: "0s", want: Some(Duration::ZERO) },
            Case { given: "10", want: None },
            Case { given: "ms", want: None },
            Case { given: "-1s", want: None },
            Case { given: "1.2.3s", want: None },
            Case { given: "25h", want: None },
            Case { given: "99999999999999999999999999999999999999h", want: None },
        ];
        for case in cases {
            assert_eq!(parse(case.given).ok(), case.want, "{}", case.given);
        }
    }

    #[test]
    fn renders_in_the_largest_unit_that_fits() {
        for (us, want) in
            [(80, "80us"), (1_000, "1ms"), (1_250, "1.2ms"), (1_500_000, "1.5s"), (60_000_000, "60s")]
        {
            assert_eq!(render(Duration::from_micros(us)), want);
        }
    }
}
