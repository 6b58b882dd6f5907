//! What a user types.

use super::cluster::{Cluster, Said};

const DEPLOYMENT: &str = "apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: \"nginx:1\", ports: [{containerPort: 80}]}
";

fn fine(said: &Said, expected: &str) {
    assert!(said.ok, "{}{}", said.out, said.err);
    assert!(said.out.contains(expected), "expected {expected:?} in:\n{}{}", said.out, said.err);
}

fn refused(said: &Said, expected: &str) {
    assert!(!said.ok, "{}", said.out);
    assert!(said.err.contains(expected), "expected {expected:?} in:\n{}", said.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_lives_its_life() {
    let cluster = Cluster::start().await;
    fine(&cluster.kubectl("version", "").await, "Server Version: v1.37.0+orlop");
    fine(&cluster.kubectl("api-resources", "").await, "deployments");
    fine(&cluster.kubectl("get namespaces", "").await, "kube-system");
    fine(&cluster.kubectl("apply -f -", DEPLOYMENT).await, "deployment.apps/web created");
    fine(&cluster.kubectl("apply -f -", DEPLOYMENT).await, "deployment.apps/web unchanged");
    let more = DEPLOYMENT.replace("replicas: 3", "replicas: 4");
    fine(
        &cluster.kubectl("apply --dry-run=server -f -", &more).await,
        "deployment.apps/web configured (server dry run)",
    );
    fine(&cluster.kubectl("get deploy web -o jsonpath={.spec.replicas}", "").await, "3");
    fine(&cluster.kubectl("apply -f -", &more).await, "deployment.apps/web configured");
    fine(&cluster.kubectl("get deployment", "").await, "NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb    0/4");
    fine(&cluster.kubectl("scale deployment/web --replicas=5", "").await, "deployment.apps/web scaled");
    fine(&cluster.kubectl("get deploy web -o jsonpath={.spec.replicas}", "").await, "5");
    fine(&cluster.kubectl("label deployment/web tier=front", "").await, "labeled");
    fine(&cluster.kubectl("get deploy -l tier=front -o name", "").await, "deployment.apps/web");
    fine(&cluster.kubectl("set image deployment/web web=nginx:2", "").await, "image updated");
    fine(
        &cluster
            .kubectl(r#"patch deploy web --type=json -p=[{"op":"add","path":"/spec/paused","value":true}]"#, "")
            .await,
        "patched",
    );
    fine(&cluster.kubectl("describe deployment web", "").await, "nginx:2");
    fine(&cluster.kubectl("delete deployment web", "").await, "deleted");
    refused(&cluster.kubectl("get deployment web", "").await, "deployments.apps \"web\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_tells_who_owns_what() {
    let cluster = Cluster::start().await;
    let apply = "apply --server-side --field-manager";
    fine(&cluster.kubectl(&format!("{apply}=one -f -"), DEPLOYMENT).await, "serverside-applied");
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 7}\n";
    refused(&cluster.kubectl(&format!("{apply}=two -f -"), other).await, "conflict with \"one\"");
    fine(&cluster.kubectl(&format!("{apply}=two --force-conflicts -f -"), other).await, "serverside-applied");
    fine(&cluster.kubectl("get deploy web -o jsonpath={.spec.replicas}", "").await, "7");
    fine(&cluster.kubectl("get deploy web --show-managed-fields -o yaml", "").await, "manager: two");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_named() {
    let cluster = Cluster::start().await;
    let typo = DEPLOYMENT.replace("replicas: 3", "replicsa: 3");
    refused(&cluster.kubectl("apply -f -", &typo).await, "unknown field \"spec.replicsa\"");
    let wrong = DEPLOYMENT.replace("containerPort: 80", "containerPort: 99999");
    refused(&cluster.kubectl("apply -f -", &wrong).await, "must be between 1 and 65535");
    let name = DEPLOYMENT.replace("name: web\n  labels", "name: Web_\n  labels");
    refused(&cluster.kubectl("apply -f -", &name).await, "metadata.name: Invalid value: \"Web_\"");
    refused(&cluster.kubectl("apply -n nowhere -f -", DEPLOYMENT).await, "namespaces \"nowhere\" not found");
    refused(&cluster.kubectl("delete namespace default", "").await, "forbidden");
    let quantity = DEPLOYMENT.replace("ports:", "resources: {limits: {cpu: lots}}, ports:");
    let field = "spec.template.spec.containers[0].resources.limits.cpu: quantities must match";
    refused(&cluster.kubectl("apply -f -", &quantity).await, field);
    fine(&cluster.kubectl("create configmap a --from-literal=a=b", "").await, "created");
    let patch = r#"patch configmap a --type=json -p=[{"op":"test","path":"/data/a","value":"c"}]"#;
    refused(
        &cluster.kubectl(patch, "").await,
        "The request is invalid: the server rejected our request due to an error",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn config_and_rbac_verbs_work() {
    let cluster = Cluster::start().await;
    fine(&cluster.kubectl("create namespace team", "").await, "namespace/team created");
    fine(&cluster.kubectl("create configmap settings -n team --from-literal=a=b", "").await, "created");
    fine(&cluster.kubectl("create serviceaccount robot -n team", "").await, "created");
    fine(&cluster.kubectl("create token robot -n team", "").await, ".");
    fine(&cluster.kubectl("create deployment shop --image=nginx --replicas=0 -n team", "").await, "created");
    fine(&cluster.kubectl("get deployment shop -n team -o jsonpath={.spec.replicas}", "").await, "0");
    let replicas = cluster.kubectl("explain deployment.spec.replicas", "").await;
    fine(&replicas, "FIELD: replicas <integer>");
    fine(&replicas, "Number of desired pods. This is a pointer to distinguish between explicit");
    fine(
        &cluster.kubectl("auth can-i --list --as=system:serviceaccount:team:robot", "").await,
        "selfsubjectaccessreviews",
    );
    fine(&cluster.kubectl("get configmap settings -n team -o jsonpath={.data.a}", "").await, "b");
    fine(&cluster.kubectl("auth whoami", "").await, "kubernetes-admin");
    fine(&cluster.kubectl("auth can-i create pods", "").await, "yes");
    let robot = "--as=system:serviceaccount:team:robot -n team";
    refused(
        &cluster.kubectl(&format!("get configmaps {robot}"), "").await,
        "configmaps is forbidden: User \"system:serviceaccount:team:robot\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"team\"",
    );
    fine(&cluster.kubectl("create role reader -n team --verb=get,list --resource=configmaps", "").await, "created");
    fine(
        &cluster.kubectl("create rolebinding reads -n team --role=reader --serviceaccount=team:robot", "").await,
        "created",
    );
    fine(&cluster.kubectl(&format!("get configmaps {robot}"), "").await, "settings");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_kind_is_called_one() {
    let cluster = Cluster::start().await;
    let gizmo = "apiVersion: v1\nkind: Gizmo\nmetadata: {name: a}\n";
    refused(&cluster.kubectl("apply -f -", gizmo).await, "no matches for kind \"Gizmo\" in version \"v1\"");
    refused(&cluster.kubectl("get gizmos", "").await, "the server doesn't have a resource type \"gizmos\"");
}
