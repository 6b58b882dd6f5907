//! Manifests that many stories start from.

/// A Deployment named `name` of the test application that serves on port 8080 and is ready when it says so.
pub fn web(name: &str, replicas: u32, version: &str) -> String {
    format!(
        r"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: orlop.dev/testapp:1
        args: [serve]
        env: [{{name: VERSION, value: {version:?}}}]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: http}}, periodSeconds: 1}}
"
    )
}

/// A Service in front of [`web`].
pub fn service(name: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: http, port: 80, targetPort: http}}]
"
    )
}

/// A Pod that runs the test application with these words, once.
pub fn pod(name: &str, args: &[&str], more: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: main
    image: orlop.dev/testapp:1
    args: {args:?}
{more}
"
    )
}
