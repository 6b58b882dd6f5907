//! A command in a running container, joined with a client's streams.

use bytes::BytesMut;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use crate::{
    launch::chain,
    runtime::{Error, Exec, ExecSession, Runtime},
    stream::{Client, Input, Output, Wanted},
};

/// Read at once, bytes.
const CHUNK: usize = 32 * 1024;

/// Runs a command until it ends, or until the client goes.
pub async fn run(runtime: &dyn Runtime, id: &str, command: Vec<String>, wanted: Wanted, client: Client) {
    let Client { input, output } = client;
    let exec = Exec { args: command, tty: wanted.tty, stdin: wanted.stdin };
    let status = match runtime.exec(id, &exec).await {
        Ok(session) => match join(session, input, &output).await {
            Some(status) => status,
            None => return,
        },
        Err(error) => {
            if let Error::Start { why, .. } = &error {
                // clients show the code alone: why is told where the command would have told it
                let line = format!("cannot run the command: {why}{}", if wanted.tty { "\r\n" } else { "\n" }).into();
                let told = if wanted.stderr && !wanted.tty { Output::Stderr(line) } else { Output::Stdout(line) };
                if output.send(told).await.is_err() {
                    tracing::debug!(id, "client left before it was told that the command did not start");
                }
            }
            failure(&error)
        }
    };
    if output.send(Output::Exit(Box::new(status))).await.is_err() {
        tracing::debug!(id, "client left before the command ended");
    }
}

/// None when the client has gone: dropping the session hangs up.
async fn join(session: ExecSession, mut input: mpsc::Receiver<Input>, output: &mpsc::Sender<Output>) -> Option<Status> {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let mut stdin = stdin;
    let feeding = async {
        while let Some(event) = input.recv().await {
            match event {
                Input::Stdin(bytes) => {
                    if let Some(pipe) = &mut stdin
                        && (pipe.write_all(&bytes).await.is_err() || pipe.flush().await.is_err())
                    {
                        stdin = None;
                    }
                }
                Input::StdinClosed => {
                    if let Some(mut pipe) = stdin.take() {
                        // a command that reads no more has closed it already
                        drop(pipe.shutdown().await);
                    }
                }
                // a terminal that is gone needs no size
                Input::Resize(columns, rows) => drop(resize.send((columns, rows)).await),
            }
        }
    };
    let reading = async {
        let out = copy(stdout, output, Output::Stdout);
        let err = async {
            match stderr {
                Some(stderr) => copy(stderr, output, Output::Stderr).await,
                None => true,
            }
        };
        tokio::join!(out, err)
    };
    let ending = async {
        let ((out, err), exit) = tokio::join!(reading, exit);
        if !(out && err) {
            return None;
        }
        Some(match exit {
            Ok(Ok(code)) => exit_status(code),
            Ok(Err(error)) => failure(&error),
            Err(_) => api::status::internal("the command was lost"),
        })
    };
    tokio::select! {
        status = ending => status,
        () = feeding => None,
    }
}

/// Whether all could be sent.
async fn copy(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    to: &mpsc::Sender<Output>,
    wrap: impl Fn(bytes::Bytes) -> Output,
) -> bool {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        match from.read_buf(&mut buffer).await {
            // a terminal whose last process ended reads as an error
            Ok(0) | Err(_) => return true,
            Ok(_) => {
                if to.send(wrap(buffer.split().freeze())).await.is_err() {
                    return false;
                }
            }
        }
    }
}

/// How clients are told of an exit code (upstream's `remotecommand`).
pub fn exit_status(code: i32) -> Status {
    if code == 0 {
        return Status { status: Some("Success".into()), ..Status::default() };
    }
    let cause =
        StatusCause { reason: Some("ExitCode".into()), message: Some(code.to_string()), ..StatusCause::default() };
    Status {
        status: Some("Failure".into()),
        reason: Some("NonZeroExitCode".into()),
        message: Some(format!("command terminated with non-zero exit code: exit status {code}")),
        details: Some(StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() }),
        ..Status::default()
    }
}

fn failure(error: &Error) -> Status {
    match error {
        // as a shell says of what it cannot run; the message tells why
        Error::Start { why, .. } => {
            let code = if why.contains("not found") || why.contains("no such file") { 127 } else { 126 };
            Status { message: Some(format!("error executing command in container: {why}")), ..exit_status(code) }
        }
        other => api::status::internal(chain(other)),
    }
}
