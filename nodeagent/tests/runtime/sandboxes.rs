//! Sandboxes: what the containers of a pod share, and how they go together.

use std::fs;

use nodeagent::runtime::{Container, Runtime, Sandbox};

use crate::node::Node;

#[tokio::test]
async fn containers_of_a_pod_share_names_and_memory_but_not_processes() {
    let node = Node::new().await;
    node.runtime.start(&node.container("a", "echo shared > /dev/shm/x; echo ready; sleep 1000")).await.unwrap();
    node.wait_for_log("a", "ready").await;
    let (_, log) = node.run(&node.container("b", "cat /dev/shm/x; hostname; ls -d /proc/[0-9]* | grep -c .")).await;
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[..2], ["shared", "web-0"]);
    assert!(lines[2].parse::<u32>().unwrap() <= 4, "{log}");
    node.finish().await;
}

#[tokio::test]
async fn a_sandbox_goes_with_all_that_runs_in_it() {
    let node = Node::new().await;
    for id in ["a", "b", "c"] {
        node.runtime.start(&node.container(id, "trap '' TERM; touch /made; sleep 1000")).await.unwrap();
    }
    node.runtime.remove_sandbox("pod").await.unwrap();
    assert!(node.runtime.list().await.unwrap().is_empty());
    let broken = Sandbox { uid: "net".into(), netns: Some("/nowhere".into()), ..Sandbox::default() };
    assert!(node.runtime.create_sandbox(&broken).await.unwrap_err().to_string().contains("/nowhere"));
    let plain = node.folder.path().join("plain");
    fs::write(&plain, "").unwrap();
    let broken = Sandbox { uid: "net".into(), netns: Some(plain), ..Sandbox::default() };
    let error = node.runtime.create_sandbox(&broken).await.unwrap_err().to_string();
    assert!(error.contains("it is none"), "{error}");
    let sysctl =
        Sandbox { uid: "s".into(), sysctls: [("kernel.panic".into(), "1".into())].into(), ..Sandbox::default() };
    assert!(node.runtime.create_sandbox(&sysctl).await.is_err());
    let sysctl =
        Sandbox { uid: "s".into(), sysctls: [("kernel.shmmni".into(), "77".into())].into(), ..Sandbox::default() };
    node.runtime.create_sandbox(&sysctl).await.unwrap();
    let (_, log) =
        node.run(&Container { sandbox: "s".into(), ..node.container("d", "cat /proc/sys/kernel/shmmni") }).await;
    assert_eq!(log, "77\n");
    node.finish().await;
}
