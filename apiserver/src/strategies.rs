//! The list of all strategies. Adding a kind is one row in `api::kinds` and one line here.

use crate::{
    registry::Registry,
    strategy::{
        cluster_role::ClusterRoles, cluster_role_binding::ClusterRoleBindings, config_map::ConfigMaps,
        deployment::Deployments, endpoint_slice::EndpointSlices, event::Events, lease::Leases, namespace::Namespaces,
        node::Nodes, pod::Pods, replica_set::ReplicaSets, role::Roles, role_binding::RoleBindings, secret::Secrets,
        service::Services, service_account::ServiceAccounts,
    },
};

/// Serves every kind.
pub fn register(registry: &mut Registry) {
    registry.add(Namespaces);
    registry.add(Nodes);
    registry.add(Pods);
    registry.add(Services);
    registry.add(ConfigMaps);
    registry.add(Secrets);
    registry.add(ServiceAccounts);
    registry.add(Events);
    registry.add(EndpointSlices);
    registry.add(Leases);
    registry.add(Deployments);
    registry.add(ReplicaSets);
    registry.add(Roles::default());
    registry.add(RoleBindings::default());
    registry.add(ClusterRoles::default());
    registry.add(ClusterRoleBindings::default());
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_strategy_with_a_cell_per_column() {
        let mut registry = Registry::default();
        register(&mut registry);
        for kind in api::kinds::KINDS {
            let entry = registry.of(kind).unwrap_or_else(|| panic!("{} has no strategy", kind.kind));
            let bare = serde_json::json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {}});
            let mut object = entry.read(bare).unwrap();
            entry.default(&mut *object);
            entry.prepare_create(&mut *object);
            let columns = entry.columns();
            let row = entry.row(&*object, jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(columns.len(), row.len(), "{}", kind.kind);
            let scaled = kind.subresources.contains(&api::Subresource::Scale);
            assert_eq!(entry.scale(&*object).is_some(), scaled, "{}", kind.kind);
        }
    }
}
