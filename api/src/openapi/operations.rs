//! Which paths a kind has, and what can be done there. Clients look for the operation of a kind
//! (`x-kubernetes-group-version-kind`) and whether it lists a query parameter such as `fieldValidation` or `dryRun`.

use serde_json::{Map, Value, json};

use super::Dialect;
use crate::{
    kinds::{Kind, Subresource},
    schema::{Gvk, Schema},
};

const JSON: &[&str] = &["application/json", "application/yaml"];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// A parameter: its name and JSON type.
type Parameter = (&'static str, &'static str);

const NAMESPACE: Parameter = ("namespace", "string");
const NAME: Parameter = ("name", "string");
const WRITE: &[Parameter] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const FORCE: &[Parameter] = &[("force", "boolean")];
const DELETE: &[Parameter] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: &[Parameter] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const LOG: &[Parameter] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const EXEC: &[Parameter] = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];

/// One path with its operations.
pub(super) struct Path {
    /// `/apis/apps/v1/namespaces/{namespace}/deployments/{name}`.
    pub(super) path: String,
    parameters: Vec<Parameter>,
    operations: Vec<Operation>,
}

struct Operation {
    method: &'static str,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// `readAppsV1NamespacedDeployment`.
    id: String,
    tag: String,
    gvk: Gvk,
    parameters: Vec<Parameter>,
    consumes: &'static [&'static str],
    /// The type of the body; none if there is none.
    body: Option<&'static str>,
    /// The type of the answer; none where it is text.
    answer: Option<&'static str>,
}

/// All paths of a kind.
pub(super) fn of(kind: &'static Kind) -> Vec<Path> {
    let mut paths = vec![collection(kind), item(kind)];
    if kind.namespaced() {
        let list = Maker { kind, scope: "", suffix: "ForAllNamespaces", gvk: gvk(kind) };
        paths.push(Path {
            path: kind.path(None),
            parameters: Vec::new(),
            operations: vec![list.make("get", "list", "list", &[LIST], None, list_type(kind))],
        });
    }
    paths.extend(kind.subresources.iter().map(|sub| subresource(kind, *sub)));
    paths
}

fn collection(kind: &'static Kind) -> Path {
    let make = Maker::of(kind);
    let own = own_type(kind);
    let mut operations = vec![
        make.make("get", "list", "list", &[LIST], None, list_type(kind)),
        make.make("post", "post", "create", &[WRITE], own, own),
    ];
    // As upstream: namespaces are deleted one by one.
    if kind.kind != "Namespace" {
        let all = Maker { scope: if kind.namespaced() { "CollectionNamespaced" } else { "Collection" }, ..make };
        let delete =
            all.make("delete", "deletecollection", "delete", &[DELETE, LIST], Some(DELETE_OPTIONS), Some(STATUS));
        operations.push(delete);
    }
    let parameters = if kind.namespaced() { vec![NAMESPACE] } else { Vec::new() };
    Path { path: base(kind), parameters, operations }
}

fn item(kind: &'static Kind) -> Path {
    let make = Maker::of(kind);
    let own = own_type(kind);
    let operations = vec![
        make.make("get", "get", "read", &[], None, own),
        make.make("put", "put", "replace", &[WRITE], own, own),
        make.make("patch", "patch", "patch", &[WRITE, FORCE], Some(PATCH), own),
        make.make("delete", "delete", "delete", &[DELETE], Some(DELETE_OPTIONS), Some(STATUS)),
    ];
    Path { path: format!("{}/{{name}}", base(kind)), parameters: item_parameters(kind), operations }
}

fn subresource(kind: &'static Kind, sub: Subresource) -> Path {
    let other = |group, version, kind| Gvk { group, version, kind };
    let make = |suffix, gvk| Maker { suffix, gvk, ..Maker::of(kind) };
    let three = |make: &Maker, ty| {
        vec![
            make.make("get", "get", "read", &[], None, ty),
            make.make("put", "put", "replace", &[WRITE], ty, ty),
            make.make("patch", "patch", "patch", &[WRITE, FORCE], Some(PATCH), ty),
        ]
    };
    let posted = |make: &Maker, ty| vec![make.make("post", "post", "create", &[WRITE], Some(ty), Some(ty))];
    let operations = match sub {
        Subresource::Status => three(&make("Status", gvk(kind)), own_type(kind)),
        Subresource::Scale => {
            three(&make("Scale", other("autoscaling", "v1", "Scale")), Some("io.k8s.api.autoscaling.v1.Scale"))
        }
        Subresource::Binding => posted(&make("Binding", other("", "v1", "Binding")), "io.k8s.api.core.v1.Binding"),
        Subresource::Eviction => {
            posted(&make("Eviction", other("policy", "v1", "Eviction")), "io.k8s.api.policy.v1.Eviction")
        }
        Subresource::Token => posted(
            &make("Token", other("authentication.k8s.io", "v1", "TokenRequest")),
            "io.k8s.api.authentication.v1.TokenRequest",
        ),
        Subresource::Finalize => {
            let own = own_type(kind);
            vec![make("Finalize", gvk(kind)).make("put", "put", "replace", &[WRITE], own, own)]
        }
        Subresource::Log => vec![make("Log", gvk(kind)).make("get", "get", "read", &[LOG], None, None)],
        Subresource::Exec => {
            let exec = make("Exec", other("", "v1", "PodExecOptions"));
            vec![
                exec.make("get", "connect", "connectGet", &[EXEC], None, None),
                exec.make("post", "connect", "connectPost", &[EXEC], None, None),
            ]
        }
    };
    let path = format!("{}/{{name}}/{}", base(kind), sub.name());
    Path { path, parameters: item_parameters(kind), operations }
}

/// Makes the operations of one kind.
#[derive(Clone, Copy)]
struct Maker {
    kind: &'static Kind,
    scope: &'static str,
    suffix: &'static str,
    gvk: Gvk,
}

impl Maker {
    fn of(kind: &'static Kind) -> Self {
        Self { kind, scope: if kind.namespaced() { "Namespaced" } else { "" }, suffix: "", gvk: gvk(kind) }
    }

    fn make(
        &self,
        method: &'static str,
        action: &'static str,
        verb: &str,
        parameters: &[&[Parameter]],
        body: Option<&'static str>,
        answer: Option<&'static str>,
    ) -> Operation {
        let Kind { group, version, kind, .. } = self.kind;
        let group = group.strip_suffix(".k8s.io").unwrap_or(group);
        let group = if group.is_empty() { "core" } else { group };
        let camel: String = group.split('.').map(capital).collect();
        let version_camel = capital(version);
        Operation {
            method,
            action,
            id: format!("{verb}{camel}{version_camel}{}{kind}{}", self.scope, self.suffix),
            tag: format!("{}{}_{version}", &camel[..1].to_lowercase(), &camel[1..]),
            gvk: self.gvk,
            parameters: parameters.concat(),
            consumes: if method == "patch" { PATCHES } else { JSON },
            body,
            answer,
        }
    }
}

impl Path {
    /// The types that bodies and answers have.
    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> {
        self.operations.iter().flat_map(|o| [o.body, o.answer]).flatten()
    }

    /// The path item.
    pub(super) fn write(&self, dialect: Dialect) -> Value {
        let operations = self.operations.iter().map(|o| (o.method.to_owned(), o.write(dialect)));
        let mut item: Map<_, _> = operations.collect();
        if !self.parameters.is_empty() {
            let parameters = self.parameters.iter().map(|p| parameter(*p, "path", dialect));
            item.insert("parameters".into(), parameters.collect());
        }
        item.into()
    }
}

impl Operation {
    fn write(&self, dialect: Dialect) -> Value {
        let mut parameters: Vec<_> = self.parameters.iter().map(|p| parameter(*p, "query", dialect)).collect();
        let schema = |name: &str| json!({"$ref": dialect.reference(name)});
        let Gvk { group, version, kind } = self.gvk;
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
        });
        let answer = self.answer.map_or_else(|| json!({"type": "string"}), schema);
        let media = if self.answer.is_some() { JSON } else { &["text/plain"] };
        let by_media = |types: &[&str], schema: &Value| -> Value {
            types.iter().map(|t| ((*t).to_owned(), json!({"schema": schema}))).collect::<Map<_, _>>().into()
        };
        match dialect {
            Dialect::V2 => {
                operation["consumes"] = self.consumes.into();
                operation["produces"] = media.into();
                operation["responses"] = json!({"200": {"description": "OK", "schema": answer}});
                if let Some(body) = self.body {
                    parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema(body)}));
                }
            }
            Dialect::V3 => {
                operation["responses"] = json!({"200": {"description": "OK", "content": by_media(media, &answer)}});
                if let Some(body) = self.body {
                    operation["requestBody"] =
                        json!({"content": by_media(self.consumes, &schema(body)), "required": true});
                }
            }
        }
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        operation
    }
}

fn parameter((name, kind): Parameter, place: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({"name": name, "in": place});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => parameter["type"] = kind.into(),
        Dialect::V3 => parameter["schema"] = json!({"type": kind}),
    }
    parameter
}

fn base(kind: &Kind) -> String {
    kind.path(Some("{namespace}"))
}

fn item_parameters(kind: &Kind) -> Vec<Parameter> {
    if kind.namespaced() { vec![NAME, NAMESPACE] } else { vec![NAME] }
}

fn gvk(kind: &'static Kind) -> Gvk {
    Gvk { group: kind.group, version: kind.version, kind: kind.kind }
}

fn own_type(kind: &Kind) -> Option<&'static str> {
    Schema::of(kind).map(|t| t.name)
}

fn list_type(kind: &Kind) -> Option<&'static str> {
    Schema::of_gvk(kind.group, kind.version, &format!("{}List", kind.kind)).map(|t| t.name)
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}
