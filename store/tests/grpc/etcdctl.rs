//! etcd's own command line, Debian's `etcd-client`: the same commands to this store and to etcd print the same.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::etcd;
use crate::served::{self, Served};

const PROGRAM: &str = "/usr/bin/etcdctl";

const DEADLINE: Duration = Duration::from_secs(20);

/// Commands, what each reads from its input, one after the other. `{lease}` is the lease granted last.
const CONVERSATION: &[(&str, &str)] = &[
    ("put a 1", ""),
    ("put a 2 --prev-kv", ""),
    ("put ab 3", ""),
    ("put b 4", ""),
    ("get a", ""),
    ("get a --write-out=simple --print-value-only", ""),
    ("get none", ""),
    ("get a --prefix", ""),
    ("get a --prefix --keys-only", ""),
    ("get a --prefix --limit=1", ""),
    ("get a --rev=2", ""),
    ("get a --rev=99", ""),
    ("get a b", ""),
    ("get a --from-key", ""),
    ("get --prefix --sort-by=value --order=descend a", ""),
    ("get --from-key --sort-by=modify --order=ASCEND a", ""),
    ("get --prefix --consistency=s a", ""),
    ("get b --hex", ""),
    ("put none --ignore-value", ""),
    ("put a --ignore-value", ""),
    ("get a", ""),
    (
        "txn",
        "value(\"a\") = \"2\"\nmod(\"none\") = \"0\"\nver(\"a\") > \"2\"\n\nput a 5\nget a\ndel b --prev-kv\n\nget b\n\n",
    ),
    ("txn", "create(\"a\") < \"1\"\n\nput a never\n\nget a\nget ab\n\n"),
    ("txn", "\nput x 1\nput x 2\n\n\n"),
    ("del none", ""),
    ("del a --prev-kv", ""),
    ("put p/1 x", ""),
    ("put p/2 x", ""),
    ("del p/ --prefix", ""),
    ("del ab --from-key --prev-kv", ""),
    ("lease grant 100", ""),
    ("put leased v --lease={lease}", ""),
    ("lease timetolive {lease} --keys", ""),
    ("lease list", ""),
    ("lease keep-alive --once {lease}", ""),
    ("lease revoke {lease}", ""),
    ("get leased", ""),
    ("lease revoke {lease}", ""),
    ("lease timetolive {lease}", ""),
    ("put other v --lease=1234", ""),
    ("compaction 5", ""),
    ("compaction 5", ""),
    ("compaction 5000", ""),
    ("get a --rev=3", ""),
    ("alarm list", ""),
    ("check perf --load=nonsense", ""),
    ("role list", ""),
];

/// The same of users and roles. Who names no user is the one of its certificate's name, `client`.
const USERS: &[(&str, &str)] = &[
    ("auth enable", ""),
    ("auth disable", ""),
    ("--user=ann:right get k", ""),
    ("user list", ""),
    ("user add root:secret", ""),
    ("user add ann:right", ""),
    ("user add ann:right", ""),
    ("user add bob --interactive=false", "bobs"),
    ("user add client --no-password", ""),
    ("user list", ""),
    ("user get ann", ""),
    ("user get none", ""),
    ("user delete none", ""),
    ("user passwd none --interactive=false", "pass"),
    ("role list", ""),
    ("role add some", ""),
    ("role add some", ""),
    ("role add other", ""),
    ("role get none", ""),
    ("role grant-permission some readwrite k", ""),
    ("role grant-permission some read r/ --prefix=true", ""),
    ("role grant-permission some write w/ w0", ""),
    ("role grant-permission some write w/ w0", ""),
    ("role grant-permission none write k", ""),
    ("role grant-permission other readwrite x --from-key", ""),
    ("role grant-permission other read a c", ""),
    ("role grant-permission other nonsense a c", ""),
    ("role get some", ""),
    ("role get other", ""),
    ("role revoke-permission other a c", ""),
    ("role revoke-permission other a c", ""),
    ("role revoke-permission none a c", ""),
    ("role list", ""),
    ("user grant-role ann some", ""),
    ("user grant-role ann some", ""),
    ("user grant-role ann none", ""),
    ("user grant-role none some", ""),
    ("user revoke-role ann other", ""),
    ("user get ann --detail", ""),
    ("put k 0", ""),
    ("put secret 0", ""),
    ("put r/1 1", ""),
    ("put w/1 1", ""),
    ("auth enable", ""),
    ("--user=root:secret auth enable", ""),
    // The certificate's user has no role yet.
    ("get k", ""),
    ("put k 1", ""),
    ("user list", ""),
    ("user get client", ""),
    ("user get ann", ""),
    ("role get some", ""),
    ("auth disable", ""),
    ("lease list", ""),
    // No such user, or not its password.
    ("--user=none:right get k", ""),
    ("--user=ann:wrong get k", ""),
    ("--user=client:any get k", ""),
    ("--user=ann:right get k", ""),
    ("--user=ann:right put k 2 --prev-kv", ""),
    ("--user=ann:right get secret", ""),
    ("--user=ann:right put secret 2", ""),
    ("--user=ann:right get k --prefix", ""),
    ("--user=ann:right get r/ --prefix", ""),
    ("--user=ann:right get r/1 r/5", ""),
    ("--user=ann:right get r --prefix", ""),
    ("--user=ann:right put r/1 2", ""),
    ("--user=ann:right get w/1", ""),
    ("--user=ann:right put w/1 2", ""),
    ("--user=ann:right put w/1 2 --prev-kv", ""),
    ("--user=ann:right del w/ --prefix", ""),
    ("--user=ann:right del w/ --prefix --prev-kv", ""),
    ("--user=ann:right del secret", ""),
    ("--user=ann:right del k --from-key", ""),
    ("--user=ann:right txn", "value(\"k\") = \"2\"\n\nput k 3\nget r/1\n\nget k\n\n"),
    ("--user=ann:right txn", "value(\"secret\") = \"2\"\n\nput k 3\n\nget k\n\n"),
    ("--user=ann:right txn", "value(\"k\") = \"3\"\n\nput k 4\n\nget secret\n\n"),
    ("--user=ann:right txn", "value(\"k\") = \"3\"\n\nput secret 4\n\n\n"),
    ("--user=ann:right watch secret", ""),
    ("--user=ann:right user get ann", ""),
    ("--user=ann:right user get bob", ""),
    ("--user=ann:right role get some", ""),
    ("--user=ann:right role get other", ""),
    ("--user=ann:right user list", ""),
    ("--user=ann:right role list", ""),
    ("--user=ann:right user add eve:eve", ""),
    ("--user=ann:right user grant-role ann other", ""),
    ("--user=ann:right role grant-permission some read secret", ""),
    ("--user=ann:right user passwd ann --interactive=false", "new"),
    ("--user=ann:right auth disable", ""),
    ("--user=ann:right defrag", ""),
    ("--user=ann:right member remove 1", ""),
    // Leases are as good as the keys that die with them.
    ("--user=root:secret lease grant 100", ""),
    ("--user=ann:right put k leased --lease={lease}", ""),
    ("--user=ann:right lease timetolive {lease} --keys", ""),
    ("--user=ann:right lease keep-alive --once {lease}", ""),
    ("--user=root:secret put secret leased --lease={lease}", ""),
    ("--user=ann:right put k again --lease={lease}", ""),
    ("--user=ann:right lease revoke {lease}", ""),
    ("--user=root:secret lease revoke {lease}", ""),
    ("--user=root:secret get k", ""),
    // What is granted and taken away holds at once, for certificates, too.
    ("--user=root:secret user grant-role client other", ""),
    ("put x/1 1", ""),
    ("get x/1", ""),
    ("get k", ""),
    ("--user=root:secret role revoke-permission other x --from-key", ""),
    ("get x/1", ""),
    ("--user=root:secret user grant-role client root", ""),
    ("get a --from-key --keys-only", ""),
    ("user list", ""),
    ("role delete some", ""),
    ("role delete some", ""),
    ("user get ann", ""),
    ("--user=ann:right get k", ""),
    ("user passwd ann --interactive=false", "new"),
    ("--user=ann:right get k", ""),
    ("--user=ann:new user get ann", ""),
    ("user delete ann", ""),
    ("--user=ann:new get k", ""),
    ("user delete root", ""),
    ("role delete root", ""),
    ("user revoke-role root root", ""),
    ("user revoke-role client root", ""),
    ("user list", ""),
    ("--user=root:secret auth disable", ""),
    ("--user=root:secret auth disable", ""),
    ("get k", ""),
    ("get x/1", ""),
    ("user delete root", ""),
    ("user list", ""),
    ("role list", ""),
];

/// How to reach a server.
struct Ctl {
    args: Vec<String>,
}

impl Ctl {
    fn served(served: &Served) -> Self {
        Self::secure(&served.url, &served.files)
    }

    /// With what a client shows and trusts: CA, certificate, key.
    fn secure(url: &str, files: &[std::path::PathBuf; 3]) -> Self {
        let [ca, cert, key] = files.each_ref().map(|path| path.to_str().unwrap());
        let args = [("endpoints", url), ("cacert", ca), ("cert", cert), ("key", key)];
        Self { args: args.iter().map(|(name, value)| format!("--{name}={value}")).collect() }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(&self.args).args(line.split(' ')).env("ETCDCTL_API", "3");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, line: &str, input: &str) -> Output {
        let mut process = self
            .command(line)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {PROGRAM}: {error}; install Debian's etcd-client"));
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        process.wait_with_output().unwrap()
    }

    /// What a command that must succeed prints.
    fn say(&self, line: &str) -> String {
        let output = self.run(line, "");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{line}: {out}{err}");
        out
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Prints a conversation, with what differs from run to run taken out.
fn converse(ctl: &Ctl, conversation: &[(&str, &str)]) -> Vec<String> {
    let mut lease = "none".to_owned();
    let mut story = Vec::new();
    for (line, input) in conversation {
        let output = ctl.run(&line.replace("{lease}", &lease), input);
        let out = text(&output.stdout);
        if let Some(granted) = out.strip_prefix("lease ").filter(|_| line.contains("lease grant")) {
            lease = granted.split(' ').next().unwrap_or_default().to_owned();
        }
        let err = text(&output.stderr);
        // A log line of the client's tells its time and endpoint; the last line tells what is wrong.
        let err = err.lines().rfind(|line| line.starts_with("Error")).unwrap_or_default();
        let told = format!("{line}\n{out}\n{err} ({:?})", output.status.code()).replace(&lease, "LEASE");
        // Time goes by between a grant and the question for what is left of it.
        let told = told.split("remaining(").next().map_or(told.clone(), str::to_owned);
        story.push(told);
    }
    story
}

fn assert_same(ours: &[String], theirs: &[String]) {
    let differ: Vec<_> = ours.iter().zip(theirs).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(differ.is_empty() && ours.len() == theirs.len(), "ours, and theirs: {differ:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_prints_what_it_prints_of_etcd() {
    let served = Served::start().await;
    let ours = Ctl::served(&served);
    let ours = tokio::task::spawn_blocking(move || converse(&ours, CONVERSATION));
    let theirs = tokio::task::spawn_blocking(|| {
        let server = etcd::Server::start();
        converse(&Ctl { args: vec![format!("--endpoints={}", server.plain)] }, CONVERSATION)
    });
    let (ours, theirs) = (ours.await.unwrap(), theirs.await.unwrap());
    assert_same(&ours, &theirs);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_prints_of_users_what_it_prints_of_etcds() {
    let served = Served::start().await;
    let ours = Ctl::served(&served);
    let ours = tokio::task::spawn_blocking(move || converse(&ours, USERS));
    let theirs = tokio::task::spawn_blocking(|| {
        let server = etcd::Server::start();
        let dir = tempfile::tempdir().unwrap();
        let files = served::write(dir.path(), &server.tls);
        converse(&Ctl::secure(&server.secure, &files), USERS)
    });
    let (ours, theirs) = (ours.await.unwrap(), theirs.await.unwrap());
    assert_same(&ours, &theirs);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_watches() {
    let served = Served::start().await;
    let ctl = Ctl::served(&served);
    tokio::task::spawn_blocking(move || {
        ctl.say("put w/0 before");
        let mut watcher = ctl.command("watch w/ --prefix --rev=2 --prev-kv").spawn().unwrap();
        let output = watcher.stdout.take().unwrap();
        let (said, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || BufReader::new(output).lines().try_for_each(|line| said.send(line.unwrap())));
        let hear = |count| (0..count).map(|_| lines.recv_timeout(DEADLINE).unwrap()).collect::<Vec<_>>();
        assert_eq!(hear(3), ["PUT", "w/0", "before"]);
        ctl.say("put w/0 after");
        assert_eq!(hear(5), ["PUT", "w/0", "before", "w/0", "after"]);
        ctl.say("del w/0");
        assert_eq!(hear(5), ["DELETE", "w/0", "after", "w/0", ""]);
        watcher.kill().unwrap();
        watcher.wait().unwrap();
    })
    .await
    .unwrap();
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_looks_after_a_member() {
    let served = Served::start().await;
    let ctl = Ctl::served(&served);
    let dir = tempfile::tempdir().unwrap();
    let saved = dir.path().join("saved");
    let save = format!("snapshot save {}", saved.display());
    tokio::task::spawn_blocking(move || {
        ctl.say("put a 1");
        let members = ctl.say("member list");
        assert!(members.starts_with("bee, started, alone, https://127.0.0.1:"), "{members}");
        let status = ctl.say("endpoint status");
        assert!(status.contains(", bee, 3.6.0, ") && status.contains(", true, false, 2, "), "{status}");
        assert!(text(&ctl.run("endpoint health", "").stderr).contains("is healthy"), "it is healthy");
        let hash = ctl.say("endpoint hashkv");
        assert_eq!(hash, ctl.say("endpoint hashkv"));
        ctl.say("put a 2");
        assert_ne!(hash, ctl.say("endpoint hashkv"));
        ctl.say("defrag");
        ctl.say("compaction 3 --physical");
        let refused = ctl.run("move-leader 1", "");
        assert!(text(&refused.stderr).contains("bad leader transferee"), "{refused:?}");
        let refused = ctl.run("member add other --peer-urls=https://127.0.0.1:1", "");
        assert!(text(&refused.stderr).contains("a store that runs alone takes no members"), "{refused:?}");
        assert!(ctl.say("alarm disarm").is_empty());
        ctl.say(&save);
    })
    .await
    .unwrap();
    let image = std::fs::read(saved).unwrap();
    let image = store::image::read(&mut &image[..]).unwrap();
    assert_eq!((image.revision(), image.entries()[0].value.clone()), (3, "2".into()));
    served.stop().await;
}
