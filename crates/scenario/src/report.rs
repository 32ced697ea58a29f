//! What came of a run, for people (text), programs (JSON) and CI servers (JUnit XML). Pure.

use std::fmt::Write;

use fairway_toolbox::duration;
use serde::Serialize;

/// Everything that was run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order they were run.
    pub scenarios: Vec<ScenarioReport>,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScenarioReport {
    /// The file.
    pub file: String,
    /// Its name.
    pub name: String,
    /// Steps that were done, repeated ones counted each time.
    pub steps: usize,
    /// How long it took.
    pub duration_ms: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
}

/// The step that failed. Nothing after it was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepFailure {
    /// Counted from 1; 0 when the file could not be read or the cluster not be had.
    pub step: usize,
    /// Where it begins in the file.
    pub line: u64,
    /// What it was to do.
    pub what: String,
    /// What was expected and what came; for an error only the latter.
    pub mismatches: Vec<Difference>,
    /// What may explain it.
    pub facts: Vec<String>,
}

/// What was expected and what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Empty for an error.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What came.
    pub found: String,
}

impl Report {
    /// How many passed and failed.
    pub fn counts(&self) -> (usize, usize) {
        let failed = self.scenarios.iter().filter(|scenario| scenario.failure.is_some()).count();
        (self.scenarios.len() - failed, failed)
    }

    /// The last line of the text: `N passed, N failed`.
    pub fn last_line(&self) -> String {
        let (passed, failed) = self.counts();
        format!("{passed} passed, {failed} failed")
    }

    /// All of it as JSON.
    pub fn json(&self) -> String {
        let (passed, failed) = self.counts();
        let value = serde_json::json!({ "passed": passed, "failed": failed, "scenarios": self.scenarios });
        format!("{value:#}\n")
    }

    /// All of it as JUnit XML: one suite, one case a scenario.
    pub fn junit(&self) -> String {
        let (_, failed) = self.counts();
        let seconds = |ms: u64| format!("{}.{:03}", ms / 1000, ms % 1000);
        let total: u64 = self.scenarios.iter().map(|scenario| scenario.duration_ms).sum();
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        // Writing to a String cannot fail.
        let _ = writeln!(
            xml,
            "<testsuites><testsuite name=\"fairway\" tests=\"{}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\" time=\"{}\">",
            self.scenarios.len(),
            seconds(total),
        );
        for scenario in &self.scenarios {
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\" time=\"{}\"",
                escape(&scenario.file),
                escape(&scenario.name),
                seconds(scenario.duration_ms),
            );
            match &scenario.failure {
                None => xml.push_str("/>\n"),
                Some(failure) => {
                    let _ = writeln!(
                        xml,
                        "><failure message=\"{}\">{}</failure></testcase>",
                        escape(&failure.headline()),
                        escape(&failure.text("")),
                    );
                }
            }
        }
        xml.push_str("</testsuite></testsuites>\n");
        xml
    }
}

impl ScenarioReport {
    /// One line, and what failed below it.
    pub fn text(&self) -> String {
        let took = duration::render(std::time::Duration::from_millis(self.duration_ms));
        let steps = match self.steps {
            1 => "1 step".to_owned(),
            steps => format!("{steps} steps"),
        };
        match &self.failure {
            None => format!("ok    {}: {} ({steps}, {took})\n", self.file, self.name),
            Some(failure) => {
                format!("FAIL  {}: {} ({steps}, {took})\n{}", self.file, self.name, failure.text("      "))
            }
        }
    }
}

impl StepFailure {
    /// Which step.
    pub fn headline(&self) -> String {
        match self.step {
            0 => self.what.clone(),
            step => format!("step {step} (line {}): {}", self.line, self.what),
        }
    }

    fn text(&self, indent: &str) -> String {
        let mut text = format!("{indent}{}\n", self.headline());
        let mut block = |label: &str, value: &str| {
            let mut lines = value.lines();
            let _ = writeln!(text, "{indent}  {label:<9} {}", lines.next().unwrap_or(""));
            for line in lines {
                let _ = writeln!(text, "{indent}            {line}");
            }
        };
        for difference in &self.mismatches {
            if difference.expected.is_empty() {
                block("error", &difference.found);
            } else {
                block("expected", &difference.expected);
                block("found", &difference.found);
            }
        }
        for fact in &self.facts {
            let _ = writeln!(text, "{indent}  | {fact}");
        }
        text
    }
}

/// XML 1.0 §2.4; control characters that XML cannot have at all (§2.2) become spaces.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let scenario = |name: &str, failure| ScenarioReport {
            file: "a.yaml".into(),
            name: name.into(),
            steps: 3,
            duration_ms: 1_234,
            failure,
        };
        let failure = StepFailure {
            step: 3,
            line: 17,
            what: "request http://web/ from pod/client".into(),
            mismatches: vec![
                Difference { expected: "status 200".into(), found: "status 503\nsecond line".into() },
                Difference { expected: String::new(), found: "no \"pod\" <x> & \u{1b}[1m".into() },
            ],
            facts: vec!["service web: no ready endpoint".into()],
        };
        Report { scenarios: vec![scenario("fine", None), scenario("broken", Some(failure))] }
    }

    #[test]
    fn text_says_what_was_expected_and_what_came() {
        let text: String = report().scenarios.iter().map(ScenarioReport::text).collect();
        assert_eq!(
            text,
            "ok    a.yaml: fine (3 steps, 1.234s)\n\
             FAIL  a.yaml: broken (3 steps, 1.234s)\n      \
             step 3 (line 17): request http://web/ from pod/client\n        \
             expected  status 200\n        \
             found     status 503\n                  \
             second line\n        \
             error     no \"pod\" <x> & \u{1b}[1m\n        \
             | service web: no ready endpoint\n"
        );
        assert_eq!(report().last_line(), "1 passed, 1 failed");
    }

    #[test]
    fn junit_is_xml() {
        let xml = report().junit();
        assert!(xml.contains(r#"tests="2" failures="1""#), "{xml}");
        assert!(xml.contains(r#"<testcase classname="a.yaml" name="fine" time="1.234"/>"#), "{xml}");
        assert!(xml.contains("no &quot;pod&quot; &lt;x&gt; &amp;  [1m"), "{xml}");
        assert!(!xml.contains('\u{1b}'), "{xml}");
    }

    #[test]
    fn json_has_the_counts() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        assert_eq!((&value["passed"], &value["failed"]), (&1.into(), &1.into()));
        assert_eq!(value["scenarios"][1]["failure"]["line"], 17);
    }
}
