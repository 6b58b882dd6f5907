//! A virtual machine of a few seconds: Debian's kernel under qemu, and in its memory this very test program, so that what
//! the machine at hand does not have (one hierarchy of control groups with all controllers) is tested for real.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where `./test` puts the kernel (`scripts/kernel`).
const KERNEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/kernel");
/// Longest life of a machine, seconds.
const LIFE_SECONDS: &str = "600";
/// Its memory, MiB.
const MEMORY: &str = "1536";

/// The first program: everything moves to a root that can be pivoted away from, as the first one cannot.
const INIT: &str = "\
#!/bin/busybox sh
busybox mkdir /root
busybox mount -t tmpfs root /root
busybox cp -a /bin /lib /lib64 /usr /program /second /overlay.ko $(busybox cat /folders) /root
busybox mkdir -p /root/proc /root/sys /root/dev /root/tmp /root/run /root/etc
exec busybox switch_root /root /second
";

/// The second one: what a system mounts, then the tests.
const SECOND: &str = "\
#!/bin/busybox sh
export PATH=/bin HOME=/tmp TMPDIR=/tmp RUST_BACKTRACE=0
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /dev/pts /dev/shm
busybox mount -t devpts pts /dev/pts
busybox mount -t tmpfs tmp /tmp
busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
busybox insmod /overlay.ko
busybox ip link set lo up
echo \"controllers: $(busybox cat /sys/fs/cgroup/cgroup.controllers)\"
/program --test-threads=2 $(busybox cat /words)
echo \"the program ended with $?\"
busybox poweroff -f
";

/// Runs this test program with these words in a machine, with `beside` at its own place. Returns what the console showed.
pub fn run(words: &[&str], beside: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let program = std::env::current_exe().unwrap();
    for path in ["lib", "lib64", "usr/bin", "bin"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    let busybox = Path::new("/usr/bin/busybox");
    copy(busybox, &root.join("bin/busybox"));
    copy(busybox, &root.join("usr/bin/busybox"));
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    stripped(&program, &root.join("program"));
    let place = root.join(beside.strip_prefix("/").unwrap());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    stripped(beside, &place);
    for library in libraries(&program).into_iter().chain(libraries(beside)) {
        let target = root.join(library.strip_prefix("/").unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        copy(&library, &target);
    }
    copy(&kernel("overlay.ko"), &root.join("overlay.ko"));
    let top = beside.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    fs::write(root.join("folders"), format!("/words /{top}")).unwrap();
    fs::write(root.join("words"), words.join(" ")).unwrap();
    script(&root.join("init"), INIT);
    script(&root.join("second"), SECOND);
    let initrd = folder.path().join("initrd");
    let packed = Command::new("sh")
        .arg("-c")
        .arg("find . | cpio --quiet -o -H newc > \"$0\"")
        .arg(&initrd)
        .current_dir(&root)
        .status();
    assert!(packed.expect("sh runs").success(), "cpio packs the machine's memory");
    boot(&initrd)
}

fn boot(initrd: &Path) -> String {
    let output = Command::new("timeout")
        .args([LIFE_SECONDS, "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"])
        .args(["-m", MEMORY, "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"])
        .arg("-kernel")
        .arg(kernel("vmlinuz"))
        .arg("-initrd")
        .arg(initrd)
        // the kernel's test of its timer fails on a busy machine, where this one is slow
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) runs");
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{console}{}", String::from_utf8_lossy(&output.stderr));
    console
}

fn kernel(name: &str) -> PathBuf {
    let path = Path::new(KERNEL).join(name);
    assert!(path.exists(), "{} is missing: run ./test, or scripts/kernel target/tools/kernel", path.display());
    path
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
}

/// Without what only a debugger reads.
fn stripped(from: &Path, to: &Path) {
    let done = Command::new("strip").args(["--strip-debug", "-o"]).arg(to).arg(from).status();
    assert!(done.expect("strip (binutils) runs").success());
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the dynamic linker loads for a program, itself included.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd (libc-bin) runs");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from))
        .collect()
}
