//! Runs the tests of the `etcd-client` crate, as its authors wrote them, against this store.
//!
//! `cargo run -p store --example etcd_suite -- [WORD...]`: copies the crate from cargo's registry, serves a store on
//! `localhost:2379`, which those tests expect to be free and without TLS, makes the user that they expect, and runs `cargo test`
//! there with these words. Ends as that ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use store::Options;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

#[path = "../tests/contract/etcd.rs"]
mod etcd;
#[path = "../tests/grpc/served.rs"]
mod served;

use served::Served;

/// Where the tests look for etcd.
const ADDRESS: &str = "127.0.0.1:2379";

/// How long a token lives there.
const TOKEN_TTL: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options { sync: false, ..Options::default() };
    let served = Served::with(options, |server| server.with_token_ttl(TOKEN_TTL)).await;
    let mut client = served.client().await;
    client.user_add("root", "rootpwd", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    let listener = TcpListener::bind(ADDRESS).await.unwrap_or_else(|error| panic!("{ADDRESS} is not free: {error}"));
    let way = Arc::new((served.url.trim_start_matches("https://").to_owned(), served.connector()));
    tokio::spawn(async move {
        while let Ok((plain, _)) = listener.accept().await {
            tokio::spawn(lead(plain, way.clone()));
        }
    });
    let tested = tokio::task::spawn_blocking(test).await.unwrap();
    served.stop().await;
    if tested { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Leads what comes without TLS to the store. Either side may break off at any time.
async fn lead(mut plain: TcpStream, way: Arc<(String, TlsConnector)>) {
    let (address, connector) = &*way;
    let store = TcpStream::connect(address).await.unwrap();
    // HTTP/2 begins with a method that is none.
    let mut first = [0; 3];
    plain.peek(&mut first).await.unwrap();
    let protocols = if first == *b"GET" { vec![b"http/1.1".to_vec()] } else { vec![b"h2".to_vec()] };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut secure = connector.with_alpn(protocols).connect(name, store).await.unwrap();
    drop(tokio::io::copy_bidirectional(&mut plain, &mut secure).await);
}

/// Runs the tests; whether all passed.
fn test() -> bool {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (from, to) = (source(house), house.join("target/etcd-client"));
    if to.join("source").exists() {
        std::fs::remove_dir_all(to.join("source")).unwrap();
    }
    std::fs::create_dir_all(&to).unwrap();
    assert!(Command::new("cp").arg("-r").arg(from).arg(to.join("source")).status().unwrap().success());
    // It lies in this project's folder, and is no part of it.
    let manifest = to.join("source/Cargo.toml");
    let alone = std::fs::read_to_string(&manifest).unwrap() + "\n[workspace]\n";
    std::fs::write(&manifest, alone).unwrap();
    let mut tests = Command::new("cargo");
    tests.args(["test", "--tests", "--no-fail-fast"]).args(std::env::args().skip(1));
    tests.current_dir(to.join("source")).env("CARGO_TARGET_DIR", to.join("target"));
    tests.status().unwrap().success()
}

/// Where cargo keeps the source of the crate, of the version that this project uses.
fn source(house: &Path) -> PathBuf {
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--format-version=1", "--locked"]).current_dir(house);
    let told = String::from_utf8(metadata.output().unwrap().stdout).unwrap();
    let manifests = told.split(r#""manifest_path":""#).filter_map(|rest| rest.split('"').next());
    let manifest = manifests.map(Path::new).find(|path| {
        let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        folder.is_some_and(|name| name.starts_with("etcd-client-"))
    });
    manifest.and_then(Path::parent).expect("the workspace uses etcd-client").to_owned()
}
