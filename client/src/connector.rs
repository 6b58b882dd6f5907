//! The connector: from the servers that there are to one open connection.
//!
//! A server that does not answer soon costs little: the next is tried beside it (as RFC 8305 does with addresses), and the
//! first that answers is taken.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::{Request, Response, Uri};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustix::net::sockopt;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tower::Service;

use crate::{
    config::{CONNECT, PING},
    servers::Servers,
};

/// How long the servers tried so far are waited for before the next is tried, too (RFC 8305, Connection Attempt Delay).
const STAGGER: Duration = Duration::from_millis(250);

/// How long nothing may come before a server is asked whether it is there, and until it is asked again: it may lose power
/// while a stream has nothing to say.
const ALIVE: Duration = PING;

/// After how long a server that is asked and does not answer is taken for dead.
const DEAD: Duration = Duration::from_secs(20);

/// Opens TCP with Nagle's delay off, then TLS. The server must be `name`, or what the URL calls it.
///
/// # Errors
/// When either fails or takes longer than [`CONNECT`].
pub(crate) async fn dial(
    tls: Arc<rustls::ClientConfig>,
    url: &Uri,
    name: Option<ServerName<'static>>,
) -> io::Result<TlsStream<TcpStream>> {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port_u16().unwrap_or(443);
    let opened = tokio::time::timeout(CONNECT, async {
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        notice_death(&tcp)?;
        let name = name.map_or_else(|| ServerName::try_from(host.clone()), Ok).map_err(io::Error::other)?;
        TlsConnector::from(tls).connect(name, tcp).await
    });
    opened.await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {host}:{port}")))?
}

/// Has the connection fail when the server's machine is gone.
fn notice_death(tcp: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, ALIVE)?;
    sockopt::set_tcp_keepintvl(tcp, ALIVE)?;
    // it counts for what was sent as well, and goes before a count of unanswered questions
    sockopt::set_tcp_user_timeout(tcp, DEAD.as_millis().try_into().unwrap_or(u32::MAX))?;
    Ok(())
}

/// Connects to one of the servers.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) servers: Servers,
    /// What every server is called, where its certificate does not name its address.
    pub(crate) name: Option<ServerName<'static>>,
}

impl Connector {
    /// The error is that of the first server: the one that a user knows of.
    async fn dial(self) -> io::Result<Stream> {
        let mut left = self.servers.order().into_iter();
        let mut tries = FuturesUnordered::new();
        let attempt = |url: Uri| {
            let (tls, name) = (Arc::clone(&self.tls), self.name.clone());
            async move { (dial(tls, &url, name).await, url) }
        };
        let mut failed = None;
        loop {
            let next = left.next();
            let is_last = next.is_none();
            tries.extend(next.map(attempt));
            let answered = if is_last {
                tries.next().await
            } else {
                match tokio::time::timeout(STAGGER, tries.next()).await {
                    Ok(answered) => answered,
                    Err(_) => continue,
                }
            };
            match answered {
                Some((Ok(stream), url)) => {
                    let term = self.servers.choose(url);
                    return Ok(Stream { io: TokioIo::new(stream), ended: Box::pin(term.cancelled_owned()) });
                }
                Some((Err(error), _)) => drop(failed.get_or_insert(error)),
                None => return Err(failed.unwrap_or_else(|| io::ErrorKind::NotConnected.into())),
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Stream>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        self.clone().dial().boxed()
    }
}

/// Tells the servers what theirs answered.
#[derive(Clone)]
pub(crate) struct Noting<S> {
    pub(crate) inner: S,
    pub(crate) servers: Servers,
}

impl<S, Q, R> Service<Request<Q>> for Noting<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut task::Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (answer, servers) = (self.inner.call(request), self.servers.clone());
        async move {
            let answer = answer.await?;
            servers.note(answer.status());
            Ok(answer)
        }
        .boxed()
    }
}

/// A TLS stream that tells hyper which protocol was agreed on, and ends when its server is left.
pub(crate) struct Stream {
    io: TokioIo<TlsStream<TcpStream>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let h2 = self.io.inner().get_ref().1.alpn_protocol() == Some(b"h2");
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.poll_unpin(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server cannot serve")));
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
