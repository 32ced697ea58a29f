//! Judging requests: each answer, the failures, and all of them together.

use std::collections::BTreeMap;
use std::time::Duration;

use fairway_toolbox::duration;
use fairway_toolbox::probe::{DnsAnswer, FailureClass, HttpAnswer, Outcome, Result as Answered};
use serde_json::Value;

use super::command::excerpt;
use super::loops::{class, class_name};
use super::matcher::text_of;
use super::{ExpectError, LatencyExpect, Matcher, Mismatch, PodsExpect, at_path};
use crate::document::raw;

/// What is expected of requests.
#[derive(Clone, Debug)]
pub struct ProbeExpect {
    wanted: Wanted,
    answered_min: Option<u64>,
    answer: AnswerExpect,
    pods: Option<PodsExpect>,
    latency: LatencyExpect,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// Answers, but for so many failures.
    Answers { failed_max: u64 },
    /// Failures of these classes, and nothing else.
    Errors(Vec<FailureClass>),
}

/// What every answer has to be.
#[derive(Clone, Debug, Default)]
struct AnswerExpect {
    /// Any below 400 when empty.
    statuses: Vec<Status>,
    version: Option<String>,
    headers: BTreeMap<String, Matcher>,
    body: BTreeMap<String, Matcher>,
    text: Option<Matcher>,
    body_bytes: Option<u64>,
    messages: Option<Vec<String>>,
    grpc_status: Option<u16>,
    certificate: Option<String>,
    records: Option<Vec<String>>,
    record_count: Option<u64>,
    alias: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Exactly(u16),
    /// `2xx`: the hundreds.
    Class(u16),
}

impl ProbeExpect {
    pub(crate) fn parse(raw: &raw::Expect) -> Result<Self, ExpectError> {
        let matchers = |field: &str, map: &BTreeMap<String, Value>| {
            let each = map
                .iter()
                .map(|(name, value)| Ok((name.clone(), Matcher::parse(&format!("{field}.{name}"), value)?)));
            each.collect::<Result<BTreeMap<_, _>, ExpectError>>()
        };
        let wanted = match &raw.error {
            None => Wanted::Answers { failed_max: raw.failed.unwrap_or(0) },
            Some(names) => {
                Wanted::Errors(names.list().iter().map(|name| class(name)).collect::<Result<_, _>>()?)
            }
        };
        let statuses = raw.status.as_ref().map(raw::OneOrMany::list).unwrap_or_default();
        let lower = |headers: BTreeMap<String, Matcher>| {
            headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
        };
        let answer = AnswerExpect {
            statuses: statuses.iter().map(Status::parse).collect::<Result<_, _>>()?,
            version: raw.version.clone(),
            headers: lower(matchers("headers", &raw.headers)?),
            body: matchers("body", &raw.body)?,
            text: raw.text.as_ref().map(|value| Matcher::parse("text", value)).transpose()?,
            body_bytes: raw.body_bytes,
            messages: raw.messages.clone(),
            grpc_status: raw.grpc_status,
            certificate: raw.certificate.clone(),
            records: raw.records.clone(),
            record_count: raw.record_count,
            alias: raw.alias.clone(),
        };
        Ok(Self {
            wanted,
            answered_min: raw.answered,
            answer,
            pods: raw.pods.as_ref().map(PodsExpect::parse).transpose()?,
            latency: raw.latency.as_ref().map(LatencyExpect::parse).transpose()?.unwrap_or_default(),
        })
    }
}

impl Status {
    fn parse(value: &Value) -> Result<Self, ExpectError> {
        let text = text_of(value);
        let parsed = match text.strip_suffix("xx") {
            Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(Self::Class),
            None => text.parse().ok().filter(|code| (100..1000).contains(code)).map(Self::Exactly),
        };
        parsed.ok_or_else(|| ExpectError::value("status", text, "a status such as 200 or 2xx"))
    }

    fn accepts(self, status: u16) -> bool {
        match self {
            Self::Exactly(code) => status == code,
            Self::Class(class) => status / 100 == class,
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(code) => code.fmt(f),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

/// Where the outcomes differ from what is expected. Equal mismatches of many outcomes become one, with their number.
pub fn judge(expect: &ProbeExpect, outcomes: &[Outcome]) -> Vec<Mismatch> {
    let mut each = Grouped::default();
    let mut failed = 0u64;
    for outcome in outcomes {
        match (&expect.wanted, outcome.failure()) {
            (Wanted::Answers { .. }, None) => expect.answer.judge(outcome, &mut each),
            (Wanted::Answers { failed_max }, Some(failure)) => {
                failed += 1;
                if failed > *failed_max {
                    let wanted = match failed_max {
                        0 => "an answer".to_owned(),
                        max => format!("an answer (at most {max} failures)"),
                    };
                    let what = format!("{}: {}", class_name(failure.class), failure.detail);
                    each.add(wanted, what, outcome);
                }
            }
            (Wanted::Errors(classes), Some(failure)) if classes.contains(&failure.class) => {}
            (Wanted::Errors(classes), found) => {
                let names: Vec<_> = classes.iter().map(|&class| class_name(class)).collect();
                let found = match found {
                    Some(failure) => format!("{}: {}", class_name(failure.class), failure.detail),
                    None => summary(outcome),
                };
                each.add(format!("failure: {}", names.join(" or ")), found, outcome);
            }
        }
    }
    let mut mismatches = each.mismatches(outcomes.len());
    let answered: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.failure().is_none()).collect();
    if let Some(min) = expect.answered_min.filter(|&min| (answered.len() as u64) < min) {
        mismatches.push(Mismatch::new(format!("at least {min} answers"), answered.len().to_string()));
    }
    if outcomes.is_empty() {
        mismatches.push(Mismatch::new("at least one request", "none was made"));
    }
    if let Some(pods) = &expect.pods {
        mismatches.extend(pods.judge(&answered.iter().map(|outcome| outcome.pod()).collect::<Vec<_>>()));
    }
    mismatches.extend(expect.latency.judge(outcomes));
    mismatches
}

/// One line for what came instead of a failure.
fn summary(outcome: &Outcome) -> String {
    match &outcome.result {
        Answered::Http(answer) => {
            let pod = outcome.pod().map(|pod| format!(" from {pod}")).unwrap_or_default();
            format!("status {}{pod}", answer.status)
        }
        Answered::Raw(_) => {
            let pod = outcome.pod().map(|pod| format!(" to {pod}")).unwrap_or_default();
            format!("a connection{pod}")
        }
        Answered::Dns(answer) => format!("records {}", data_of(answer).join(", ")),
        Answered::Failed(failure) => failure.to_string(),
    }
}

/// Equal mismatches with their number and the first that had it.
#[derive(Default)]
struct Grouped {
    groups: BTreeMap<(String, String), (usize, String)>,
}

impl Grouped {
    /// Different mismatches that are told apart; the rest is counted with the last.
    const GROUPS_MAX: usize = 12;

    fn add(&mut self, expected: String, found: String, outcome: &Outcome) {
        if self.groups.len() >= Self::GROUPS_MAX
            && !self.groups.contains_key(&(expected.clone(), found.clone()))
        {
            return;
        }
        let first = || {
            let address = outcome.address.map(|address| format!(" at {address}")).unwrap_or_default();
            let took = duration::render(Duration::from_micros(outcome.latency_us));
            format!("request {}{address}, after {took}", outcome.sequence)
        };
        self.groups.entry((expected, found)).or_insert_with(|| (0, first())).0 += 1;
    }

    fn mismatches(self, all: usize) -> Vec<Mismatch> {
        let each = self.groups.into_iter().map(|((expected, found), (count, first))| {
            let which =
                if all > 1 { format!(" ({count} of {all}; first: {first})") } else { format!(" ({first})") };
            Mismatch::new(expected, format!("{found}{which}"))
        });
        each.collect()
    }
}

impl AnswerExpect {
    fn judge(&self, outcome: &Outcome, out: &mut Grouped) {
        match &outcome.result {
            Answered::Http(answer) => self.judge_http(answer, outcome, out),
            Answered::Dns(answer) => self.judge_dns(answer, outcome, out),
            Answered::Raw(answer) => self.judge_text(&answer.received, outcome, out),
            Answered::Failed(_) => {}
        }
        let fields = outcome.fields();
        for (path, matcher) in &self.body {
            let value = fields.as_ref().and_then(|fields| at_path(fields, path));
            if !matcher.accepts(value) {
                let found = match (&fields, value) {
                    (None, _) => format!("a body that is not JSON\n{}", excerpt(text_in(outcome))),
                    (Some(_), None) => "no such field".to_owned(),
                    (Some(_), Some(value)) => value.to_string(),
                };
                out.add(format!("body.{path} {matcher}"), found, outcome);
            }
        }
    }

    fn judge_text(&self, text: &str, outcome: &Outcome, out: &mut Grouped) {
        let value = Value::String(text.trim_end().to_owned());
        if let Some(matcher) = self.text.as_ref().filter(|matcher| !matcher.accepts(Some(&value))) {
            out.add(format!("text {matcher}"), excerpt(text), outcome);
        }
    }

    fn judge_http(&self, answer: &HttpAnswer, outcome: &Outcome, out: &mut Grouped) {
        let fine = match self.statuses.as_slice() {
            [] => answer.status < 400,
            statuses => statuses.iter().any(|status| status.accepts(answer.status)),
        };
        if !fine {
            let wanted: Vec<_> = self.statuses.iter().map(ToString::to_string).collect();
            let wanted = if wanted.is_empty() { "below 400".to_owned() } else { wanted.join(" or ") };
            out.add(format!("status {wanted}"), format!("status {}", answer.status), outcome);
        }
        if let Some(version) = self.version.as_ref().filter(|version| **version != answer.version) {
            out.add(format!("version {version}"), answer.version.clone(), outcome);
        }
        for (name, matcher) in &self.headers {
            let value = answer.header(name).map(|text| Value::String(text.to_owned()));
            if !matcher.accepts(value.as_ref()) {
                let found = value.map_or("no such header".to_owned(), |value| value.to_string());
                out.add(format!("header {name} {matcher}"), found, outcome);
            }
        }
        self.judge_text(&answer.body, outcome, out);
        if let Some(bytes) = self.body_bytes.filter(|&bytes| bytes != answer.body_bytes) {
            out.add(format!("a body of {bytes} bytes"), format!("{} bytes", answer.body_bytes), outcome);
        }
        if let Some(messages) = self.messages.as_ref().filter(|messages| **messages != answer.messages) {
            out.add(format!("messages {messages:?}"), format!("{:?}", answer.messages), outcome);
        }
        if let Some(status) = self.grpc_status.filter(|&status| answer.grpc_status != Some(status)) {
            let found = answer.grpc_status.map_or("none".to_owned(), |status| status.to_string());
            out.add(format!("grpc-status {status}"), found, outcome);
        }
        if let Some(name) = &self.certificate {
            let names = answer.tls.as_ref().map(|tls| tls.certificate_names.clone()).unwrap_or_default();
            if !names.contains(name) {
                let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                out.add(format!("a certificate for {name}"), found, outcome);
            }
        }
    }

    fn judge_dns(&self, answer: &DnsAnswer, outcome: &Outcome, out: &mut Grouped) {
        let data = data_of(answer);
        if let Some(wanted) = &self.records {
            let mut wanted = wanted.clone();
            wanted.sort();
            let mut found = data.clone();
            found.sort();
            if wanted != found {
                out.add(format!("records {}", wanted.join(", ")), found.join(", "), outcome);
            }
        }
        if let Some(count) = self.record_count.filter(|&count| count != data.len() as u64) {
            out.add(format!("{count} records"), format!("{}: {}", data.len(), data.join(", ")), outcome);
        }
        if let Some(alias) = &self.alias {
            let aliases = answer.records.iter().filter(|record| record.record_type == "CNAME");
            let aliases: Vec<_> = aliases.map(|record| record.data.clone()).collect();
            if !aliases.contains(alias) {
                let found = if aliases.is_empty() { "no alias".to_owned() } else { aliases.join(", ") };
                out.add(format!("an alias of {alias}"), found, outcome);
            }
        }
    }
}

/// The data of the records that were asked for: aliases on the way to them are not among them, unless there is nothing else.
fn data_of(answer: &DnsAnswer) -> Vec<String> {
    let of = |alias: bool| {
        let records = answer.records.iter().filter(move |record| (record.record_type == "CNAME") == alias);
        records.map(|record| record.data.clone()).collect::<Vec<_>>()
    };
    let others = of(false);
    if others.is_empty() { of(true) } else { others }
}

fn text_in(outcome: &Outcome) -> &str {
    match &outcome.result {
        Answered::Http(answer) => &answer.body,
        Answered::Raw(answer) => &answer.greeting,
        Answered::Dns(_) | Answered::Failed(_) => "",
    }
}

#[cfg(test)]
mod tests {
    use fairway_toolbox::probe::{Failure, Phase};
    use fairway_toolbox::resolver::RecordText;

    use super::*;

    fn expect(yaml: &str) -> ProbeExpect {
        let raw = serde_saphyr::from_str_with_options(yaml, crate::document::yaml()).unwrap();
        ProbeExpect::parse(&raw).unwrap()
    }

    fn outcome(latency_ms: u64, result: Answered) -> Outcome {
        Outcome { sequence: 0, started_us: 0, latency_us: latency_ms * 1000, address: None, result }
    }

    fn answer(status: u16) -> Answered {
        Answered::Http(Box::new(HttpAnswer {
            status,
            version: "HTTP/1.1".into(),
            headers: vec![("x-a".into(), "1".into())],
            body: r#"{"pod":"web-0","path":"/","headers":{"x-real":"y"}}"#.into(),
            body_bytes: 50,
            first_chunk_us: Some(5_000),
            grpc_status: Some(0),
            ..HttpAnswer::default()
        }))
    }

    fn refused() -> Answered {
        let detail = "Connection refused".into();
        Answered::Failed(Failure { class: FailureClass::Refused, phase: Phase::Connect, detail })
    }

    fn records(list: &[(&str, &str)]) -> Answered {
        let record = |&(kind, data): &(&str, &str)| RecordText {
            name: "web".into(),
            record_type: kind.into(),
            ttl_seconds: 5,
            data: data.into(),
        };
        Answered::Dns(DnsAnswer { records: list.iter().map(record).collect(), ..DnsAnswer::default() })
    }

    #[test]
    fn answers_are_judged() {
        let cases = [
            ("{}", answer(200), true),
            ("{}", answer(404), false),
            ("{}", refused(), false),
            ("{status: 404}", answer(404), true),
            ("{status: [4xx, 503]}", answer(404), true),
            ("{status: 2xx}", answer(404), false),
            ("{version: HTTP/2}", answer(200), false),
            ("{headers: {X-A: 1}}", answer(200), true),
            ("{headers: {x-b: {present: false}}}", answer(200), true),
            ("{headers: {x-b: 1}}", answer(200), false),
            ("{body: {pod: web-0, headers.x-real: y}}", answer(200), true),
            ("{body: {pod: web-1}}", answer(200), false),
            ("{body: {nothing: web-1}}", answer(200), false),
            ("{text: {contains: web-0}}", answer(200), true),
            ("{text: {contains: web-1}}", answer(200), false),
            ("{body_bytes: 51}", answer(200), false),
            ("{grpc_status: 0}", answer(200), true),
            ("{grpc_status: 5}", answer(200), false),
            ("{certificate: a.example}", answer(200), false),
            ("{pods: {names: web-0}}", answer(200), true),
            ("{pods: {names: web-1}}", answer(200), false),
            ("{error: refused}", refused(), true),
            ("{error: [timed-out, refused]}", refused(), true),
            ("{error: timed-out}", refused(), false),
            ("{error: refused}", answer(200), false),
            ("{failed: 1}", refused(), true),
            ("{failed: 1, answered: 1}", refused(), false),
            ("{latency: {max: 50ms}}", answer(200), true),
            ("{latency: {max: 5ms}}", answer(200), false),
            ("{latency: {min: 50ms}}", answer(200), false),
            ("{latency: {first_chunk: 1ms}}", answer(200), false),
            ("{records: [10.0.0.2, 10.0.0.1]}", records(&[("A", "10.0.0.1"), ("A", "10.0.0.2")]), true),
            ("{records: [10.0.0.1]}", records(&[("A", "10.0.0.1"), ("A", "10.0.0.2")]), false),
            ("{records: [10.0.0.1]}", records(&[("CNAME", "b"), ("A", "10.0.0.1")]), true),
            ("{alias: b}", records(&[("CNAME", "b"), ("A", "10.0.0.1")]), true),
            ("{alias: c}", records(&[("A", "10.0.0.1")]), false),
            ("{record_count: 2}", records(&[("A", "10.0.0.1")]), false),
        ];
        for (yaml, result, fine) in cases {
            let found = judge(&expect(yaml), &[outcome(10, result)]);
            assert_eq!(found.is_empty(), fine, "{yaml}: {found:?}");
        }
    }

    #[test]
    fn equal_mismatches_are_one_with_their_number() {
        let outcomes: Vec<_> = [200, 503, 503].into_iter().map(|status| outcome(1, answer(status))).collect();
        let found = judge(&expect("{status: 200}"), &outcomes);
        assert_eq!(found, [Mismatch::new("status 200", "status 503 (2 of 3; first: request 0, after 1ms)")]);
    }

    #[test]
    fn nothing_asked_proves_nothing() {
        assert_eq!(judge(&expect("{}"), &[]), [Mismatch::new("at least one request", "none was made")]);
    }

    #[test]
    fn percentiles() {
        let outcomes: Vec<_> = (1..=100).map(|ms| outcome(ms, answer(200))).collect();
        assert_eq!(judge(&expect("{latency: {p50: 51ms, p99: 100ms, max: 100ms}}"), &outcomes), []);
        assert_eq!(judge(&expect("{latency: {p50: 20ms}}"), &outcomes).len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for yaml in ["{status: 2x}", "{status: 20}", "{error: timeout}", "{latency: {max: 5}}"] {
            let raw = serde_saphyr::from_str(yaml).unwrap();
            assert!(ProbeExpect::parse(&raw).is_err(), "{yaml}");
        }
    }
}
