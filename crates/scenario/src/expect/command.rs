//! What a command has to come to: exit code and output.

use serde_json::Value;

use super::{ExpectError, Matcher, Mismatch};
use crate::document::raw;

/// The most of an output that is shown.
const SHOWN_LINES_MAX: usize = 20;

/// What is expected of a command; exit code 0 when nothing is said of it.
#[derive(Clone, Debug)]
pub struct CommandExpect {
    exit: i32,
    stdout: Option<Matcher>,
    stderr: Option<Matcher>,
}

/// What a command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandResult {
    /// Its exit code.
    pub exit: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl CommandExpect {
    pub(crate) fn parse(raw: &raw::Expect) -> Result<Self, ExpectError> {
        let matcher = |field: &str, value: &Option<Value>| {
            value.as_ref().map(|value| Matcher::parse(field, value)).transpose()
        };
        Ok(Self {
            exit: raw.exit.unwrap_or(0),
            stdout: matcher("stdout", &raw.stdout)?,
            stderr: matcher("stderr", &raw.stderr)?,
        })
    }

    /// Where the result differs.
    pub fn judge(&self, result: &CommandResult) -> Vec<Mismatch> {
        let mut mismatches = Vec::new();
        if result.exit != self.exit {
            let said = excerpt(if result.stderr.is_empty() { &result.stdout } else { &result.stderr });
            mismatches.push(Mismatch::new(
                format!("exit code {}", self.exit),
                format!("exit code {}\n{said}", result.exit),
            ));
        }
        for (name, matcher, text) in
            [("stdout", &self.stdout, &result.stdout), ("stderr", &self.stderr, &result.stderr)]
        {
            let found = Value::String(text.trim_end().to_owned());
            if let Some(matcher) = matcher.as_ref().filter(|matcher| !matcher.accepts(Some(&found))) {
                mismatches.push(Mismatch::new(format!("{name} {matcher}"), excerpt(text)));
            }
        }
        mismatches
    }
}

/// The last lines of an output.
pub(crate) fn excerpt(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let hidden = lines.len().saturating_sub(SHOWN_LINES_MAX);
    let shown = lines.get(hidden..).unwrap_or_default().join("\n");
    match hidden {
        0 if shown.is_empty() => "(nothing)".to_owned(),
        0 => shown,
        hidden => format!("({hidden} lines before)\n{shown}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn exit_code_and_output_are_judged() {
        let raw = raw::Expect { stdout: Some(json!({"contains": "web"})), ..raw::Expect::default() };
        let expect = CommandExpect::parse(&raw).unwrap();
        let result = |exit, stdout: &str| CommandResult { exit, stdout: stdout.into(), stderr: "why".into() };
        assert_eq!(expect.judge(&result(0, "a web b\n")), []);
        assert_eq!(expect.judge(&result(1, "web")), [Mismatch::new("exit code 0", "exit code 1\nwhy")]);
        assert_eq!(expect.judge(&result(0, "")), [Mismatch::new("stdout containing \"web\"", "(nothing)")]);
    }

    #[test]
    fn a_long_output_is_cut_from_its_begin() {
        let text: String = (0..25).map(|line| format!("{line}\n")).collect();
        let shown = excerpt(&text);
        assert!(shown.starts_with("(5 lines before)\n5\n") && shown.ends_with("24"), "{shown}");
    }
}
