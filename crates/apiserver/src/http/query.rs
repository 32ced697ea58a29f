//! Query parameters as options, and what a list or watch with them has to read.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fairway_objects::field::{FieldError, Path};
use fairway_objects::status::{Qualified, Status};
use serde::{Deserialize, Serialize};

/// Decoded parameters in order. The first of a name counts where one is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part after `?`. Parameters that are not text are left out.
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| super::route::decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// The first value; "" when absent.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Every value of a name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// True when the parameter is given, even empty.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Absent, empty, `0` and `false` are false; anything else is true.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.text(name);
        !(value.is_empty() || value == "0" || value.eq_ignore_ascii_case("false"))
    }

    /// A number, or none when absent; what is no number is the client's mistake.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
            }),
        }
    }
}

/// How `resourceVersion` is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    NotOlderThan,
    Exact,
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Unparsed.
    pub label_selector: String,
    /// Unparsed.
    pub field_selector: String,
    /// Most items in the answer; 0 is no limit.
    pub limit: usize,
    /// When a watch ends.
    pub timeout_seconds: Option<u64>,
    /// Progress events are welcome.
    pub bookmarks: bool,
    /// Where to read.
    pub read: ListRead,
    /// Where a watch begins.
    pub watch_from: WatchFrom,
}

/// The state that a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListRead {
    /// The newest. The store's reads are always that, so "any" is too.
    #[default]
    Latest,
    /// The newest, once it is at least this.
    NotOlderThan(u64),
    /// Exactly this one.
    Exact(u64),
    /// The rest of a list: keys after `start` at `revision`, or at the newest when none.
    Continue {
        /// Revision of the first page.
        revision: Option<u64>,
        /// The last key of the page before.
        start: String,
    },
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WatchFrom {
    /// What exists now as ADDED events, once the state is at least `at_least`; then changes. `marked`: the end of the existing is
    /// marked by a bookmark, when bookmarks are welcome.
    State {
        /// The oldest state that will do.
        at_least: u64,
        /// Mark the end of the initial events.
        marked: bool,
    },
    /// Changes after this revision.
    Revision(u64),
    /// Changes from now on.
    #[default]
    Now,
}

/// What a continue token holds.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

/// The token for the page after `last`.
pub fn continue_token(revision: Option<u64>, last: &str) -> String {
    let rv = revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1);
    let token = Token { v: "meta.k8s.io/v1".to_owned(), rv, start: format!("{last}\0") };
    URL_SAFE_NO_PAD.encode(serde_json::to_string(&token).unwrap_or_default())
}

fn parse_continue(text: &str) -> Result<ListRead, Status> {
    let invalid =
        |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes =
        URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| invalid(&error.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
    if token.v != "meta.k8s.io/v1" {
        return Err(invalid(&format!("server does not recognize this encoded version {:?}", token.v)));
    }
    let revision = match token.rv {
        -1 => None,
        0 => return Err(invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")),
        rv => Some(u64::try_from(rv).map_err(|error| invalid(&error.to_string()))?),
    };
    Ok(ListRead::Continue { revision, start: token.start.trim_end_matches('\0').to_owned() })
}

/// A resource version as text; "" is none.
pub fn revision(text: &str) -> Result<Option<u64>, Status> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

impl ListOptions {
    /// Reads the parameters of a list (`watch` false) or a watch, and refuses the combinations that have no meaning.
    pub fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let match_ = check(query, watch)?;
        let asked = revision(query.text("resourceVersion"))?;
        let limit = query.integer("limit")?.unwrap_or(0);
        let timeout = query.integer("timeoutSeconds")?;
        let options = Self {
            label_selector: query.text("labelSelector").to_owned(),
            field_selector: query.text("fieldSelector").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            timeout_seconds: timeout
                .and_then(|seconds| u64::try_from(seconds).ok())
                .filter(|seconds| *seconds > 0),
            bookmarks: query.flag("allowWatchBookmarks"),
            ..Self::default()
        };
        if watch {
            let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
            let watch_from = match (initial, asked) {
                (Some(true), asked) => WatchFrom::State { at_least: asked.unwrap_or(0), marked: true },
                (Some(false), None | Some(0)) => WatchFrom::Now,
                (None, None | Some(0)) => WatchFrom::State { at_least: 0, marked: true },
                (Some(false) | None, Some(revision)) => WatchFrom::Revision(revision),
            };
            return Ok(Self { watch_from, ..options });
        }
        let read = match query.text("continue") {
            "" => match (asked, match_) {
                (None | Some(0), _) => ListRead::Latest,
                (Some(revision), Some(Match::Exact)) => ListRead::Exact(revision),
                (Some(revision), Some(Match::NotOlderThan)) => ListRead::NotOlderThan(revision),
                (Some(revision), None) if options.limit > 0 => ListRead::Exact(revision),
                (Some(revision), None) => ListRead::NotOlderThan(revision),
            },
            _ if asked.is_some_and(|revision| revision != 0) => {
                return Err(Status::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            token => parse_continue(token)?,
        };
        Ok(Self { read, ..options })
    }
}

/// The combinations of resourceVersion, resourceVersionMatch, continue and sendInitialEvents that the API allows.
fn check(query: &Query, watch: bool) -> Result<Option<Match>, Status> {
    let kind = Qualified { group: "meta.k8s.io", name: "ListOptions" };
    let refuse = |error: FieldError| Err(Status::invalid_kind(kind, "", &[error]));
    let match_path = Path::new("resourceVersionMatch");
    let initial_path = Path::new("sendInitialEvents");
    let text = query.text("resourceVersionMatch");
    let initial = query.has("sendInitialEvents");
    if watch {
        return match text {
            "" if initial => refuse(FieldError::forbidden(
                &match_path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
            "" => Ok(None),
            _ if !initial => refuse(FieldError::forbidden(
                &match_path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )),
            "NotOlderThan" => Ok(Some(Match::NotOlderThan)),
            _ => refuse(FieldError::forbidden(
                &match_path,
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            )),
        };
    }
    if initial {
        return refuse(FieldError::forbidden(&initial_path, "sendInitialEvents is forbidden for list"));
    }
    let version = query.text("resourceVersion");
    match text {
        "" => Ok(None),
        _ if !query.text("continue").is_empty() => {
            refuse(FieldError::forbidden(&match_path, "resourceVersionMatch is forbidden with continue"))
        }
        _ if version.is_empty() => refuse(FieldError::forbidden(
            &match_path,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        )),
        "NotOlderThan" => Ok(Some(Match::NotOlderThan)),
        "Exact" if version == "0" => refuse(FieldError::forbidden(
            &match_path,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        )),
        "Exact" => Ok(Some(Match::Exact)),
        other => refuse(FieldError::not_supported(&match_path, other, &["Exact", "NotOlderThan", ""])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_where_the_matrix_says() {
        struct Case {
            query: &'static str,
            want: Result<ListRead, &'static str>,
        }
        let cases = [
            Case { query: "", want: Ok(ListRead::Latest) },
            Case { query: "resourceVersion=0", want: Ok(ListRead::Latest) },
            Case { query: "resourceVersion=7", want: Ok(ListRead::NotOlderThan(7)) },
            Case { query: "resourceVersion=7&limit=5", want: Ok(ListRead::Exact(7)) },
            Case { query: "resourceVersion=7&resourceVersionMatch=Exact", want: Ok(ListRead::Exact(7)) },
            Case {
                query: "resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=5",
                want: Ok(ListRead::NotOlderThan(7)),
            },
            Case { query: "resourceVersionMatch=Exact", want: Err("unless resourceVersion is provided") },
            Case {
                query: "resourceVersionMatch=Exact&resourceVersion=0",
                want: Err("forbidden for resourceVersion"),
            },
            Case { query: "resourceVersionMatch=Exact&continue=x", want: Err("forbidden with continue") },
            Case {
                query: "resourceVersion=7&resourceVersionMatch=Near",
                want: Err("Unsupported value: \"Near\""),
            },
            Case { query: "resourceVersion=x", want: Err("invalid resource version") },
            Case { query: "limit=x", want: Err("strconv.ParseInt: parsing \"x\": invalid syntax") },
            Case { query: "continue=x", want: Err("invalid continue token: continue key is not valid") },
            Case { query: "sendInitialEvents=true", want: Err("sendInitialEvents is forbidden for list") },
        ];
        for case in cases {
            let got = ListOptions::parse(&Query::parse(case.query), false).map(|options| options.read);
            match (got, case.want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{}", case.query),
                (Err(got), Err(want)) => {
                    assert!(got.message.contains(want), "{}: {}", case.query, got.message)
                }
                (got, want) => panic!("{}: {got:?}, want {want:?}", case.query),
            }
        }
    }

    #[test]
    fn watches_begin_where_the_matrix_says() {
        let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        let cases = [
            ("", WatchFrom::State { at_least: 0, marked: true }),
            ("resourceVersion=0", WatchFrom::State { at_least: 0, marked: true }),
            ("resourceVersion=9", WatchFrom::Revision(9)),
            (initial, WatchFrom::State { at_least: 0, marked: true }),
            ("sendInitialEvents=false&resourceVersionMatch=NotOlderThan", WatchFrom::Now),
        ];
        for (query, want) in cases {
            let got = ListOptions::parse(&Query::parse(query), true).unwrap();
            assert_eq!(got.watch_from, want, "{query}");
        }
        let error = ListOptions::parse(&Query::parse("sendInitialEvents=true"), true).unwrap_err();
        assert_eq!(error.code, 422);
        assert!(error.message.ends_with(
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        ));
    }

    #[test]
    fn a_token_leads_to_the_next_page() {
        let query = Query::parse(&format!("continue={}", continue_token(Some(5), "ns/a")));
        let read = ListOptions::parse(&query, false).unwrap().read;
        assert_eq!(read, ListRead::Continue { revision: Some(5), start: "ns/a".to_owned() });
        let query = Query::parse(&format!("continue={}&resourceVersion=3", continue_token(None, "a")));
        assert_eq!(ListOptions::parse(&query, false).unwrap_err().code, 400);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%26b&stdin&flag=false");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b"]);
        assert!(query.has("stdin") && !query.flag("stdin") && !query.flag("flag"));
    }
}
