//! Processes beside a container's own, and terminals.

use std::fs;

use nodeagent::runtime::{Container, Exec, Runtime};
use tokio::io::AsyncReadExt as _;

use crate::node::{DEADLINE, Node, sh};

#[tokio::test]
async fn exec_runs_beside_the_container() {
    let node = Node::new().await;
    node.runtime
        .start(&Container { env: vec![("A".into(), "b".into())], ..node.container("c", "echo 1 > /mine; sleep 1000") })
        .await
        .unwrap();
    let (code, out, err) = node.exec("c", sh("cat /mine; echo $A; hostname; echo oops >&2; exit 7"), b"").await;
    assert_eq!((code, out.as_str(), err.as_str()), (7, "1\nb\nweb-0\n", "oops\n"));
    let (code, out, _) = node.exec("c", Exec { stdin: true, ..sh("cat") }, b"through\n").await;
    assert_eq!((code, out.as_str()), (0, "through\n"));
    let missing = node.runtime.exec("c", &Exec { args: vec!["nope".into()], ..Exec::default() }).await.err().unwrap();
    assert!(missing.to_string().contains("executable file not found in $PATH"), "{missing}");
    let (code, out, _) = node.exec("c", Exec { tty: true, ..sh("tty; echo $((6*7)); exit 5") }, b"").await;
    assert_eq!((code, out.as_str()), (5, "/dev/pts/0\r\n42\r\n"));
    let session =
        node.runtime.exec("c", &Exec { tty: true, stdin: true, ..sh("sleep 0.2; stty size; cat") }).await.unwrap();
    session.resize.send((120, 40)).await.unwrap();
    let mut stdout = session.stdout;
    let mut seen = String::new();
    while !seen.contains("40 120") {
        let mut bytes = [0; 256];
        let count = tokio::time::timeout(DEADLINE, stdout.read(&mut bytes)).await.unwrap().unwrap();
        assert!(count > 0, "{seen}");
        seen += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    // Hanging up ends it.
    drop((stdout, session.stdin, session.resize));
    let code = tokio::time::timeout(DEADLINE, session.exit).await.unwrap().unwrap().unwrap();
    assert_eq!(code, 128 + libc::SIGHUP);
    node.runtime.signal("c", libc::SIGKILL).await.unwrap();
    node.ended("c").await;
    assert!(node.runtime.exec("c", &sh("true")).await.is_err());
    node.finish().await;
}

#[tokio::test]
async fn a_terminal_of_its_own() {
    let node = Node::new().await;
    let (exit, log) = node.run(&Container { tty: true, ..node.container("c", "tty; echo x >&2; exit 4") }).await;
    assert!(fs::read_to_string(node.log_path("c")).unwrap().contains("x\r\n"), "as terminals print");
    assert_eq!((exit.code, log.as_str()), (4, "/dev/pts/0\nx\n"));
    node.finish().await;
}
