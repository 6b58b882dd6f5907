//! What names may look like, and upstream's words for a name that does not (`apimachinery/pkg/util/validation`).
//!
//! Each function returns what is wrong, empty when nothing is.

/// RFC 1123 and 1035: bytes of a label.
pub const LABEL_BYTES_MAX: usize = 63;
/// RFC 1123: bytes of a subdomain.
pub const SUBDOMAIN_BYTES_MAX: usize = 253;
/// RFC 6335: characters of a port's name.
pub const PORT_NAME_CHARACTERS_MAX: usize = 15;

/// What is wrong with a name.
pub type Complaints = Vec<String>;

/// RFC 1123 label: names of namespaces, containers, nodes' parts.
pub fn dns_label(name: &str) -> Complaints {
    let mut found = length(name, LABEL_BYTES_MAX);
    if !is_label(name) {
        let start = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                     start and end with an alphanumeric character";
        found.push(regex(start, "[a-z0-9]([-a-z0-9]*[a-z0-9])?", &["my-name", "123-abc"]));
    }
    found
}

/// RFC 1123 subdomain: names of most objects.
pub fn dns_subdomain(name: &str) -> Complaints {
    let mut found = length(name, SUBDOMAIN_BYTES_MAX);
    if !name.split('.').all(is_label) {
        let start = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                     must start and end with an alphanumeric character";
        let form = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
        found.push(regex(start, form, &["example.com"]));
    }
    found
}

/// RFC 1035 label: names of services.
pub fn dns_1035_label(name: &str) -> Complaints {
    let mut found = length(name, LABEL_BYTES_MAX);
    if !(is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())) {
        let start = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                     alphabetic character, and end with an alphanumeric character";
        found.push(regex(start, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    found
}

/// A name that may have a subdomain before a slash: keys of labels and annotations, resources, finalizers.
pub fn qualified_name(name: &str) -> Complaints {
    const FORM: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];
    let mut found = Complaints::new();
    let parts: Vec<_> = name.split('/').collect();
    let local = match parts.as_slice() {
        [local] => local,
        [prefix, local] => {
            if prefix.is_empty() {
                found.push("prefix part must be non-empty".into());
            } else {
                found.extend(dns_subdomain(prefix).into_iter().map(|c| format!("prefix part {c}")));
            }
            local
        }
        _ => {
            let hint = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {}{hint}", regex(RULE, FORM, &EXAMPLES))];
        }
    };
    if local.is_empty() {
        found.push("name part must be non-empty".into());
    } else if local.len() > LABEL_BYTES_MAX {
        found.push(format!("name part {}", too_long(LABEL_BYTES_MAX)));
    }
    if !is_token(local) {
        found.push(format!("name part {}", regex(RULE, FORM, &EXAMPLES)));
    }
    found
}

/// The value of a label; may be empty.
pub fn label_value(value: &str) -> Complaints {
    let mut found = length(value, LABEL_BYTES_MAX);
    if !value.is_empty() && !is_token(value) {
        let start = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                     must start and end with an alphanumeric character";
        found.push(regex(start, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", &["MyValue", "my_value", "12345"]));
    }
    found
}

/// An identifier of the C language.
pub fn c_identifier(name: &str) -> Complaints {
    let sound = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let start = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric \
                 characters or '_'";
    complain(sound, || regex(start, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]))
}

/// The name of an environment variable, by the rule that upstream has had since 1.34.
pub fn env_var_name(name: &str) -> Complaints {
    if name.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    let sound = name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    complain(sound, || {
        "a valid environment variable name must consist only of printable ASCII characters other than '='".into()
    })
}

/// A key of a ConfigMap or Secret, which becomes a file's name.
pub fn config_key(key: &str) -> Complaints {
    let mut found = length(key, SUBDOMAIN_BYTES_MAX);
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        let start = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        found.push(regex(start, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match key {
        "." => found.push("must not be '.'".into()),
        ".." => found.push("must not be '..'".into()),
        _ if key.starts_with("..") => found.push("must not start with '..'".into()),
        _ => {}
    }
    found
}

/// The name of a port (RFC 6335).
pub fn port_name(name: &str) -> Complaints {
    let mut found = Complaints::new();
    if name.len() > PORT_NAME_CHARACTERS_MAX {
        found.push(too_long(PORT_NAME_CHARACTERS_MAX));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        found.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        found.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        found.push("must not contain consecutive hyphens".into());
    }
    if name.is_empty() || name.starts_with('-') || name.ends_with('-') {
        found.push("must not begin or end with a hyphen".into());
    }
    found
}

/// The number of a port.
pub fn port_number(port: i32) -> Complaints {
    complain((1..=65_535).contains(&port), || "must be between 1 and 65535, inclusive".into())
}

/// A share: `25%`.
pub fn percent(text: &str) -> Complaints {
    let sound = text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let start = "a valid percent string must be a numeric string followed by an ending '%'";
    complain(sound, || regex(start, "[0-9]+%", &["1%", "93%"]))
}

/// Anything that can be one segment of a path: names of RBAC objects.
pub fn path_segment(name: &str) -> Complaints {
    if name == "." || name == ".." {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].iter().filter(|c| name.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// What to check instead of a `generateName`: it may end in a hyphen, because more follows.
pub fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if prefix.len() > 1 => format!("{rest}a"),
        _ => prefix.to_owned(),
    }
}

fn is_label(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_token(name: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn length(name: &str, limit: usize) -> Complaints {
    complain(name.len() <= limit, || too_long(limit))
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn complain(sound: bool, text: impl FnOnce() -> String) -> Complaints {
    if sound { Complaints::new() } else { vec![text()] }
}

/// Upstream's `RegexError`, spaces included.
fn regex(start: &str, form: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{start} (e.g. {}regex used for validation is '{form}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_names_pass() {
        for name in ["a", "my-name", "123-abc", &"x".repeat(63)] {
            assert_eq!(dns_label(name), Complaints::new());
        }
        assert!(dns_subdomain("a.b-c.d").is_empty());
        assert!(dns_1035_label("web-1").is_empty());
        for key in ["app", "app.kubernetes.io/name", "A_b.c"] {
            assert!(qualified_name(key).is_empty(), "{key}");
        }
        assert!(label_value("").is_empty() && label_value("My_Value.1").is_empty());
        assert!(port_name("http-2").is_empty() && c_identifier("_A1").is_empty() && percent("25%").is_empty());
        assert!(config_key("..a").len() == 1 && config_key(".bashrc").is_empty());
        assert_eq!(mask_trailing_dash("web-"), "weba");
        assert_eq!(mask_trailing_dash("-"), "-");
    }

    #[test]
    fn refusals_are_upstreams_words() {
        assert_eq!(
            dns_label("My_Name"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
              end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(
            dns_subdomain("Web."),
            [
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
              start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            ]
        );
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/")[0], "name part must be non-empty");
        assert!(qualified_name("a/b/c")[0].ends_with("prefix and '/' (e.g. 'example.com/MyName')"));
        assert_eq!(label_value(&"x".repeat(64)), ["must be no more than 63 bytes"]);
        assert_eq!(port_name("HTTP")[0], "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        for name in ["1a", "a-", ""] {
            assert_eq!(dns_1035_label(name).len(), 1, "{name}");
        }
    }
}
