//! kubectl as several people.

use crate::kubectl::kubectl;
use crate::server::{PATIENCE, Running};

#[tokio::test]
async fn kubectl_asks_and_acts_as_others() {
    let server = Running::start().await;
    let run = async |arguments: &str| kubectl(&server, arguments, "").await;
    run("create rolebinding jane --clusterrole=view --user=jane").await.unwrap();
    run("create serviceaccount robot").await.unwrap();
    run("create clusterrole reader --verb=get,list --resource=nodes").await.unwrap();
    run("create clusterrolebinding robots --clusterrole=reader --serviceaccount=default:robot")
        .await
        .unwrap();
    assert_eq!(run("auth can-i list pods --as=jane").await.unwrap(), "yes\n");
    assert_eq!(run("auth can-i delete pods --as=jane").await.unwrap_err(), "no\n");
    assert_eq!(
        run("auth can-i list nodes --as=system:serviceaccount:default:robot").await.unwrap().lines().last(),
        Some("yes")
    );
    assert_eq!(run("auth can-i get pods/log --as=jane").await.unwrap(), "yes\n");
    assert_eq!(run("auth can-i get /healthz --as=nobody").await.unwrap(), "yes\n");
    assert_eq!(run("auth can-i get /metrics --as=nobody").await.unwrap_err(), "no\n");
    let list = run("auth can-i --list --as=jane").await.unwrap();
    let rule = list.lines().find(|line| line.starts_with("configmaps")).unwrap_or_else(|| panic!("{list}"));
    assert!(rule.contains("[get list watch]"), "{rule}");
    assert!(run("auth whoami --as=jane --as-group=dev").await.unwrap().contains("dev"));
    let refused = run("delete pod x --as=jane").await.unwrap_err();
    let want = "Error from server (Forbidden): pods \"x\" is forbidden: User \"jane\" cannot delete resource \"pods\" in API group \"\" in the namespace \"default\"\n";
    assert_eq!(refused, want);
    let reconciled = kubectl(
        &server,
        "auth reconcile -f -",
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules: [{verbs: [watch], apiGroups: [''], resources: [nodes]}]
",
    )
    .await
    .unwrap();
    assert!(reconciled.contains("clusterrole.rbac.authorization.k8s.io/reader reconciled"), "{reconciled}");
    assert_eq!(
        run("auth can-i watch nodes --as=system:serviceaccount:default:robot").await.unwrap().lines().last(),
        Some("yes")
    );
    assert_eq!(
        run("auth can-i list nodes --as=system:serviceaccount:default:robot").await.unwrap().lines().last(),
        Some("yes")
    );
}

#[tokio::test]
async fn a_token_logs_in_as_its_account() {
    let server = Running::start().await;
    let run = async |arguments: &str| kubectl(&server, arguments, "").await;
    run("create serviceaccount robot").await.unwrap();
    run("create rolebinding robot --clusterrole=view --serviceaccount=default:robot").await.unwrap();
    let token = run("create token robot --duration=1h").await.unwrap();
    let config = server.token_kubeconfig(token.trim());
    let as_robot = async |arguments: &str| {
        let config = config.display();
        kubectl(&server, &format!("--kubeconfig {config} {arguments}"), "").await
    };
    assert!(as_robot("auth whoami").await.unwrap().contains("system:serviceaccount:default:robot"));
    assert!(as_robot("get configmaps").await.unwrap().contains("kube-root-ca.crt"));
    assert!(as_robot("get secrets").await.unwrap_err().contains("cannot list resource \"secrets\""));
    let short = run("create token robot --duration=5m").await.unwrap_err();
    assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");
    run("delete serviceaccount robot").await.unwrap();
    let gone = as_robot("get configmaps").await.unwrap_err();
    assert!(gone.contains("You must be logged in to the server"), "{gone}");
}

#[tokio::test]
async fn a_secret_holds_a_token_as_long_as_it_is_there() {
    let server = Running::start().await;
    let run = async |arguments: &str| kubectl(&server, arguments, "").await;
    run("create serviceaccount robot").await.unwrap();
    let secret = "
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata: {name: robot-token, annotations: {kubernetes.io/service-account.name: robot}}
";
    kubectl(&server, "apply -f -", secret).await.unwrap();
    let token = run("get secret robot-token -o go-template={{.data.token|base64decode}}").await.unwrap();
    assert!(run("describe secret robot-token").await.unwrap().contains("service-account.uid"));
    let config = server.token_kubeconfig(&token);
    let whoami = format!("--kubeconfig {} auth whoami", config.display());
    assert!(run(&whoami).await.unwrap().contains("system:serviceaccount:default:robot"));
    run("delete secret robot-token").await.unwrap();
    assert!(run(&whoami).await.is_err(), "the token went with its Secret");
    kubectl(&server, "apply -f -", secret).await.unwrap();
    run("delete serviceaccount robot").await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while run("get secret robot-token").await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the Secret goes with its account");
    }
}

#[tokio::test]
async fn the_policy_of_the_gateway_api_guards_its_definitions() {
    let file = "shared/data/gateway-api-v1.6.1/standard/gateway.networking.k8s.io_vap_safeupgrades.yaml";
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = root.ancestors().map(|folder| folder.join(file)).find(|path| path.exists());
    let Some(found) = found else {
        eprintln!("{file} is not beside this checkout: nothing is compared");
        return;
    };
    let server = Running::start().await;
    let manifest = std::fs::read_to_string(found).unwrap();
    let applied = kubectl(&server, "apply -f -", &manifest).await.unwrap();
    for kind in ["validatingadmissionpolicy", "validatingadmissionpolicybinding"] {
        let want =
            format!("{kind}.admissionregistration.k8s.io/safe-upgrades.gateway.networking.k8s.io created");
        assert!(applied.contains(&want), "{applied}");
    }
    // As another user installs an old version of its definitions.
    let old = OLD_DEFINITION.replace("VERSION", "v1.2.0");
    let refused = kubectl(&server, "create -f -", &old).await.unwrap_err();
    assert!(
        refused.contains("Installing CRDs with version before v1.5.0 is prohibited by default"),
        "{refused}"
    );
    let made = kubectl(&server, "create -f -", &OLD_DEFINITION.replace("VERSION", "v1.6.1")).await;
    assert!(made.is_ok(), "{made:?}");
}

const OLD_DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: others.gateway.networking.k8s.io
  annotations: {gateway.networking.k8s.io/bundle-version: VERSION, gateway.networking.k8s.io/channel: standard, api-approved.kubernetes.io: unapproved}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: Other, plural: others, singular: other, listKind: OtherList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
";
