//! A node's network, for real: namespaces as nodes and pods, the kernel's own bridge, VXLAN and nf_tables. Needs root.
#![allow(clippy::unwrap_used)]

mod api;
mod world;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use client::Key;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use netd::{HostPort, PodId, dns, dns::server::Responder, link, nft, ruleset, service, socket::Socket};
use serde_json::{Value, json};
use world::{Node, address, ask_udp, eventually, isolated, machine, node_object};

fn service(name: &str, address: &str, ports: &Value, more: &Value) -> Service {
    let mut spec = json!({ "clusterIP": address, "ports": ports });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec })).unwrap()
}

/// A slice whose endpoints are (address, node).
fn slice(name: &str, ports: &Value, endpoints: &[(Ipv4Addr, &str)]) -> EndpointSlice {
    let endpoint = |(address, node): &(Ipv4Addr, &str)| json!({ "addresses": [address], "nodeName": node });
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}

/// Changes the API, and waits until the nodes have applied that.
fn change(nodes: &[&Node], work: impl FnOnce()) {
    let before: Vec<_> = nodes.iter().map(|node| node.applied()).collect();
    work();
    for (node, before) in nodes.iter().zip(before) {
        eventually("the change is applied", || node.applied() > before);
    }
}

#[test]
fn pods_reach_pods_nodes_and_the_outside() {
    isolated("pods_reach_pods_nodes_and_the_outside", |world| {
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
fn services_lead_to_ready_endpoints() {
    isolated("services_lead_to_ready_endpoints", |world| {
        let (a, b) = (world.node(1, &[]), world.node(2, &[]));
        let nodes = [&a, &b];
        let (outside, outside_address) = machine(9);
        let (here, here_place) = a.attach("here", &[]);
        let (there, there_place) = b.attach("there", &[]);
        here_place.serve("here", 8080);
        there_place.serve("there", 8080);
        let (here, there) = (address(&here), address(&there));
        let both = HashSet::from(["here".to_owned(), "there".to_owned()]);
        let ports = json!([
            { "name": "http", "port": 80, "nodePort": 30080 },
            { "name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053 },
        ]);
        let targets = json!([{ "name": "http", "port": 8080 }, { "name": "dns", "port": 8080, "protocol": "UDP" }]);
        let web = |more: &Value| service("web", "10.43.0.5", &ports, more);
        let endpoints = |list: &[(Ipv4Addr, &str)]| slice("web", &targets, list);

        // without endpoints: refused at once, wherever one asks
        change(&nodes, || world.api.apply(&web(&json!({}))));
        for place in [&here_place, &a.place, &b.place] {
            assert!(place.refused("10.43.0.5:80"));
            assert!(place.refused("10.43.9.9:80"), "an address of no service");
            assert!(place.refused("127.0.0.1:30080"));
        }
        assert!(outside.refused(&format!("{}:30080", a.address)));
        assert!(ask_udp(&here_place.udp(), "10.43.0.5:53").is_none());
        let (patient, port) = (outside.udp(), format!("{}:30053", a.address));
        assert!(ask_udp(&patient, &port).is_none());

        // with two: both answer pods (themselves too), nodes, and the outside through every node
        change(&nodes, || world.api.apply(&endpoints(&[(here, "n1"), (there, "n2")])));
        eventually("the tunnels stand", || here_place.send(&format!("{there}:8080"), 1).is_ok());
        for place in [&here_place, &there_place, &a.place, &b.place] {
            assert_eq!(place.ask_often("10.43.0.5:80"), both);
        }
        for node in nodes {
            let port = format!("{}:30080", node.address);
            assert_eq!(outside.ask_often(&port), both);
            assert_eq!(node.place.ask_often(&port), both, "the node itself, through its own node port");
            assert_eq!(here_place.ask_often(&port), both);
        }
        assert!(here_place.refused("10.43.0.5:81"), "a port that the service does not have");

        // a UDP client that has asked in vain is answered now
        eventually("the kernel forgets", || ask_udp(&patient, &port).is_some());

        // a client keeps its address, unless it could not be answered otherwise
        change(&nodes, || world.api.apply(&endpoints(&[(here, "n1")])));
        assert_eq!(there_place.ask("10.43.0.5:80"), ("here".to_owned(), there.to_string()));
        assert_eq!(here_place.ask("10.43.0.5:80"), ("here".to_owned(), "10.42.1.1".to_owned()), "hairpin");
        assert_eq!(outside.ask(&format!("{}:30080", a.address)), ("here".to_owned(), outside_address.to_string()));
        assert_eq!(outside.ask(&format!("{}:30080", b.address)), ("here".to_owned(), "10.42.2.0".to_owned()));

        // Local: only the node that has an endpoint answers
        change(&nodes, || world.api.apply(&web(&json!({ "externalTrafficPolicy": "Local" }))));
        assert_eq!(outside.ask(&format!("{}:30080", a.address)), ("here".to_owned(), outside_address.to_string()));
        assert!(outside.refused(&format!("{}:30080", b.address)));

        // affinity: one client, one endpoint
        change(&nodes, || {
            world.api.apply(&web(&json!({ "sessionAffinity": "ClientIP" })));
            world.api.apply(&endpoints(&[(here, "n1"), (there, "n2")]));
        });
        eventually("both endpoints are known", || {
            a.place.command("nft list chain ip orlop svc/default/web/tcp/80").contains("jhash")
        });
        for place in [&here_place, &there_place, &a.place] {
            assert_eq!(place.ask_often("10.43.0.5:80").len(), 1);
        }

        // a UDP client that goes on from the same port is led away from an endpoint that is gone
        change(&nodes, || world.api.apply(&web(&json!({}))));
        change(&nodes, || world.api.apply(&endpoints(&[(here, "n1")])));
        let socket = here_place.udp();
        assert_eq!(ask_udp(&socket, "10.43.0.5:53").as_deref(), Some("here"));
        change(&nodes, || world.api.apply(&endpoints(&[(there, "n2")])));
        assert_eq!(ask_udp(&socket, "10.43.0.5:53").as_deref(), Some("there"));

        // gone with the service
        change(&nodes, || world.api.delete(&web(&json!({}))));
        assert!(here_place.refused("10.43.0.5:80"));
        assert!(outside.refused(&format!("{}:30080", a.address)));
    });
}

#[test]
fn host_ports_lead_to_their_pod() {
    isolated("host_ports_lead_to_their_pod", |world| {
        let a = world.node(1, &[]);
        let (outside, outside_address) = machine(9);
        let port = |host_ip, host_port, container_port| HostPort {
            host_ip,
            host_port,
            container_port,
            protocol: "TCP".to_owned(),
        };
        let before = a.applied();
        let (_, place) = a.attach(
            "web",
            &[
                port(None, 8080, 80),
                port(Some(a.address.into()), 8081, 80),
                port(Some("192.168.7.77".parse().unwrap()), 8082, 80),
            ],
        );
        place.serve("web", 80);
        eventually("the host ports are applied", || a.applied() > before);
        for host_port in [8080, 8081] {
            let to = format!("{}:{host_port}", a.address);
            assert_eq!(outside.ask(&to), ("web".to_owned(), outside_address.to_string()));
            assert_eq!(a.place.ask(&to).0, "web");
            assert_eq!(place.ask(&to).0, "web", "the pod itself");
        }
        assert!(outside.refused(&format!("{}:8082", a.address)), "published on an address of another node");
        // a second pod does not take what the first holds, and gets it when that goes
        let before = a.applied();
        let (_, rival) = a.attach("rival", &[port(None, 8080, 80)]);
        rival.serve("rival", 80);
        eventually("the rival is applied", || a.applied() > before);
        assert_eq!(outside.ask(&format!("{}:8080", a.address)).0, "web");
        a.detach("web");
        eventually("the rival takes over", || {
            outside.send(&format!("{}:8080", a.address), 1).is_ok_and(|answer| answer.starts_with("rival"))
        });
    });
}

#[test]
fn names_are_answered_to_pods_and_nodes() {
    isolated("names_are_answered_to_pods_and_nodes", |world| {
        let a = world.node(1, &[]);
        let (_, pod) = a.attach("pod", &[]);
        let addresses: Vec<_> = (1..=100).map(|last| (Ipv4Addr::new(10, 42, 7, last), "n7")).collect();
        change(&[&a], || {
            world.api.apply(&service("web", "10.43.0.5", &json!([{ "name": "http", "port": 80 }]), &json!({})));
            world.api.apply(&service("big", "None", &json!([{ "port": 80 }]), &json!({})));
            world.api.apply(&slice("big", &json!([{ "port": 80 }]), &addresses));
        });
        eventually("all names are known", || {
            !a.place.command("dig +short @10.43.0.10 big.default.svc.cluster.local").is_empty()
        });
        let dig = |words: &str| pod.command(&format!("dig @10.43.0.10 {words}"));

        assert_eq!(dig("+short web.default.svc.cluster.local"), "10.43.0.5\n");
        assert_eq!(
            a.place.command("dig +short @10.43.0.10 web.default.svc.cluster.local"),
            "10.43.0.5\n",
            "from the node"
        );
        assert_eq!(dig("+short +tcp web.default.svc.cluster.local"), "10.43.0.5\n");
        let odd = dig("+noall +answer WEB.default.SVC.cluster.Local");
        assert!(odd.starts_with("WEB.default.SVC.cluster.Local. 5"), "the case of the question is kept: {odd}");
        assert_eq!(dig("+short -x 10.43.0.5"), "web.default.svc.cluster.local.\n");
        assert_eq!(
            dig("+short _http._tcp.web.default.svc.cluster.local SRV"),
            "0 100 80 web.default.svc.cluster.local.\n"
        );
        let nothing = dig("nope.default.svc.cluster.local AAAA");
        assert!(nothing.contains("status: NXDOMAIN") && nothing.contains("SOA\tns.dns.cluster.local."), "{nothing}");
        assert!(nothing.contains("flags: qr aa rd ra"), "{nothing}");
        let nodata = dig("web.default.svc.cluster.local AAAA");
        assert!(
            nodata.contains("status: NOERROR") && nodata.contains("ANSWER: 0") && nodata.contains("SOA"),
            "{nodata}"
        );
        assert!(dig("+edns=1 +noednsneg web.default.svc.cluster.local").contains("status: BADVERS"));

        // a large answer is cut over UDP, whatever the client would take, and whole over TCP
        let cut = dig("+ignore +bufsize=4096 big.default.svc.cluster.local");
        assert!(cut.contains(" tc ") && cut.contains("udp: 1232"), "{cut}");
        assert!(dig("+ignore +noedns big.default.svc.cluster.local").contains(" tc "));
        assert_eq!(dig("+short big.default.svc.cluster.local").lines().count(), 100, "dig asks again over TCP");

        assert!(dig("AXFR cluster.local +tcp").contains("Transfer failed"));
    });
}

#[test]
fn other_names_are_asked_upstream() {
    isolated("other_names_are_asked_upstream", |world| {
        // the upstream resolver: the same server with another zone
        let other = world.node(3, &[]);
        let upstream = SocketAddrV4::new(other.address, 5353);
        let mut zone = dns::Zone::new(
            "example.test",
            "10.9.0.0/16".parse().unwrap(),
            "10.8.0.0/16".parse().unwrap(),
            other.address,
        );
        let www = service("www", "10.8.0.1", &json!([]), &json!({}));
        zone.set(&Key::new("default", "www"), Some(&www), &[]);
        other.call(async move {
            let zone = Arc::new(ArcSwapOption::from_pointee(zone));
            let forwarder = dns::forward::Forwarder::new(&[]).unwrap();
            let listeners = dns::Listeners::open(upstream).unwrap();
            let responder = Responder::new(listeners, "example.test", zone, forwarder, Box::new(|_| None)).unwrap();
            tokio::spawn(responder.run());
        });

        let a = world.node(1, &[upstream.into()]);
        let (_, pod) = a.attach("pod", &[]);
        change(&[&a], || {
            world.api.apply(&service("web", "10.43.0.5", &json!([{ "port": 80 }]), &json!({})));
            let target = "www.default.svc.example.test";
            world.api.apply(&service(
                "out",
                "",
                &json!([]),
                &json!({ "type": "ExternalName", "externalName": target }),
            ));
        });
        let dig = |words: &str| pod.command(&format!("dig @10.43.0.10 {words}"));
        eventually("all names are known", || dig("+short out.default.svc.cluster.local").lines().count() == 2);

        // upstream: existing, missing, through an alias, along the search path
        assert_eq!(dig("+short www.default.svc.example.test"), "10.8.0.1\n");
        assert!(dig("nope.default.svc.example.test").contains("status: NXDOMAIN"));
        assert_eq!(dig("+short out.default.svc.cluster.local"), "www.default.svc.example.test.\n10.8.0.1\n");
        let searched = dig("+noall +answer www.default.svc.example.test.default.svc.cluster.local");
        assert!(searched.contains("CNAME") && searched.contains("10.8.0.1"), "{searched}");
        let from_node = a.place.command("dig @10.43.0.10 www.default.svc.example.test.default.svc.cluster.local");
        assert!(from_node.contains("status: NXDOMAIN"), "only a pod of that namespace searches: {from_node}");
        let sibling = dig("+short web.default.default.svc.cluster.local");
        assert_eq!(sibling, "web.default.svc.cluster.local.\n10.43.0.5\n");
        // a name that is whole already is the last on the path
        for (name, answer) in
            [("web.default.svc.cluster.local", "10.43.0.5"), ("www.default.svc.example.test", "10.8.0.1")]
        {
            let whole = dig(&format!("+short {name}.default.svc.cluster.local"));
            assert_eq!(whole, format!("{name}.\n{answer}\n"));
            let no_such_type = dig(&format!("AAAA {name}.default.svc.cluster.local"));
            assert!(no_such_type.contains("status: NOERROR") && no_such_type.contains("ANSWER: 1"), "{no_such_type}");
        }
        let missing = dig("nope.default.svc.cluster.local.default.svc.cluster.local");
        assert!(missing.contains("status: NXDOMAIN"), "{missing}");
    });
}

#[test]
fn a_silent_upstream_is_given_up_on_in_time() {
    isolated("a_silent_upstream_is_given_up_on_in_time", |world| {
        let other = world.node(3, &[]);
        let upstream = SocketAddr::new(other.address.into(), 5353);
        let _silent = other.call(async move { tokio::net::UdpSocket::bind(upstream).await.unwrap() });
        let unreachable = "10.255.255.53:53".parse().unwrap();
        for (number, upstream) in [(1, upstream), (2, unreachable)] {
            let a = world.node(number, &[upstream]);
            let (_, pod) = a.attach("pod", &[]);
            let dig = |words: &str| pod.command(&format!("dig @10.43.0.10 +tries=1 +time=3 {words}"));
            // the cluster's own names do not wait for it, be they there or not
            eventually("the zone is there", || dig("kubernetes.default.svc.cluster.local").contains("NXDOMAIN"));
            let started = Instant::now();
            assert!(dig("nope.default.svc.cluster.local.default.svc.cluster.local").contains("status: NXDOMAIN"));
            assert!(started.elapsed() < Duration::from_secs(1), "asked upstream for a name of the cluster");
            // along the search path, and then the bare name: one wait for both
            assert!(dig("www.example.test.default.svc.cluster.local").contains("status: NXDOMAIN"));
            assert!(dig("www.example.test").contains("status: SERVFAIL"));
            let took = started.elapsed();
            assert!(took < Duration::from_secs(4), "{took:?}");
        }
    });
}

#[test]
fn a_restart_keeps_what_runs_and_sweeps_what_leaked() {
    isolated("a_restart_keeps_what_runs_and_sweeps_what_leaked", |world| {
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
    isolated("a_failed_attachment_leaves_nothing", |world| {
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
    isolated("tunnels_follow_the_nodes", |world| {
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

/// Compares what the reference program reads out of the kernel with what was meant.
#[test]
fn the_kernel_holds_what_was_meant() {
    isolated("the_kernel_holds_what_was_meant", |world| {
        let a = world.node(1, &[]);
        let udp =
            json!([{ "name": "web", "port": 80, "nodePort": 30080 }, { "name": "dns", "port": 53, "protocol": "UDP" }]);
        let targets = json!([{ "name": "web", "port": 8080 }, { "name": "dns", "port": 5353, "protocol": "UDP" }]);
        let list = [("10.42.1.2".parse().unwrap(), "n1"), ("10.42.2.2".parse().unwrap(), "n2")];
        let before = a.applied();
        let host_port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: "TCP".to_owned() };
        let on_address =
            HostPort { host_ip: Some(a.address.into()), host_port: 53, container_port: 53, protocol: "UDP".to_owned() };
        a.attach("pod", &[host_port, on_address]);
        world.api.apply(&service("both", "10.43.0.5", &udp, &json!({})));
        world.api.apply(&slice("both", &targets, &list));
        world.api.apply(&service(
            "sticky",
            "10.43.0.6",
            &json!([{ "name": "web", "port": 80 }]),
            &json!({ "sessionAffinity": "ClientIP" }),
        ));
        world.api.apply(&slice("sticky", &json!([{ "name": "web", "port": 80 }]), &list[..1]));
        eventually("all is applied", || {
            a.applied() > before && a.place.command("nft list table ip orlop").contains("10.43.0.6")
        });
        let meant = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/nft/table.txt");
        let held = sorted(&a.place.command("nft --numeric list table ip orlop"));
        // the program's JSON reader knows every construct as well
        let json: Value = serde_json::from_str(&a.place.command("nft -j list table ip orlop")).unwrap();
        assert!(json["nftables"].as_array().unwrap().len() > 20);
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&meant, held).unwrap();
        } else {
            assert_eq!(held, fs::read_to_string(&meant).unwrap(), "REWRITE=1 rewrites it");
        }
    });
}

/// A listing without the table's owner, and with the elements of every set in order: the kernel keeps them by a random hash.
fn sorted(listing: &str) -> String {
    let (head, mut rest) = listing.split_once('\n').unwrap();
    let mut text = format!("{}\n", head.split(" #").next().unwrap());
    while let Some((before, after)) = rest.split_once("elements = { ") {
        let (elements, after) = after.split_once(" }").unwrap();
        let mut elements: Vec<_> = elements.split(',').map(str::trim).collect();
        elements.sort_unstable();
        text.push_str(&format!("{before}elements = {{ {} }}", elements.join(",\n\t\t\t     ")));
        rest = after;
    }
    // older kernels know no owner
    (text + rest).replace("\tflags owner\n\n", "")
}

/// Prints figures; asserts only that the work was done.
#[test]
fn many_pods_and_services() {
    isolated("many_pods_and_services", |world| {
        let a = world.node(1, &[]);
        let mut times = Vec::new();
        for number in 0..100 {
            let start = Instant::now();
            a.attach(&format!("pod{number}"), &[]);
            times.push(start.elapsed());
        }
        times.sort();
        println!("attach, one after the other: median {:?}, p95 {:?}", times[50], times[95]);
        let start = Instant::now();
        for number in 0..100 {
            a.detach(&format!("pod{number}"));
        }
        println!("detach of 100: {:?}", start.elapsed());
        let start = Instant::now();
        let netd = Arc::clone(a.netd.as_ref().unwrap());
        let names: HashSet<_> = a.call(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..100 {
                let netd = Arc::clone(&netd);
                let pod =
                    PodId { namespace: "default".to_owned(), name: "p".to_owned(), uid: format!("burst-{number}") };
                tasks.spawn(async move { netd.attach(&pod, &[]).await.unwrap().addresses });
            }
            tasks.join_all().await.into_iter().flatten().collect()
        });
        println!("attach of 100 at once: {:?}", start.elapsed());
        assert_eq!(names.len(), 100, "every pod has an address of its own");

        let ruleset = large();
        let nets = nft::Nets {
            cluster: "10.42.0.0/16".parse().unwrap(),
            node: "10.42.1.0/24".parse().unwrap(),
            services: "10.43.0.0/16".parse().unwrap(),
            dns: "10.43.0.10".parse().unwrap(),
        };
        let bare = world::Place::new();
        bare.run(|| {
            let socket = Socket::netfilter().unwrap();
            // a table of before there was ownership is taken over
            Command::new("nft").args(["add", "table", "ip", "orlop"]).status().unwrap();
            for _ in 0..2 {
                let start = Instant::now();
                nft::replace(&socket, nets, &ruleset).unwrap();
                println!("1,000 services of 10 endpoints, whole: {:?}", start.elapsed());
            }
            let (owner, part) = ruleset.parts.first_key_value().unwrap();
            let mut fewer = (**part).clone();
            for balance in fewer.chains.values_mut() {
                balance.endpoints.pop();
            }
            println!("one endpoint less of {owner:?}");
            let mut times = Vec::new();
            for turn in 0..20 {
                let (old, new) = if turn % 2 == 0 { (&**part, &fewer) } else { (&fewer, &**part) };
                let start = Instant::now();
                nft::change(&socket, &ruleset::diff([(Some(old), Some(new))].into_iter())).unwrap();
                times.push(start.elapsed());
            }
            times.sort();
            println!("change of one service among them: median {:?}, worst {:?}", times[10], times[19]);
        });
        let listed = bare.command("nft list map ip orlop services");
        assert_eq!(listed.matches("goto").count(), 1000);
        bare.run(|| nft::remove(&Socket::netfilter().unwrap()).unwrap());
        assert_eq!(bare.command("nft list ruleset"), "");
    });
}

fn large() -> ruleset::Ruleset {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        let name = format!("service-{number}");
        services.push(Arc::new(service(
            &name,
            &format!("10.43.{}.{low}", high + 1),
            &json!([{ "port": 80 }]),
            &json!({}),
        )));
        let endpoints: Vec<_> = (0..10).map(|last| (Ipv4Addr::new(10, 42, high * 10 + last, low), "n1")).collect();
        slices.push(Arc::new(slice(&name, &json!([{ "port": 8080 }]), &endpoints)));
    }
    service::rules(&services, &slices, &BTreeMap::new(), "n1")
}
