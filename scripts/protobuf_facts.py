#!/usr/bin/env python3
"""Writes apiserver/src/protobuf/facts.txt: which field of which message has which number in Kubernetes' protobuf form.

    scripts/protobuf_facts.py <folder of the k8s-pb crate's sources> > apiserver/src/protobuf/facts.txt

The numbers are read from the crate `k8s-pb`, the names of fields in JSON from api/src/schema/facts.txt. One message a block:
its name, then a line per field: number, name in JSON, shape. Shapes: `str`, `bytes`, `bool`, `int`, `float`, `@message`; before
it `[]` for a list, `{}` for a map from strings. A name of `^` means that the fields of the message belong to its parent. After
the shape `?` marks a number or flag that may be absent, whose zero therefore means something.
"""
import re, sys, pathlib

ROOTS = """core.v1.Namespace core.v1.Node core.v1.Pod core.v1.Service core.v1.ConfigMap core.v1.Secret core.v1.ServiceAccount
core.v1.Event core.v1.Binding discovery.v1.EndpointSlice coordination.v1.Lease apps.v1.Deployment apps.v1.ReplicaSet
rbac.v1.Role rbac.v1.RoleBinding rbac.v1.ClusterRole rbac.v1.ClusterRoleBinding autoscaling.v1.Scale
authentication.v1.TokenRequest authentication.v1.TokenReview authentication.v1.SelfSubjectReview
authorization.v1.SubjectAccessReview authorization.v1.LocalSubjectAccessReview authorization.v1.SelfSubjectAccessReview
authorization.v1.SelfSubjectRulesReview""".split()
META = "io.k8s.apimachinery.pkg.apis.meta.v1"
# messages that are something else in JSON
SPECIAL = {META + ".Time", META + ".MicroTime", META + ".FieldsV1", "io.k8s.apimachinery.pkg.api.resource.Quantity",
           "io.k8s.apimachinery.pkg.util.intstr.IntOrString", "io.k8s.apimachinery.pkg.runtime.RawExtension"}
# numbers and flags that are pointers in Go
POINTERS = set("""replicas revisionHistoryLimit progressDeadlineSeconds terminationGracePeriodSeconds activeDeadlineSeconds
runAsUser runAsGroup fsGroup tolerationSeconds expirationSeconds gracePeriodSeconds deletionGracePeriodSeconds defaultMode mode
priority timeoutSeconds leaseDurationSeconds leaseTransitions automountServiceAccountToken enableServiceLinks runAsNonRoot
allowPrivilegeEscalation privileged readOnlyRootFilesystem shareProcessNamespace controller blockOwnerDeletion optional immutable
orphanDependents ready serving terminating allocateLoadBalancerNodePorts hostUsers setHostnameAsFQDN collisionCount
sendInitialEvents ignoreStoreReadErrorWithClusterBreakingPotential""".split())

root = pathlib.Path(sys.argv[1])
schema, current = {}, None
for line in pathlib.Path("api/src/schema/facts.txt").read_text().splitlines():
    if line.startswith("\t"):
        name = line.split()[0].rstrip("!")
        current.append(name)
    elif line and not line.startswith("#"):
        current = schema.setdefault(line.split()[0], [])

def module(path):
    return "io.k8s." + ".".join(path.relative_to(root).parent.parts)

messages = {}
for path in root.rglob("mod.rs"):
    here = module(path)
    text = path.read_text()
    for found in re.finditer(r"pub struct (\w+) \{(.*?)\n\}", text, re.S):
        fields = []
        for f in re.finditer(r"#\[prost\(([^\]]*?)\)\]\s*(?:#\[\w+\]\s*)?pub (r#)?(\w+):\s*(.*?),\s*(?=///|#\[|\Z)", found[2], re.S):
            fields.append((re.sub(r"\s+", " ", f[1]), f[3], re.sub(r"\s+", "", f[4]).rstrip(",")))
        messages[here + "." + found[1]] = fields

def resolve(here, name):
    parts = here.split(".")[:-1]
    while name.startswith("super::"):
        name, parts = name[7:], parts[:-1]
    return ".".join(parts + name.split("::"))

def camel(snake):
    head, *rest = snake.split("_")
    return head + "".join(r.capitalize() for r in rest)

def json_name(message, snake):
    flat = snake.replace("_", "").lower()
    for name in schema.get(message, []):
        if name.lower() == flat:
            return name
    special = {"groupversion": "groupVersion", "nonresourceurls": "nonResourceURLs", "uid": "uid"}
    if message in schema:
        return None
    return special.get(flat, camel(snake))

INLINE = {META + ".TypeMeta"}
out, seen, todo = {}, set(), ["io.k8s.api." + r for r in ROOTS] + [META + ".DeleteOptions"]
while todo:
    message = todo.pop()
    if message in seen or message in SPECIAL:
        continue
    seen.add(message)
    lines = []
    for attrs, snake, rust in messages[message]:
        number = re.search(r'tag = "(\d+)"', attrs)[1]
        kind = attrs.split(",")[0].split("=")[0].strip()
        name = json_name(message, snake)
        prefix = ""
        if "btree_map" in kind:
            prefix, kind = "{}", re.search(r'"string, (\w+)"', attrs)[1]
        elif "repeated" in attrs:
            prefix = "[]"
        inner = re.search(r"(?:Option|Vec|Box)<(?:::prost::alloc::boxed::Box<)?([^<>]+)>", rust)
        target = (rust if inner is None else inner[1]).strip(",")
        if prefix == "{}":
            target = rust.rstrip(">,").rsplit(",", 1)[1]
        if kind == "message":
            target = resolve(message, target)
            if name is None and target.lower().endswith(snake.replace("_", "")):
                name = "^"
            shape = "@" + target
            if name is not None:
                todo.append(target)
        else:
            shape = {"string": "str", "bytes": "bytes", "bool": "bool", "double": "float"}.get(kind, "int")
        if name is None:
            continue
        mark = "?" if name in POINTERS and shape in ("int", "bool") else ""
        lines.append(f"\t{number} {name} {prefix}{shape}{mark}")
    out[message] = lines

print("# Generated by scripts/protobuf_facts.py, which explains the form. Do not edit.")
for message in sorted(out):
    print(message)
    print("\n".join(out[message]))
