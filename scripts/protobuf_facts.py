#!/usr/bin/env python3
"""Writes api/src/protobuf/facts.txt: which number each field of Kubernetes' messages has in their protobuf form.

    scripts/protobuf_facts.py api/ apimachinery/ > api/src/protobuf/facts.txt

The folders are checkouts of github.com/kubernetes/api and github.com/kubernetes/apimachinery (v0.37). Only facts are taken
from the tags of their structs, no prose: numbers, names in JSON, types, and whether zero is left out. Limited to what the
rows of api/src/kinds.rs reach, and to the types named in EXTRA. Needs nothing but Python.

One message a line, its fields below it, indented by a tab:

    io.k8s.api.core.v1.Volume
    \t1 name str
    \t2 ^ @io.k8s.api.core.v1.VolumeSource

`^` as name: the fields belong to the parent. Shapes: str bytes bool int time microtime quantity intstr json, `@message`,
`[item]`, `{value}`, `wrapped` (a list of strings inside a message of its own). `?` at the end: the field is always sent, so
that zero means absence. After a message's name `gvk=` makes it the body of requests.
"""

import pathlib
import re
import sys

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
ROOTS = {"io.k8s.api": 0, "io.k8s.apimachinery": 1}
# Group, version and kind of the messages that are bodies without being stored kinds.
EXTRA = {
    META + "DeleteOptions": "/v1/DeleteOptions",
    "io.k8s.api.core.v1.Binding": "/v1/Binding",
    "io.k8s.api.autoscaling.v1.Scale": "autoscaling/v1/Scale",
    "io.k8s.api.policy.v1.Eviction": "policy/v1/Eviction",
    "io.k8s.api.authentication.v1.TokenRequest": "authentication.k8s.io/v1/TokenRequest",
    "io.k8s.api.authentication.v1.TokenReview": "authentication.k8s.io/v1/TokenReview",
    "io.k8s.api.authentication.v1.SelfSubjectReview": "authentication.k8s.io/v1/SelfSubjectReview",
    "io.k8s.api.authorization.v1.SubjectAccessReview": "authorization.k8s.io/v1/SubjectAccessReview",
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview": "authorization.k8s.io/v1/LocalSubjectAccessReview",
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview": "authorization.k8s.io/v1/SelfSubjectAccessReview",
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview": "authorization.k8s.io/v1/SelfSubjectRulesReview",
}
# Types whose JSON is not what their struct says.
NAMED = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intstr",
    META + "FieldsV1": "json",
    META + "Time": "time",
    META + "MicroTime": "microtime",
}
SCALARS = {"string": "str", "bool": "bool", "int32": "int", "int64": "int", "[]byte": "bytes"}
PACKAGES = {"v1": "io.k8s.api.core.v1", "metav1": META[:-1], "resource": "io.k8s.apimachinery.pkg.api.resource",
            "intstr": "io.k8s.apimachinery.pkg.util.intstr", "types": "io.k8s.apimachinery.pkg.types"}
FIELD = re.compile(r'^\t(?:\w+\s+)?([\w.*\[\]]+)\s+`(?=.*?json:"([^"]*)")(?=.*?protobuf:"(?:bytes|varint),(\d+)[,"])', re.M)


class Source:
    """The Go packages, each read when first needed."""

    def __init__(self, folders):
        self.folders, self.packages = folders, {}

    def package(self, name):
        if name not in self.packages:
            root = next(r for r in sorted(ROOTS, key=len, reverse=True) if name.startswith(r + "."))
            folder = pathlib.Path(self.folders[ROOTS[root]], *name[len(root) + 1:].split("."))
            text = "\n".join(p.read_text() for p in sorted(folder.glob("*.go")) if not p.name.endswith("_test.go"))
            structs = dict(re.findall(r"^type (\w+) struct \{\n(.*?)^\}", text, re.M | re.S))
            names = dict(re.findall(r"^type (\w+) ([\w.\[\]]+)$", text, re.M))
            self.packages[name] = structs, names
        return self.packages[name]

    def qualified(self, here, name):
        package, _, short = name.rpartition(".")
        return (PACKAGES[package] if package else here) + "." + short

    def shape(self, here, go, named=False):
        """The shape of a Go type; a list that has a name of its own is wrapped."""
        go = go.lstrip("*")
        if go in SCALARS:
            return SCALARS[go]
        if go.startswith("[]"):
            return "wrapped" if named else "[" + self.shape(here, go[2:]) + "]"
        if found := re.fullmatch(r"map\[[\w.]+\](.+)", go):
            return "{" + self.shape(here, found[1]) + "}"
        name = self.qualified(here, go)
        if name in NAMED:
            return NAMED[name]
        package, _, short = name.rpartition(".")
        structs, names = self.package(package)
        if short in structs:
            return "@" + name
        return self.shape(package, names[short], True)

    def fields(self, message):
        """Number, name, shape and whether zero means absence."""
        package, _, short = message.rpartition(".")
        for go, json, number in FIELD.findall(self.package(package)[0][short]):
            name, *options = json.split(",")
            shape = self.shape(package, go)
            sent = not go.startswith("*") and shape[0] not in "[{" and (shape[0] == "@" or "omitempty" in options)
            yield int(number), name or "^", shape, sent and name != ""


def main():
    source = Source(sys.argv[1:3])
    api = {"": "core", "rbac.authorization.k8s.io": "rbac", "discovery.k8s.io": "discovery", "coordination.k8s.io": "coordination"}
    gvks = dict(EXTRA)
    rows = pathlib.Path(__file__).parent.parent.joinpath("api/src/kinds.rs").read_text()
    for kind, group, version in re.findall(r'^    "(\w+)" => "([^"]*)", "(\w+)",', rows, re.M):
        gvks[f"io.k8s.api.{api.get(group, group)}.{version}.{kind}"] = f"{group}/{version}/{kind}"
    done, todo = {}, list(gvks)
    while todo:
        message = todo.pop()
        if message not in done:
            done[message] = sorted(source.fields(message))
            todo += [found for _, _, shape, _ in done[message] for found in re.findall(r"@([\w.]+)", shape)]
    print("# Generated by scripts/protobuf_facts.py, which explains the form. Do not edit.")
    for message in sorted(done):
        print(message + (f" gvk={gvks[message]}" if message in gvks else ""))
        for number, name, shape, sent in done[message]:
            print(f"\t{number} {name} {shape}{'?' if sent else ''}")


main()
