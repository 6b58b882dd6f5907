//! What a container wants done just after its start and just before its end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{HTTPGetAction, LifecycleHandler, TCPSocketAction};

use crate::probe::{self, Target};

/// Runs a hook to its end. The error is what the event says.
pub async fn run(hook: &LifecycleHandler, target: &Target) -> Result<(), String> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        return probe::exec::ask(target.runtime.as_ref(), &target.id, command).await;
    }
    if let Some(action) = &hook.http_get {
        let action: &HTTPGetAction = action;
        return probe::http::ask(action, target).await;
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.tcp_socket {
        let action: &TCPSocketAction = action;
        let port = probe::port(&action.port, &target.container)?;
        return probe::tcp::ask(action.host.as_deref(), port, target.ip).await;
    }
    Ok(())
}
