//! Reference: the name of an image, by Docker Hub's rules.
//!
//! `[host[:port]/][repository/]name[:tag|@digest]`. The first part is a host if it has a dot, a colon or an upper-case
//! letter, or is `localhost`; else the image is on `docker.io`, and in `library/` if it has one part only.
//! Source of the rules: distribution/reference `normalize.go` and `regexp.go`.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{Digest, Error};

/// Longest name without tag and digest, characters (distribution/reference `NameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Longest tag, characters.
const TAG_MAX: usize = 128;

/// A complete name of an image. [`fmt::Display`] gives the canonical form with host and tag or digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `host[:port]` of the registry; `docker.io` when none was named.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Path on the registry, `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when neither tag nor digest was named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which wins over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Host and repository: what image ids in a pod's status start with.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The same image by digest only.
    pub fn with_digest(&self, digest: Digest) -> Reference {
        Reference { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Whether the registry is on this machine: then plain http is used.
    pub fn is_loopback(&self) -> bool {
        let host = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why| Error::Reference { reference: text.to_owned(), why };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| invalid("its digest is no sha256 digest"))?))
            }
            None => (text, None),
        };
        let (host, path) = split_host(rest);
        let (path, tag) = match path.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (path, None),
        };
        if !is_host(host) {
            return Err(invalid("its registry is not a host name with an optional port"));
        }
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("its tag is not 1 to 128 letters, digits, '_', '.' or '-'"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("repository name must be lowercase"));
        }
        if path.is_empty() || !path.split('/').all(is_component) {
            return Err(invalid(
                "its repository is not made of lower-case letters and digits, single '.', '_' or '-' between",
            ));
        }
        if host.len() + 1 + path.len() > NAME_MAX {
            return Err(invalid("its name is longer than 255 characters"));
        }
        let repository =
            if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.into() };
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Reference { host: host.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(digest) = &self.digest {
            return write!(f, "@{digest}");
        }
        write!(f, ":{}", self.tag.as_deref().unwrap_or("latest"))
    }
}

fn split_host(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':', '['])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (if matches!(first, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { first }, rest)
        }
        _ => ("docker.io", text),
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
                ("v6", port.strip_prefix(':').map_or_else(|| (!port.is_empty()).then_some("?"), Some))
            }
            _ => return false,
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().enumerate().all(|(at, b)| word(b) || (at > 0 && (b == b'.' || b == b'-')))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !part.starts_with(alnum) || !part.ends_with(alnum) {
        return false;
    }
    part.split(alnum)
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_hub_does() {
        let table = [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/web", "localhost/web:latest"),
            ("localhost:5000/web:v1", "localhost:5000/web:v1"),
            ("127.0.0.1:5001/a/b/c:x", "127.0.0.1:5001/a/b/c:x"),
            ("[::1]:5000/web", "[::1]:5000/web:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("ghcr.io/a__b/c-d.e--f", "ghcr.io/a__b/c-d.e--f:latest"),
            ("REG/web", "REG/web:latest"),
        ];
        for (given, canonical) in table {
            let reference: Reference = given.parse().unwrap_or_else(|e| panic!("{given}: {e}"));
            assert_eq!(reference.to_string(), canonical, "{given}");
            assert_eq!(canonical.parse::<Reference>().unwrap(), reference, "{given} again");
        }
        let by_digest: Reference = format!("web:v1@{DIGEST}").parse().unwrap();
        assert_eq!(by_digest.to_string(), format!("docker.io/library/web@{DIGEST}"));
        assert_eq!(by_digest.tag(), Some("v1"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let table = [
            ("", "empty"),
            ("Busybox", "lowercase"),
            ("web:", "tag"),
            ("web:-x", "tag"),
            ("a//b", "repository"),
            ("-web", "repository"),
            ("a___b", "repository"),
            ("a..b/c", "registry"),
            ("../etc/passwd", "registry"),
            ("web@sha256:abc", "digest"),
            ("host:99999/web", "registry"),
            ("we b", "repository"),
            ("https://x.io/web", "registry"),
        ];
        for (given, word) in table {
            let error = given.parse::<Reference>().expect_err(given).to_string();
            assert!(error.contains(word), "{given}: {error}");
        }
        assert!("a".repeat(300).parse::<Reference>().is_err());
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (name, loopback) in [
            ("localhost/x", true),
            ("localhost:5000/x", true),
            ("127.0.0.2:80/x", true),
            ("[::1]:5000/x", true),
            ("10.0.0.1:5000/x", false),
            ("localhost.example.com/x", false),
            ("x", false),
        ] {
            assert_eq!(name.parse::<Reference>().unwrap().is_loopback(), loopback, "{name}");
        }
    }
}
