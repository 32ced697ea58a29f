use super::*;
use crate::registry::Registry;

const CONFIG_MAPS: Qualified<'_> = Qualified { group: "", name: "configmaps" };
const DEPLOYMENTS: Qualified<'_> = Qualified { group: "apps", name: "deployments" };

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn messages_are_those_that_clients_match() {
    struct Case {
        status: Status,
        code: u16,
        reason: &'static str,
        message: &'static str,
    }
    let case = |status, code, reason, message| Case { status, code, reason, message };
    let service = &Registry::builtin().kind("", "v1", "Service").unwrap().object;
    let ports = FieldError::required(&Path::new("spec").field("ports"), "");
    let cases = [
        case(Status::not_found(CONFIG_MAPS, "a"), 404, "NotFound", "configmaps \"a\" not found"),
        case(Status::not_found(DEPLOYMENTS, "a"), 404, "NotFound", "deployments.apps \"a\" not found"),
        case(
            Status::resource_not_found(),
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
        case(
            Status::already_exists(CONFIG_MAPS, "a", false),
            409,
            "AlreadyExists",
            "configmaps \"a\" already exists",
        ),
        case(
            Status::already_exists(CONFIG_MAPS, "a", true),
            409,
            "AlreadyExists",
            "object is being deleted: configmaps \"a\" already exists",
        ),
        case(
            Status::modified(CONFIG_MAPS, "a"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your \
             changes to the latest version and try again",
        ),
        case(
            Status::uid_mismatch(CONFIG_MAPS, "a", "x", "y"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on configmaps \"a\": the UID in the precondition (x) does not match the \
             UID in record (y). The object might have been deleted and then recreated",
        ),
        case(
            Status::unauthorized_action(Qualified { group: "", name: "pods" }, "", "u", "list", "", ""),
            403,
            "Forbidden",
            "pods is forbidden: User \"u\" cannot list resource \"pods\" in API group \"\" at the cluster scope",
        ),
        case(
            Status::unauthorized_action(DEPLOYMENTS, "a", "u", "get", "status", "x"),
            403,
            "Forbidden",
            "deployments.apps \"a\" is forbidden: User \"u\" cannot get resource \"deployments/status\" in API group \
             \"apps\" in the namespace \"x\"",
        ),
        case(
            Status::namespace_terminating(CONFIG_MAPS, "x", "tt"),
            403,
            "Forbidden",
            "configmaps \"x\" is forbidden: unable to create new content in namespace tt because it is being \
             terminated",
        ),
        case(Status::unauthorized(), 401, "Unauthorized", "Unauthorized"),
        case(
            Status::method_not_allowed(),
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ),
        case(Status::too_old(5, 200), 410, "Expired", "too old resource version: 5 (200)"),
        case(
            Status::version_in_future(99_999_999, 232),
            504,
            "Timeout",
            "Timeout: Too large resource version: 99999999, current: 232",
        ),
        case(
            Status::version_on_create(),
            500,
            "",
            "resourceVersion should not be set on objects to be created",
        ),
        case(
            Status::patch_failed(),
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        ),
        case(
            Status::version_required(Qualified { group: "coordination.k8s.io", name: "leases" }, "l"),
            422,
            "Invalid",
            "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
             specified for an update",
        ),
        case(
            Status::invalid(service, "x", std::slice::from_ref(&ports)),
            422,
            "Invalid",
            "Service \"x\" is invalid: spec.ports: Required value",
        ),
        case(
            Status::invalid(service, "x", &[ports.clone(), ports]),
            422,
            "Invalid",
            "Service \"x\" is invalid: [spec.ports: Required value, spec.ports: Required value]",
        ),
    ];
    for case in cases {
        assert_eq!(case.status.message, case.message);
        assert_eq!(
            (case.status.code, case.status.reason.as_str()),
            (case.code, case.reason),
            "{}",
            case.message
        );
    }
}

#[test]
fn the_wire_form_names_resource_or_kind() {
    assert_eq!(
        Status::not_found(DEPLOYMENTS, "a").to_value(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "deployments.apps \"a\" not found",
            "details": {"name": "a", "group": "apps", "kind": "deployments"},
        })
    );
    let deployment = &Registry::builtin().kind("apps", "v1", "Deployment").unwrap().object;
    let error = FieldError::required(&Path::new("spec"), "");
    assert_eq!(
        Status::invalid(deployment, "a", &[error]).to_value()["details"],
        json!({"name": "a", "group": "apps", "kind": "Deployment", "causes": [
            {"reason": "FieldValueRequired", "message": "Required value", "field": "spec"}]})
    );
    let status = Status::continue_expired("token".to_owned()).to_value();
    assert_eq!((&status["metadata"], &status["code"]), (&json!({"continue": "token"}), &json!(410)));
    let done = Status::success(200, Some((CONFIG_MAPS, "a", "u"))).to_value();
    assert_eq!(done["status"], "Success");
    assert_eq!(done["details"], json!({"name": "a", "kind": "configmaps", "uid": "u"}));
    let future = Status::version_in_future(9, 2).to_value();
    assert_eq!(future["details"]["retryAfterSeconds"], 1);
    assert_eq!(future["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}
