//! Services and host ports: which pod a connection comes to.

use std::{collections::HashSet, net::Ipv4Addr};

use netd::HostPort;
use serde_json::{Value, json};

use crate::{
    api::{service, slice},
    world::{address, ask_udp, change, eventually, isolated, machine},
};

#[test]
fn services_lead_to_ready_endpoints() {
    isolated(|world| {
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
    isolated(|world| {
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
