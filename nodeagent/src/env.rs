//! A container's environment: from services, ConfigMaps, Secrets, fields and text, with `$(NAME)` expanded.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, EnvVar, EnvVarSource, Pod, Service},
};

use crate::{
    field::{self, Place},
    lookup::Lookup,
};

/// Why an environment cannot be made; a container with one waits as `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A ConfigMap or Secret does not exist.
    #[error("{what} {name:?} not found")]
    Missing {
        /// `configmap` or `secret`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// It exists, the key does not.
    #[error("couldn't find key {key} in {what} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        what: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What was asked of it.
        key: String,
    },
    /// A field that pods do not have.
    #[error("environment variable {variable}: unsupported field {path:?}")]
    Field {
        /// Who asks.
        variable: String,
        /// For what.
        path: String,
    },
}

/// What an environment is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// ConfigMaps and Secrets.
    pub lookup: &'a Lookup,
    /// What only the node knows.
    pub place: &'a Place,
    /// Services that the pod may be told of: its namespace's, and `default/kubernetes`.
    pub services: &'a [Arc<Service>],
}

/// The environment, in the order in which it was made; later entries replace earlier ones of the same name.
pub fn environment(container: &Container, inputs: &Inputs<'_>) -> Result<Vec<(String, String)>, Error> {
    let mut env = Env::default();
    service_variables(inputs, &mut env);
    from_objects(container, inputs, &mut env)?;
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(variable, container, inputs, &env)? {
            env.set(&variable.name, value);
        }
    }
    Ok(env.entries)
}

/// `text` with `$(NAME)` replaced where the name is known; `$$(NAME)` stays as `$(NAME)`.
pub fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match env.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[derive(Default)]
struct Env {
    entries: Vec<(String, String)>,
    places: BTreeMap<String, usize>,
}

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.places.get(name) {
            Some(&at) => self.entries[at].1 = value,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value));
            }
        }
    }
}

fn from_objects(container: &Container, inputs: &Inputs<'_>, env: &mut Env) -> Result<(), Error> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match inputs.lookup.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        set_valid(env, &format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(Error::Missing { what: "configmap", name: reference.name.clone() }),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match inputs.lookup.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        set_valid(env, &format!("{prefix}{key}"), text(value));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(Error::Missing { what: "secret", name: reference.name.clone() }),
            }
        }
    }
    Ok(())
}

/// Keys that cannot name a variable are left out, as upstream does.
fn set_valid(env: &mut Env, name: &str, value: String) {
    if !name.is_empty() && !name.contains(['=', '\0']) {
        env.set(name, value);
    }
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

fn value(variable: &EnvVar, container: &Container, inputs: &Inputs<'_>, env: &Env) -> Result<Option<String>, Error> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), &env.entries)));
    };
    if let Some(selector) = &source.field_ref {
        let found = field::field(inputs.pod, &selector.field_path, inputs.place);
        return found.map(Some).ok_or_else(|| unsupported(variable, &selector.field_path));
    }
    if let Some(selector) = &source.resource_field_ref {
        let spec = inputs.pod.spec.as_ref();
        let named = selector.container_name.as_ref().and_then(|name| {
            let mut all = spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
            all.find(|c| c.name == *name)
        });
        let found = field::resource(named.unwrap_or(container), selector, inputs.place);
        return found.map(Some).ok_or_else(|| unsupported(variable, &selector.resource));
    }
    from_key(source, inputs)
}

fn unsupported(variable: &EnvVar, path: &str) -> Error {
    Error::Field { variable: variable.name.clone(), path: path.into() }
}

fn from_key(source: &EnvVarSource, inputs: &Inputs<'_>) -> Result<Option<String>, Error> {
    let namespace = inputs.pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(map) = inputs.lookup.config_maps.get(&selector.name) else {
            let missing = Error::Missing { what: "configmap", name: selector.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        let found = map.data.as_ref().and_then(|d| d.get(&selector.key)).cloned();
        let (name, key) = (selector.name.clone(), selector.key.clone());
        return match found {
            None if !optional => Err(Error::Key { what: "ConfigMap", namespace, name, key }),
            found => Ok(found),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = inputs.lookup.secrets.get(&selector.name) else {
            let missing = Error::Missing { what: "secret", name: selector.name.clone() };
            return if optional { Ok(None) } else { Err(missing) };
        };
        let found = secret.data.as_ref().and_then(|d| d.get(&selector.key)).map(text);
        let (name, key) = (selector.name.clone(), selector.key.clone());
        return match found {
            None if !optional => Err(Error::Key { what: "Secret", namespace, name, key }),
            found => Ok(found),
        };
    }
    Ok(Some(String::new()))
}

/// `WEB_SERVICE_HOST` and the like (upstream's `envvars.FromServices`). The API server's are there in any case.
fn service_variables(inputs: &Inputs<'_>, env: &mut Env) {
    let links = inputs.pod.spec.as_ref().is_none_or(|s| s.enable_service_links != Some(false));
    for service in inputs.services {
        let meta = &service.metadata;
        let name = meta.name.as_deref().unwrap_or_default();
        let is_api = name == "kubernetes" && meta.namespace.as_deref() == Some("default");
        if is_api || links {
            variables_of(service, name, env);
        }
    }
}

fn variables_of(service: &Service, name: &str, env: &mut Env) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else { return };
    let prefix = name.to_ascii_uppercase().replace('-', "_");
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    env.set(&format!("{prefix}_SERVICE_HOST"), ip.into());
    env.set(&format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for port in ports {
        if let Some(label) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let label = label.to_ascii_uppercase().replace('-', "_");
            env.set(&format!("{prefix}_SERVICE_PORT_{label}"), port.port.to_string());
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), port.port);
        if index == 0 {
            env.set(&format!("{prefix}_PORT"), url.clone());
        }
        let link = format!("{prefix}_PORT_{}_{protocol}", port.port);
        env.set(&link, url);
        env.set(&format!("{link}_PROTO"), protocol.to_ascii_lowercase());
        env.set(&format!("{link}_PORT"), port.port.to_string());
        env.set(&format!("{link}_ADDR"), ip.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn make(container: Value, lookup: &Lookup, services: &[Arc<Service>]) -> Result<Vec<(String, String)>, Error> {
        let pod: Pod = from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let place = Place { pod_ips: vec!["10.42.0.9".into()], ..Place::default() };
        let inputs = Inputs { pod: &pod, lookup, place: &place, services };
        environment(&from_value(container).unwrap(), &inputs)
    }

    fn lookup() -> Lookup {
        let mut lookup = Lookup::default();
        let map = from_value(json!({"data": {"color": "red", "a=b": "bad"}})).unwrap();
        lookup.config_maps.insert("cm".into(), Arc::new(map));
        let secret = from_value(json!({"data": {"password": "aHVudGVyMg=="}})).unwrap();
        lookup.secrets.insert("s".into(), Arc::new(secret));
        lookup
    }

    #[test]
    fn values_come_from_everywhere_and_expand() {
        let container = json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
                {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "no", "optional": true}}},
                {"name": "URL", "value": "http://$(IP):80/$(P_color)/$$(IP)/$(UNKNOWN)/$"},
                {"name": "P_color", "value": "blue"}]});
        let env = make(container, &lookup(), &[]).unwrap();
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            env,
            ["P_color=blue", "IP=10.42.0.9", "PW=hunter2", "URL=http://10.42.0.9:80/red/$(IP)/$(UNKNOWN)/$"]
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let no_map = json!({"name": "c", "envFrom": [{"configMapRef": {"name": "nope"}}]});
        assert_eq!(make(no_map, &lookup(), &[]).unwrap_err().to_string(), "configmap \"nope\" not found");
        let no_key =
            json!({"name": "c", "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]});
        assert_eq!(make(no_key, &lookup(), &[]).unwrap_err().to_string(), "couldn't find key k in Secret ns/s");
    }

    #[test]
    fn services_are_announced() {
        let service: Service = from_value(json!({"metadata": {"name": "my-db", "namespace": "ns"},
            "spec": {"clusterIP": "10.43.0.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]}}))
        .unwrap();
        let headless: Service = from_value(json!({"metadata": {"name": "h", "namespace": "ns"},
            "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))
        .unwrap();
        let env = make(json!({"name": "c"}), &Lookup::default(), &[Arc::new(service), Arc::new(headless)]).unwrap();
        let env: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            env,
            [
                "MY_DB_SERVICE_HOST=10.43.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
                "MY_DB_PORT=tcp://10.43.0.7:5432",
                "MY_DB_PORT_5432_TCP=tcp://10.43.0.7:5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.43.0.7",
            ]
        );
    }
}
