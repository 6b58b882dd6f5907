//! What is in the kernel: as it was meant, and how long much of it takes.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::Arc,
    time::Instant,
};

use netd::{HostPort, PodId, nft, ruleset, service::rules, socket::Socket};
use serde_json::{Value, json};

use crate::{
    api::{service, slice},
    world::{Place, eventually, isolated},
};

/// Compares what the reference program reads out of the kernel with what was meant.
#[test]
fn the_kernel_holds_what_was_meant() {
    isolated(|world| {
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
    isolated(|world| {
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
        let bare = Place::new();
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
    rules(&services, &slices, &BTreeMap::new(), "n1")
}
