//! Hosts made of namespaces behave as machines on a wire.

#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::Command,
    time::Duration,
};

use cli::up::{Host, Isolation, cluster::SERVER};

const FIRST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 11);

fn wired() -> (Host, Host) {
    let underlay = Host::new("underlay", Isolation::Network).unwrap();
    underlay.run(|| netd::underlay::lay(SERVER)).unwrap().unwrap();
    let node = Host::new("node-1", Isolation::Machine).unwrap();
    let network = node.network().try_clone_to_owned().unwrap();
    underlay.run(move || netd::underlay::plug("cable1", network.as_fd())).unwrap().unwrap();
    node.run(|| netd::underlay::configure(FIRST, SERVER)).unwrap().unwrap();
    (underlay, node)
}

#[test]
fn hosts_reach_each_other_until_the_cable_is_pulled() {
    let (underlay, node) = wired();
    let listener = underlay.run(|| TcpListener::bind((SERVER, 7000))).unwrap().unwrap();
    let to = SocketAddr::from((SERVER, 7000));
    let mut near = node.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap().unwrap();
    let (mut far, from) = listener.accept().unwrap();
    assert_eq!(from.ip(), FIRST);
    near.write_all(b"ahoy").unwrap();
    let mut heard = [0; 4];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"ahoy");
    underlay.run(|| netd::underlay::connect("cable1", false)).unwrap().unwrap();
    let cut = node.run(move || TcpStream::connect_timeout(&to, Duration::from_millis(300))).unwrap();
    assert!(cut.is_err(), "connected without a cable");
    underlay.run(|| netd::underlay::connect("cable1", true)).unwrap().unwrap();
    node.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(5))).unwrap().unwrap();
}

#[test]
fn a_cable_is_replaced_while_the_old_host_is_still_there() {
    let (underlay, node) = wired();
    underlay.run(|| netd::underlay::unplug("cable1")).unwrap().unwrap();
    underlay.run(|| netd::underlay::unplug("cable1")).unwrap().unwrap();
    let again = Host::new("node-1", Isolation::Machine).unwrap();
    let network = again.network().try_clone_to_owned().unwrap();
    underlay.run(move || netd::underlay::plug("cable1", network.as_fd())).unwrap().unwrap();
    again.run(|| netd::underlay::configure(FIRST, SERVER)).unwrap().unwrap();
    node.run(|| netd::underlay::configure(FIRST, SERVER)).unwrap().unwrap_err();
}

#[test]
fn the_first_program_of_a_host_is_its_first_process() {
    let node = Host::new("captain", Isolation::Machine).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo $$ $(hostname)"]).stdout(std::process::Stdio::piped());
    let said = node.spawn(command).unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "1 captain\n");
    assert_ne!(rustix::system::uname().nodename().to_str().unwrap(), "captain", "the machine keeps its name");
}
