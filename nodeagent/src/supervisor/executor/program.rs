//! Program: finding and executing what a container is to run, with errors that read like upstream's.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, FileType},
    io::Errno,
};

use super::super::protocol::Failure;
use crate::runtime::Container;

/// Where programs are looked for when the environment does not say (docker's default).
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Largest `/etc/passwd` that is searched for a home, bytes.
const PASSWD_MAX: u64 = 1 << 20;

/// The container's environment, with what every program expects to be there (as containerd and runc add it).
pub(super) fn environment(container: &Container, tty: bool) -> Vec<(String, String)> {
    let mut env = container.env.clone();
    let mut default = |name: &str, value: &dyn Fn() -> String| {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value()));
        }
    };
    default("PATH", &|| PATH_DEFAULT.to_owned());
    default("HOME", &|| home(container.uid));
    default("HOSTNAME", &|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    if tty {
        default("TERM", &|| "xterm".to_owned());
    }
    env
}

/// The home of a user by the container's `/etc/passwd`, or `/`.
fn home(uid: u32) -> String {
    let read = || -> io::Result<String> {
        // Whatever lies there must not make the start hang.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd")?;
        let mut text = String::new();
        if file.metadata()?.is_file() {
            file.take(PASSWD_MAX).read_to_string(&mut text)?;
        }
        Ok(text)
    };
    home_in(&read().unwrap_or_default(), uid)
}

fn home_in(passwd: &str, uid: u32) -> String {
    let of = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid) && !fields[5].is_empty()).then(|| fields[5].to_owned())
    };
    passwd.lines().find_map(of).unwrap_or_else(|| "/".to_owned())
}

/// Changes to the working directory.
pub(super) fn enter_folder(cwd: &Path) -> Result<(), Failure> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    let wrong = |e: io::Error| Failure::Start(format!("working directory {}: {}", cwd.display(), plain(&e)));
    rustix::process::chdir(cwd).map_err(|e| wrong(e.into()))
}

/// Executes it; returns why it could not.
pub(super) fn execute(args: &[String], env: &[(String, String)]) -> Failure {
    let Some(name) = args.first().filter(|name| !name.is_empty()) else {
        return Failure::Start("no command specified".into());
    };
    let path = match find(name, env) {
        Ok(path) => path,
        Err(why) => return Failure::Start(why),
    };
    let variables: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let strings = |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(program), Ok(arguments), Ok(variables)) =
        (CString::new(path.into_os_string().into_encoded_bytes()), strings(args), strings(&variables))
    else {
        return Failure::Start("command or environment holds a zero byte".into());
    };
    let Err(errno) = nix::unistd::execve(&program, &arguments, &variables);
    Failure::Start(format!("exec {}: {}", program.to_string_lossy(), plain(&errno.into())))
}

/// As Go's `exec.LookPath`, whose words users know.
fn find(name: &str, env: &[(String, String)]) -> Result<PathBuf, String> {
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into()).map_err(|why| match why {
            Refusal::Stat(errno) => format!("exec: {name:?}: stat {name}: {}", plain(&errno.into())),
            Refusal::Folder => format!("exec: {name:?}: is a directory"),
            Refusal::Permission => format!("exec: {name:?}: permission denied"),
        });
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or(PATH_DEFAULT, |(_, value)| value);
    let mut denied = false;
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Refusal::Permission) => denied = true,
            Err(Refusal::Stat(_) | Refusal::Folder) => {}
        }
    }
    Err(match denied {
        true => format!("exec: {name:?}: permission denied"),
        false => format!("exec: {name:?}: executable file not found in $PATH"),
    })
}

enum Refusal {
    Stat(Errno),
    Folder,
    Permission,
}

fn executable(path: &Path) -> Result<(), Refusal> {
    let stat = rustix::fs::stat(path).map_err(Refusal::Stat)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Refusal::Folder);
    }
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).map_err(|_| Refusal::Permission)
}

/// What the system said, in Go's words: lower case, no number.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_like_upstreams() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data");
        std::fs::write(&file, "").unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        let env = [("PATH".to_owned(), folder.path().display().to_string())];
        let error = |name: &str| find(name, &env).unwrap_err();
        assert_eq!(error("nope"), "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(error("data"), "exec: \"data\": permission denied");
        assert_eq!(error("sub"), "exec: \"sub\": executable file not found in $PATH");
        assert_eq!(error("/nope/x"), "exec: \"/nope/x\": stat /nope/x: no such file or directory");
        assert_eq!(error("/tmp/"), "exec: \"/tmp/\": is a directory");
        assert_eq!(find("sh", &[]).unwrap().file_name().unwrap(), "sh");
    }

    #[test]
    fn homes_come_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:\n";
        assert_eq!([0, 33, 1000].map(|uid| home_in(passwd, uid)), ["/root", "/var/www", "/"]);
    }
}
