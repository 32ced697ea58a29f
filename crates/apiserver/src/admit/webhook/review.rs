//! AdmissionReview v1: the question to a webhook, and what its answer means. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_objects::Reason;
use fairway_objects::document::Document;
use fairway_objects::status::{Cause, Details, Status};
use serde_json::{Value, json};

use super::super::Attributes;
use super::super::matching::{in_version, name_of};

/// Warnings that one answer may add.
const WARNINGS_MAX: usize = 20;
/// Characters of one warning; the rest is cut.
const WARNING_CHARS_MAX: usize = 256;

/// What a webhook is asked, with its parts in the version that its rule names.
pub(in crate::admit) fn request(
    attributes: &Attributes<'_>,
    version: &str,
    uid: &str,
    object: &Value,
    old: Option<&Value>,
) -> Value {
    let resource = attributes.resource;
    let kind = attributes.object_type;
    // A subresource of a kind of its own has one version.
    let is_object = kind.kind == resource.object.kind;
    let asked = |version: &str| {
        let kind_version = if is_object { version } else { &kind.version };
        (
            json!({"group": &*kind.group, "version": kind_version, "kind": &*kind.kind}),
            json!({"group": resource.group(), "version": version, "resource": &*resource.plural}),
        )
    };
    let ((kind, asked_resource), (request_kind, request_resource)) =
        (asked(version), asked(resource.version()));
    let convert = |object: &Value| {
        if is_object && version != resource.version() {
            in_version(object, resource.group(), version)
        } else {
            object.clone()
        }
    };
    let mut request = json!({
        "uid": uid, "kind": kind, "resource": asked_resource, "requestKind": request_kind, "requestResource": request_resource,
        "operation": attributes.operation.as_str(), "userInfo": attributes.user.to_json(), "dryRun": attributes.dry_run,
        "object": convert(object), "oldObject": old.map_or(Value::Null, convert), "options": options(attributes),
    });
    let mut put = |name: &str, text: &str| {
        if !text.is_empty() {
            request.put(&[name], text);
        }
    };
    put("name", name_of(attributes, object));
    put("namespace", attributes.namespace_in_reviews());
    put("subResource", attributes.subresource);
    put("requestSubResource", attributes.subresource);
    request
}

/// The question as it is sent.
pub(super) fn question(request: &Value) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

/// The options of the request as an object.
fn options(attributes: &Attributes<'_>) -> Value {
    use super::super::Operation;
    if attributes.operation == Operation::Connect {
        return Value::Null;
    }
    let (kind, query) = (
        match attributes.operation {
            Operation::Create => "CreateOptions",
            Operation::Update if attributes.query.has("force") => "PatchOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete | Operation::Connect => "DeleteOptions",
        },
        attributes.query,
    );
    let mut options = attributes.options.cloned().unwrap_or_else(|| json!({}));
    options.put(&["kind"], kind);
    options.put(&["apiVersion"], "meta.k8s.io/v1");
    if attributes.dry_run {
        options.put(&["dryRun"], json!(["All"]));
    }
    for name in ["fieldManager", "fieldValidation", "propagationPolicy"] {
        if query.has(name) {
            options.put_default(&[name], query.text(name));
        }
    }
    options
}

/// What a webhook said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Verdict {
    /// The refusal, if it is one.
    pub(super) denied: Option<Status>,
    /// The JSON patch (RFC 6902) to apply.
    pub(super) patch: Option<Value>,
    /// For the client.
    pub(super) warnings: Vec<String>,
}

/// Reads the answer to the question `uid` of the webhook `name`; the error says why it is none.
pub(super) fn verdict(name: &str, uid: &str, answer: &[u8], mutating: bool) -> Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(answer)
        .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))?;
    let (version, kind) = (answer.text(&["apiVersion"]), answer.text(&["kind"]));
    if (version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
        let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
        return Err(format!(
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
        ));
    }
    let response = answer.at(&["response"]);
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let answered = response.text(&["uid"]);
    if answered != uid {
        return Err(format!("expected response.uid={uid:?}, got {answered:?}"));
    }
    let warnings = response.list(&["warnings"]).iter().filter_map(Value::as_str).take(WARNINGS_MAX);
    let warnings = warnings.map(|warning| warning.chars().take(WARNING_CHARS_MAX).collect()).collect();
    let denied = (!response.is_true(&["allowed"])).then(|| denial(name, response.at(&["status"])));
    let patch = match (response.text(&["patch"]), response.text(&["patchType"])) {
        ("", "") => None,
        ("", _) => return Err("webhook returned response.patchType but not response.patch".to_owned()),
        (_, _) if !mutating => {
            return Err("validating webhook may not return response.patch or response.patchType".to_owned());
        }
        (patch, "JSONPatch") => Some(read_patch(patch)?),
        (_, "") => return Err("webhook returned response.patch but not response.patchType".to_owned()),
        (_, other) => {
            return Err(format!("invalid value of response.patchType={other:?} for admission.k8s.io/v1"));
        }
    };
    Ok(Verdict { denied, patch, warnings })
}

fn read_patch(patch: &str) -> Result<Value, String> {
    let bytes = STANDARD.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("response.patch is no JSON: {error}"))
}

/// The refusal of a webhook as the client gets it: at least 400, and never a success.
fn denial(name: &str, given: &Value) -> Status {
    let by = format!("admission webhook {name:?} denied the request");
    let (message, reason) = (given.text(&["message"]), given.text(&["reason"]));
    let message = match (message, reason) {
        ("", "") => format!("{by} without explanation"),
        ("", reason) => format!("{by}: {reason}"),
        (message, _) => format!("{by}: {message}"),
    };
    let code = given.int(&["code"]).and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    let code = if (400..600).contains(&code) { code } else { 400 };
    let mut status = Status::new(code, Reason::parse(reason), message);
    let details = given.at(&["details"]);
    if details.is_object() {
        let text = |name| details.text(&[name]).to_owned();
        let causes = details.list(&["causes"]).iter().map(|cause| Cause {
            reason: cause.text(&["reason"]).to_owned(),
            message: cause.text(&["message"]).to_owned(),
            field: cause.text(&["field"]).to_owned(),
        });
        status.details = Some(Box::new(Details {
            name: text("name"),
            group: text("group"),
            kind: text("kind"),
            uid: text("uid"),
            causes: causes.collect(),
            retry_after_seconds: details
                .int(&["retryAfterSeconds"])
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        }));
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "one table of cases")]
    fn answers_are_read_as_kubernetes_reads_them() {
        struct Case {
            name: &'static str,
            answer: Value,
            mutating: bool,
            want: Result<(u16, &'static str), &'static str>,
        }
        let review = |response: Value| {
            let mut response = response;
            response.put_default(&["uid"], "u");
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
        };
        let cases = [
            Case {
                name: "yes",
                answer: review(json!({"allowed": true})),
                mutating: false,
                want: Ok((0, "")),
            },
            Case {
                name: "no",
                answer: review(json!({"allowed": false})),
                mutating: false,
                want: Ok((400, r#"admission webhook "w" denied the request without explanation"#)),
            },
            Case {
                name: "no, with a reason",
                answer: review(json!({"allowed": false, "status": {"reason": "Forbidden", "code": 403}})),
                mutating: false,
                want: Ok((403, r#"admission webhook "w" denied the request: Forbidden"#)),
            },
            Case {
                name: "no, with words, as a success",
                answer: review(
                    json!({"allowed": false, "status": {"message": "too red", "code": 200, "status": "Success"}}),
                ),
                mutating: true,
                want: Ok((400, r#"admission webhook "w" denied the request: too red"#)),
            },
            Case {
                name: "the answer to another question",
                answer: review(json!({"allowed": true, "uid": "v"})),
                mutating: false,
                want: Err(r#"expected response.uid="u", got "v""#),
            },
            Case {
                name: "no answer",
                answer: json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}),
                mutating: false,
                want: Err("webhook response was absent"),
            },
            Case {
                name: "another version",
                answer: json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview"}),
                mutating: false,
                want: Err(
                    "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v1beta1, Kind=AdmissionReview",
                ),
            },
            Case {
                name: "a patch of who may only say no",
                answer: review(json!({"allowed": true, "patchType": "JSONPatch", "patch": "W10="})),
                mutating: false,
                want: Err("validating webhook may not return response.patch or response.patchType"),
            },
            Case {
                name: "a patch of no type",
                answer: review(json!({"allowed": true, "patch": "W10="})),
                mutating: true,
                want: Err("webhook returned response.patch but not response.patchType"),
            },
            Case {
                name: "a patch",
                answer: review(json!({"allowed": true, "patchType": "JSONPatch", "patch": "W10="})),
                mutating: true,
                want: Ok((0, "")),
            },
        ];
        for case in cases {
            let got = verdict("w", "u", case.answer.to_string().as_bytes(), case.mutating);
            let got = got.map(|verdict| {
                verdict.denied.map_or((0, String::new()), |status| (status.code, status.message))
            });
            let want = case.want.map(|(code, text)| (code, text.to_owned())).map_err(str::to_owned);
            assert_eq!(got, want, "{}", case.name);
        }
        assert!(verdict("w", "u", b"<html>", false).unwrap_err().contains("json parse error"));
    }

    #[test]
    fn warnings_are_limited() {
        let warnings: Vec<String> = (0..30).map(|index| format!("{index}{}", "x".repeat(1000))).collect();
        let answer = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                            "response": {"uid": "u", "allowed": true, "warnings": warnings}});
        let got = verdict("w", "u", answer.to_string().as_bytes(), false).unwrap().warnings;
        assert_eq!((got.len(), got[0].len()), (WARNINGS_MAX, WARNING_CHARS_MAX));
    }
}
