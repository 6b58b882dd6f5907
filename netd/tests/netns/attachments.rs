//! Pods on the network of their node: how they reach each other, and what restarts, failures and other nodes do to that.

use std::{collections::HashSet, fs, net::Ipv4Addr, sync::Arc};

use netd::{PodId, link, socket::Socket};
use serde_json::json;

use crate::{
    api::{service, slice},
    world::{address, change, eventually, isolated, machine, node_object},
};

#[test]
fn pods_reach_pods_nodes_and_the_outside() {
    isolated(|world| {
        let (a, b) = (world.node(1, &[]), world.node(2, &[]));
        let (outside, outside_address) = machine(9);
        outside.serve("outside", 80);
        let (first, first_place) = a.attach("first", &[]);
        let (second, second_place) = a.attach("second", &[]);
        let (third, third_place) = b.attach("third", &[]);
        for (name, place) in [("first", &first_place), ("second", &second_place), ("third", &third_place)] {
            place.serve(name, 80);
        }
        let [first, second, third] = [&first, &second, &third].map(address);
        assert_eq!(
            (first, second, third),
            ("10.42.1.2".parse().unwrap(), "10.42.1.3".parse().unwrap(), "10.42.2.2".parse().unwrap())
        );

        // every pod sees every other pod under its own address, on the same node and across
        eventually("the tunnels stand", || first_place.send(&format!("{third}:80"), 1).is_ok());
        for (from, place) in [(first, &first_place), (second, &second_place), (third, &third_place)] {
            for (name, to) in [("first", first), ("second", second), ("third", third)] {
                assert_eq!(place.ask(&format!("{to}:80")), (name.to_owned(), from.to_string()));
            }
        }
        assert_eq!(first_place.ask("127.0.0.1:80").0, "first");
        // packets of full size fit through the tunnel
        assert_eq!(first_place.send(&format!("{third}:80"), 3_000_000).unwrap(), format!("third {first} 3000000"));
        assert!(first_place.command("ip link show eth0").contains("mtu 1450"));
        // nodes reach their own and other nodes' pods
        for node in [&a, &b] {
            assert_eq!(node.place.ask(&format!("{first}:80")).0, "first");
            assert_eq!(node.place.ask(&format!("{third}:80")).0, "third");
        }
        // outside, a pod is its node
        assert_eq!(first_place.ask(&format!("{outside_address}:80")), ("outside".to_owned(), a.address.to_string()));
        assert_eq!(third_place.ask(&format!("{outside_address}:80")), ("outside".to_owned(), b.address.to_string()));
    });
}

#[test]
fn a_restart_keeps_what_runs_and_sweeps_what_leaked() {
    isolated(|world| {
        let mut a = world.node(1, &[]);
        let (kept, kept_place) = a.attach("kept", &[]);
        let (orphan, _) = a.attach("orphan", &[]);
        kept_place.serve("kept", 80);
        change(&[&a], || {
            world.api.apply(&service("web", "10.43.0.5", &json!([{ "port": 80 }]), &json!({})));
            world.api.apply(&slice("web", &json!([{ "port": 80 }]), &[(address(&kept), "n1")]));
        });
        eventually("the service answers", || a.place.send("10.43.0.5:80", 1).is_ok());
        let table = a.place.command("nft list table ip orlop");

        // while nothing runs here, traffic flows on
        a.stop();
        assert_eq!(a.place.ask("10.43.0.5:80").0, "kept");
        // what crashes leave: a namespace without a record, an interface without a namespace, a stray rule
        let half = a.data_dir.join("netns/half");
        let path = half.clone();
        std::thread::spawn(move || drop(netd::netns::create(&path).unwrap())).join().unwrap();
        a.place.command("ip link add orlv0a2a01ff type veth peer name stray");
        a.place.command("nft add chain ip orlop stray");

        world.start(&mut a, &[]);
        assert_eq!(a.place.command("nft list table ip orlop"), table, "rebuilt, without what is not ours");
        // what others do to packet filters leaves ours alone
        a.place.command("nft add table ip theirs");
        a.place.command("nft flush ruleset");
        assert_eq!(a.place.command("nft list table ip orlop"), table);
        assert!(!half.exists());
        let (again, _) = a.attach("kept", &[]);
        assert_eq!(again, kept, "the same pod gets what it has");
        assert_eq!(a.place.ask("10.43.0.5:80").0, "kept");
        let (next, _) = a.attach("next", &[]);
        assert_eq!(address(&next), "10.42.1.4".parse::<Ipv4Addr>().unwrap(), "no address is given twice");

        let netd = Arc::clone(a.netd.as_ref().unwrap());
        let live = HashSet::from(["uid-kept".to_owned(), "uid-next".to_owned()]);
        a.call(async move { netd.retain(&live).await }).unwrap();
        assert!(!orphan.netns.exists());
        let ports = || {
            a.place
                .run(|| link::ports(&Socket::route().unwrap()).unwrap())
                .into_iter()
                .map(|port| port.name)
                .collect::<Vec<_>>()
        };
        eventually("only the interfaces of live pods are left", || ports() == ["orlv0a2a0102", "orlv0a2a0104"]);
        let (reused, _) = a.attach("late", &[]);
        assert_eq!(address(&reused), "10.42.1.5".parse::<Ipv4Addr>().unwrap(), "what was released last is reused last");

        // everything taken back: nothing is left
        for name in ["kept", "next", "late", "late"] {
            a.detach(name);
        }
        drop((kept_place, again));
        assert_eq!(fs::read_dir(a.data_dir.join("netns")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(a.data_dir.join("attachments")).unwrap().count(), 0);
    });
}

#[test]
fn a_failed_attachment_leaves_nothing() {
    isolated(|world| {
        let a = world.node(1, &[]);
        a.place.command("ip link del orlop0");
        let netd = Arc::clone(a.netd.as_ref().unwrap());
        let pod = PodId { namespace: "default".to_owned(), name: "web".to_owned(), uid: "uid-web".to_owned() };
        let error = a.call(async move { netd.attach(&pod, &[]).await }).unwrap_err();
        assert_eq!(error.to_string(), "the kernel refused to create interface orlv0a2a0102");
        assert_eq!(fs::read_dir(a.data_dir.join("netns")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(a.data_dir.join("attachments")).unwrap().count(), 0);
        assert!(!a.place.command("ip link").contains("orlv"));
    });
}

#[test]
fn tunnels_follow_the_nodes() {
    isolated(|world| {
        let (a, b) = (world.node(1, &[]), world.node(2, &[]));
        let (third, third_place) = b.attach("third", &[]);
        let (_, first_place) = a.attach("first", &[]);
        third_place.serve("third", 80);
        let to = format!("{}:80", address(&third));
        eventually("the tunnels stand", || first_place.send(&to, 1).is_ok());
        // somebody's stray entries are none of the nodes' doing and go at the next change
        a.place.command("ip route add 10.99.0.0/24 via 10.99.0.0 dev orlop.vx onlink");
        // the node moves to another address
        let moved: Ipv4Addr = "192.168.7.22".parse().unwrap();
        b.place.command(&format!("ip addr add {moved}/24 dev eth0"));
        world.api.apply(&node_object("n2", "10.42.2.0/24", moved));
        eventually("frames go to the new address", || {
            a.place.command("bridge fdb show dev orlop.vx").contains("dst 192.168.7.22")
        });
        assert!(!a.place.command("bridge fdb show dev orlop.vx").contains("dst 192.168.7.2 "));
        assert!(!a.place.command("ip route").contains("10.99.0.0"));
        assert_eq!(first_place.ask(&to).0, "third");
        // the node goes
        world.api.delete(&node_object("n2", "10.42.2.0/24", moved));
        eventually("the route is gone", || !a.place.command("ip route").contains("10.42.2.0"));
        assert_eq!(a.place.command("bridge fdb show dev orlop.vx"), "");
        assert!(!a.place.command("ip neigh show dev orlop.vx").contains("PERMANENT"));
    });
}
