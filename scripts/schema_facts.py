#!/usr/bin/env python3
"""Writes api/src/schema/facts.txt and prose.txt.gz: what k8s-openapi does not say about the schema of Kubernetes.

    scripts/schema_facts.py _definitions.json

The definitions are those of the PyPI package `kubernetes-validate` (the folder of the version that k8s-openapi has).
Facts are field names, types, formats, required fields, list types and their keys, patch strategies and merge keys, and
which group, version and kind a type is. Prose is what Kubernetes' authors wrote about each type and field (Apache-2.0).
Limited to what the rows of api/src/kinds.rs reach, and to the types named in EXTRA. Needs nothing but Python.

One type a line, its fields below it, indented by a tab:

    io.k8s.api.core.v1.Service gvk=/v1/Service
    \tspec @io.k8s.api.core.v1.ServiceSpec
    io.k8s.api.core.v1.ServiceSpec
    \tports [@io.k8s.api.core.v1.ServicePort] list=map:port,protocol merge=port

`!` after a field's name: required. Shapes: str date bytes bool i32 i64 number quantity intstr object any, `@type`,
`[item]`, `{value}`. After a type's name `= shape` makes it a name for that shape; `atomic` is for values that have one
owner as a whole.

The prose is compressed: for each line of the facts but the first a line with its description as a JSON string.
"""

import gzip
import json
import pathlib
import re
import sys

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
EXTRA = [META + n for n in ("Status", "DeleteOptions", "ObjectMeta", "ListMeta", "APIGroup", "APIGroupList",
                            "APIResourceList", "APIVersions", "WatchEvent", "Patch", "Condition", "LabelSelector",
                            "MicroTime", "Time")] + [
    "io.k8s.api.authentication.v1.TokenRequest",
    "io.k8s.api.autoscaling.v1.Scale",
    "io.k8s.api.core.v1.Binding",
    "io.k8s.api.policy.v1.Eviction",
    "io.k8s.apimachinery.pkg.version.Info",
]
# Types whose JSON is not what their definition says.
NAMED = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intstr",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "object",
    META + "FieldsV1": "object",
    META + "Patch": "object",
    META + "Time": "date",
    META + "MicroTime": "date",
}
# Upstream's defaults (`+default=`) of fields that are part of a list's key; the definitions do not carry them.
DEFAULTS = {
    ("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP",
    ("io.k8s.api.core.v1.ServicePort", "protocol"): "TCP",
}


def kind_of(schema):
    """The JSON type, without the null that the definitions add to optional fields."""
    kind = schema.get("type")
    return next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind


def shape(schema):
    if "$ref" in schema:
        return "@" + schema["$ref"].rsplit("/", 1)[1]
    kind, form = kind_of(schema), schema.get("format")
    if kind == "array":
        return "[" + shape(schema["items"]) + "]"
    if kind == "object":
        return "{" + shape(schema["additionalProperties"]) + "}" if "additionalProperties" in schema else "object"
    if kind == "integer":
        return "i32" if form == "int32" else "i64"
    if kind == "string":
        return {"byte": "bytes", "date-time": "date"}.get(form, "str")
    return {"boolean": "bool", "number": "number", None: "any"}[kind]


def field(owner, name, schema, required):
    words = [name + ("!" if name in required else ""), shape(schema)]
    if list_type := schema.get("x-kubernetes-list-type"):
        keys = schema.get("x-kubernetes-list-map-keys")
        words.append("list=" + list_type + (":" + ",".join(keys) if list_type == "map" else ""))
    strategies = (schema.get("x-kubernetes-patch-strategy") or "").split(",")
    if "merge" in strategies:
        key = schema.get("x-kubernetes-patch-merge-key")
        words.append("merge" + ("=" + key if key else ""))
    if "retainKeys" in strategies:
        words.append("retainKeys")
    if "replace" in strategies:
        words.append("replace")
    if schema.get("x-kubernetes-map-type") == "atomic":
        words.append("atomic")
    if default := DEFAULTS.get((owner, name)):
        words.append("default=" + default)
    return "\t" + " ".join(words)


def references(schema):
    if "$ref" in schema:
        yield schema["$ref"].rsplit("/", 1)[1]
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from references(schema[part])
    for sub in schema.get("properties", {}).values():
        yield from references(sub)


def main():
    definitions = json.loads(pathlib.Path(sys.argv[1]).read_text())
    definitions = definitions.get("$defs") or definitions["definitions"]
    rows = (pathlib.Path(__file__).parent.parent / "api/src/kinds.rs").read_text()
    wanted = {(g, v, k) for k, g, v in re.findall(r'^ *"(\w+)" => "([^"]*)", "([^"]*)"', rows, re.M)}
    wanted |= {(g, v, k + "List") for g, v, k in wanted}

    gvks = {name: [(g["group"], g["version"], g["kind"]) for g in d.get("x-kubernetes-group-version-kind", [])]
            for name, d in definitions.items()}
    queue = sorted({name for name, ids in gvks.items() if wanted & set(ids)} | set(EXTRA))
    found = {g for name in queue for g in gvks[name]}
    if missing := sorted(wanted - found):
        sys.exit(f"the definitions do not have {missing}")

    reached = set()
    while queue:
        name = queue.pop()
        if name not in reached:
            reached.add(name)
            queue.extend(references(definitions[name]))

    facts = ["# Generated by scripts/schema_facts.py, which explains the form. Do not edit."]
    prose = []
    for name in sorted(reached):
        d = definitions[name]
        words = [name]
        if name in NAMED:
            words += ["=", NAMED[name]]
        if d.get("x-kubernetes-map-type") == "atomic":
            words.append("atomic")
        # DeleteOptions and WatchEvent belong to every group; the core group stands for all.
        ids = gvks[name] if len(gvks[name]) == 1 else [i for i in gvks[name] if i[:2] == ("", "v1")]
        words += ["gvk=" + "/".join(i) for i in ids]
        facts.append(" ".join(words))
        prose.append(d.get("description", ""))
        if name not in NAMED:
            for prop in sorted(d.get("properties", {})):
                facts.append(field(name, prop, d["properties"][prop], d.get("required", [])))
                prose.append(d["properties"][prop].get("description", ""))

    folder = pathlib.Path(__file__).parent.parent / "api/src/schema"
    (folder / "facts.txt").write_text("".join(line + "\n" for line in facts))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in prose)
    (folder / "prose.txt.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))


main()
