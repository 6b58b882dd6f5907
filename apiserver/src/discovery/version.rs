//! `/version`: what this server is, in words that clients parse.

use k8s_openapi::apimachinery::pkg::version::Info;

/// The Kubernetes version whose API is served.
pub const KUBERNETES: &str = "v1.37.0";

/// The answer. `gitVersion` is a semantic version, which charts and clients compare.
pub fn info() -> Info {
    Info {
        major: "1".into(),
        minor: "37".into(),
        git_version: format!("{KUBERNETES}+orlop.{}", env!("CARGO_PKG_VERSION")),
        git_commit: String::new(),
        git_tree_state: "clean".into(),
        build_date: "1970-01-01T00:00:00Z".into(),
        go_version: "none".into(),
        compiler: "rustc".into(),
        platform: format!("linux/{}", platform()),
        ..Info::default()
    }
}

fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
