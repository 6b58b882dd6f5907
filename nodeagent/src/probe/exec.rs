//! Asking by running a command in the container.

use tokio::io::AsyncReadExt;

use crate::runtime::{Exec, Runtime};

/// Output beyond this is not kept, bytes (upstream's maxRespBodyLength).
const OUTPUT: u64 = 10 * 1024;

/// Whether the command ends with code 0; otherwise the error is what it printed.
pub async fn ask(runtime: &dyn Runtime, id: &str, command: Vec<String>) -> Result<(), String> {
    let shown = command.join(" ");
    let exec = Exec { args: command, tty: false, stdin: false };
    let session = runtime.exec(id, &exec).await.map_err(|error| format!("command {shown:?}: {error}"))?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let stdout = async {
        let mut limited = session.stdout.take(OUTPUT);
        let read = limited.read_to_end(&mut out).await;
        read.and(tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await)
    };
    let stderr = async {
        let Some(stream) = session.stderr else { return Ok(0) };
        let mut limited = stream.take(OUTPUT);
        let read = limited.read_to_end(&mut err).await;
        read.and(tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await)
    };
    let (_, _, exit) = tokio::join!(stdout, stderr, session.exit);
    match exit {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(code)) => {
            out.extend(err);
            Err(format!("command {shown:?} exited with {code}: {}", String::from_utf8_lossy(&out).trim_end()))
        }
        Ok(Err(error)) => Err(format!("command {shown:?}: {error}")),
        Err(_) => Err(format!("command {shown:?} was lost")),
    }
}
