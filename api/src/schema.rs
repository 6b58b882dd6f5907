//! What the JSON of every served type looks like, and how its lists and maps merge.
//!
//! `k8s-openapi` has the types but drops these facts: which fields exist (so that an unknown one can be named), how a list
//! merges (`x-kubernetes-list-type`, `-list-map-keys`, `-map-type`) and how strategic merge patches treat it
//! (`x-kubernetes-patch-strategy`, `-merge-key`). `schema/facts.txt` holds them for what [`crate::kinds`] reaches.

pub mod check;
mod facts;
mod normalize;
pub mod prose;

use crate::kinds::Kind;

pub use check::{Findings, check};
pub use normalize::normalize;
pub use prose::Prose;

/// The table of types.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
}

impl Schema {
    /// The type of a kind's objects.
    pub fn of(kind: &Kind) -> Option<&'static Type> {
        Self::of_gvk(kind.group, kind.version, kind.kind)
    }

    /// The type of a group, version and kind; also of kinds that have no row, such as `Status` or `DeploymentList`.
    pub fn of_gvk(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
        facts::schema()
            .types
            .iter()
            .find(|t| t.gvk.is_some_and(|g| g.kind == kind && g.group == group && g.version == version))
    }

    /// The type of a definition: `io.k8s.api.apps.v1.Deployment`.
    pub fn named(name: &str) -> Option<&'static Type> {
        let types = &facts::schema().types;
        types.binary_search_by(|t| t.name.cmp(name)).ok().map(|i| &types[i])
    }

    /// Every type, ordered by name.
    pub fn types() -> &'static [Type] {
        &facts::schema().types
    }
}

/// A group, version and kind, as a definition carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version inside the group.
    pub version: &'static str,
    /// CamelCase singular.
    pub kind: &'static str,
}

/// A definition of the schema: an object with fields, or a name for a shape.
#[derive(Debug)]
pub struct Type {
    /// `io.k8s.api.apps.v1.Deployment`.
    pub name: &'static str,
    /// The kind, where the type is a whole object.
    pub gvk: Option<Gvk>,
    /// Has one owner as a whole: server-side apply does not look inside.
    pub atomic: bool,
    /// What the value is when it is not an object with fields: `Time` is a date.
    pub alias: Option<Shape>,
    /// Ordered by name.
    pub fields: Vec<Field>,
}

impl Type {
    /// The field of this name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// The last part of the name, as Go code calls the type: `DeploymentSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// As in JSON.
    pub name: &'static str,
    /// Whether the definition lists it under `required`.
    pub required: bool,
    /// What the value is.
    pub shape: Shape,
    /// How server-side apply merges the value, when it is a list.
    pub list: List,
    /// Has one owner as a whole, though its shape is a map or object.
    pub atomic: bool,
    /// How a strategic merge patch merges the value.
    pub patch: Patch,
    /// What absence means where the field is part of a list's key.
    pub default: Option<&'static str>,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// One value with one owner.
    Atomic,
    /// Scalars, each there once, each with owners of its own.
    Set,
    /// Objects told apart by the values of these fields.
    Map(Vec<&'static str>),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Lists are merged, not replaced.
    pub merge: bool,
    /// The field that tells items of a merged list apart; none for lists of scalars.
    pub key: Option<&'static str>,
    /// A patch may say which fields remain (`$retainKeys`).
    pub retain_keys: bool,
    /// The map is replaced, not merged.
    pub replace: bool,
}

/// What a JSON value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    String,
    /// An RFC 3339 time.
    Date,
    /// Base64.
    Bytes,
    /// `true` or `false`.
    Bool,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// `100m`, `1Gi`, or a number.
    Quantity,
    /// `80` or `"http"`.
    IntOrString,
    /// An object that the schema does not look into.
    Object,
    /// Anything.
    Any,
    /// A definition, by its place in [`Schema::types`]; see [`Shape::definition`].
    Ref(u16),
    /// A list of such items.
    List(Box<Shape>),
    /// A map from strings to such values.
    Map(Box<Shape>),
}

impl Shape {
    /// The definition that a reference names.
    pub fn definition(&self) -> Option<&'static Type> {
        match self {
            Self::Ref(index) => Schema::types().get(usize::from(*index)),
            _ => None,
        }
    }

    /// The shape with names for scalars looked up: a reference to `Time` is a date.
    pub fn resolved(&self) -> &Self {
        self.definition().and_then(|t| t.alias.as_ref()).unwrap_or(self)
    }

    /// The object type, where this is one with fields.
    pub fn object(&self) -> Option<&'static Type> {
        self.definition().filter(|t| t.alias.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::KINDS;

    #[test]
    fn every_kind_has_its_type_and_its_list() {
        for kind in KINDS {
            let ty = Schema::of(kind).unwrap_or_else(|| panic!("{}", kind.kind));
            assert!(ty.field("metadata").is_some(), "{}", ty.name);
            let list = Schema::of_gvk(kind.group, kind.version, &format!("{}List", kind.kind)).unwrap();
            let Shape::List(item) = &list.field("items").unwrap().shape else { panic!("{}", list.name) };
            assert_eq!(item.definition().unwrap().name, ty.name);
        }
    }

    #[test]
    fn facts_of_lists_are_upstreams() {
        let spec = Schema::named("io.k8s.api.core.v1.ServiceSpec").unwrap();
        let ports = spec.field("ports").unwrap();
        assert_eq!(ports.list, List::Map(vec!["port", "protocol"]));
        assert_eq!(ports.patch, Patch { merge: true, key: Some("port"), ..Patch::default() });
        assert!(spec.field("selector").unwrap().atomic);
        let pod = Schema::named("io.k8s.api.core.v1.PodSpec").unwrap();
        assert!(pod.field("volumes").unwrap().patch.retain_keys);
        assert_eq!(pod.field("tolerations").unwrap().list, List::Atomic);
        assert!(Schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap().atomic);
        let meta = Schema::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap();
        assert_eq!(meta.field("finalizers").unwrap().list, List::Set);
        assert_eq!(meta.field("creationTimestamp").unwrap().shape.resolved(), &Shape::Date);
    }
}
