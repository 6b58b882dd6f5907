//! The DNS that every node answers with.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use client::Key;
use netd::dns::{self, server::Responder};
use serde_json::json;

use crate::{
    api::{service, slice},
    world::{change, eventually, isolated},
};

#[test]
fn names_are_answered_to_pods_and_nodes() {
    isolated(|world| {
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
    isolated(|world| {
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
    isolated(|world| {
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
