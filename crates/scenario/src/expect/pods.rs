//! Which pods answered, and in what share.

use std::collections::BTreeMap;

use super::{ExpectError, Mismatch};
use crate::document::raw;

/// Who has to have answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodsExpect {
    names: Option<Vec<String>>,
    count: Option<usize>,
    share: Option<Share>,
    tolerance: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Share {
    Even,
    /// Pattern to a part of 1.
    Each(BTreeMap<String, f64>),
}

impl PodsExpect {
    pub(crate) fn parse(raw: &raw::Pods) -> Result<Self, ExpectError> {
        let share = match &raw.share {
            None => None,
            Some(raw::Share::Word(word)) if word == "even" => Some(Share::Even),
            Some(raw::Share::Word(word)) => {
                return Err(ExpectError::value("pods.share", word, "\"even\" or a share for each name"));
            }
            Some(raw::Share::Each(map)) => {
                let each = map.iter().map(|(name, text)| Ok((name.clone(), percent("pods.share", text)?)));
                Some(Share::Each(each.collect::<Result<_, ExpectError>>()?))
            }
        };
        let tolerance = raw.tolerance.as_deref().map(|text| percent("pods.tolerance", text)).transpose()?;
        Ok(Self { names: raw.names.as_ref().map(raw::OneOrMany::list), count: raw.count, share, tolerance })
    }

    /// Judges the pods of all answers (`None`: an answer that named no pod).
    pub fn judge(&self, answered: &[Option<String>]) -> Vec<Mismatch> {
        let mut mismatches = Vec::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in answered {
            *counts.entry(pod.as_deref().unwrap_or("(not said)")).or_default() += 1;
        }
        let found = || render(&counts, answered.len());
        if let Some(names) = &self.names {
            let missing = names.iter().any(|name| !counts.keys().any(|pod| matches(name, pod)));
            let foreign = counts.keys().any(|pod| !names.iter().any(|name| matches(name, pod)));
            if missing || foreign {
                mismatches.push(Mismatch::new(
                    format!("answers from {}, all of them and no other", names.join(", ")),
                    found(),
                ));
            }
        }
        if let Some(count) = self.count.filter(|&count| count != counts.len()) {
            mismatches.push(Mismatch::new(format!("answers from {count} different pods"), found()));
        }
        let wanted: BTreeMap<String, f64> = match &self.share {
            None => return mismatches,
            Some(Share::Each(each)) => each.clone(),
            Some(Share::Even) => {
                let parts = self.count.unwrap_or(counts.len()).max(1);
                counts.keys().map(|pod| ((*pod).to_owned(), 1.0 / parts as f64)).collect()
            }
        };
        for (name, part) in wanted {
            let count: usize =
                counts.iter().filter(|(pod, _)| matches(&name, pod)).map(|(_, count)| count).sum();
            let is = count as f64 / answered.len().max(1) as f64;
            let tolerance = self.tolerance.unwrap_or_else(|| four_sigma(part, answered.len()));
            if (is - part).abs() > tolerance {
                let expected = format!(
                    "{:.1}% of the answers from {name} (give or take {:.1}%)",
                    part * 100.0,
                    tolerance * 100.0
                );
                mismatches.push(Mismatch::new(expected, format!("{:.1}%: {}", is * 100.0, found())));
            }
        }
        mismatches
    }
}

/// Four standard deviations of a binomial share: random balancing fails this once in 16 000 judgements.
fn four_sigma(part: f64, answers: usize) -> f64 {
    4.0 * (part * (1.0 - part) / answers.max(1) as f64).sqrt()
}

fn percent(field: &str, text: &str) -> Result<f64, ExpectError> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let number = number.filter(|number| (0.0..=100.0).contains(number));
    number.map(|number| number / 100.0).ok_or_else(|| ExpectError::value(field, text, "a share such as 25%"))
}

/// A pattern with `*` for anything.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = left.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    true
}

fn render(counts: &BTreeMap<&str, usize>, all: usize) -> String {
    if counts.is_empty() {
        return "no answers".to_owned();
    }
    let parts: Vec<_> = counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
    format!("{} (of {all})", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(counts: &[(&str, usize)]) -> Vec<Option<String>> {
        counts.iter().flat_map(|(pod, count)| std::iter::repeat_n(Some((*pod).to_owned()), *count)).collect()
    }

    fn expect(yaml: &str) -> PodsExpect {
        PodsExpect::parse(&serde_saphyr::from_str(yaml).unwrap()).unwrap()
    }

    #[test]
    fn shares_are_judged() {
        struct Case {
            expect: &'static str,
            answers: &'static [(&'static str, usize)],
            fine: bool,
        }
        let cases = [
            Case { expect: "{count: 2}", answers: &[("a", 5), ("b", 1)], fine: true },
            Case { expect: "{count: 2}", answers: &[("a", 5)], fine: false },
            Case { expect: "{names: [a, b]}", answers: &[("a", 5), ("b", 1)], fine: true },
            Case { expect: "{names: [a, b]}", answers: &[("a", 5)], fine: false },
            Case { expect: "{names: [a]}", answers: &[("a", 5), ("b", 1)], fine: false },
            Case { expect: "{names: web-*}", answers: &[("web-1", 5), ("web-2", 1)], fine: true },
            Case { expect: "{names: web-*}", answers: &[], fine: false },
            Case { expect: "{share: even, count: 2}", answers: &[("a", 52), ("b", 48)], fine: true },
            Case { expect: "{share: even, count: 2}", answers: &[("a", 90), ("b", 10)], fine: false },
            Case { expect: "{share: even, tolerance: 1%}", answers: &[("a", 52), ("b", 48)], fine: false },
            Case {
                expect: "{share: {a-*: 90%, b-*: 10%}}",
                answers: &[("a-1", 45), ("a-2", 45), ("b-1", 10)],
                fine: true,
            },
            Case {
                expect: "{share: {a-*: 90%, b-*: 10%}}",
                answers: &[("a-1", 50), ("b-1", 50)],
                fine: false,
            },
            Case { expect: "{share: {a: 0%}}", answers: &[("b", 50)], fine: true },
        ];
        for case in cases {
            let found = expect(case.expect).judge(&answers(case.answers));
            assert_eq!(found.is_empty(), case.fine, "{} against {:?}: {found:?}", case.expect, case.answers);
        }
    }

    #[test]
    fn an_answer_without_a_name_is_told() {
        let found = expect("{names: [a]}").judge(&[Some("a".into()), None]);
        assert_eq!(found[0].found, "(not said) 1, a 1 (of 2)");
    }

    #[test]
    fn patterns() {
        for (pattern, name, want) in [
            ("web", "web", true),
            ("web", "web-1", false),
            ("web-*", "web-1", true),
            ("*-1", "web-1", true),
            ("w*-*1", "web-x-1", true),
            ("w*-*2", "web-x-1", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_share_is_a_percentage() {
        for yaml in ["{share: odd}", "{share: {a: half}}", "{share: {a: 101%}}", "{tolerance: 5}"] {
            assert!(PodsExpect::parse(&serde_saphyr::from_str(yaml).unwrap()).is_err(), "{yaml}");
        }
    }
}
