//! A connection whose answers leave whole.
//!
//! An answer of gRPC's is headers, a message and trailers. The HTTP/2 library copies small messages into one buffer with what
//! stands around them; one of more than 256 bytes it hands on beside its head and flushes, before it looks at the trailers.
//! That makes two TLS records, two calls of the kernel and two wake-ups of the client of one answer. Here the flush after such
//! a message is put off until what follows it is there, or else until the connection's next turn, which is asked for at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Most bytes that are held back: as much as a TLS record holds.
const MOST: usize = 16 << 10;

/// See the module.
pub(super) struct Corked<S> {
    stream: S,
    held: BytesMut,
    /// What was written last is a message that something follows.
    more: bool,
    /// A flush was put off.
    owed: bool,
}

impl<S> Corked<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, held: BytesMut::new(), more: false, owed: false }
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    fn uncork(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        self.owed = false;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A connection's turn begins with reading. If there is no room yet, writing wakes it.
        if self.owed
            && let Poll::Ready(done) = self.uncork(cx)
        {
            done?;
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.held.len() + bytes > MOST {
            ready!(self.uncork(cx))?;
            if bytes > MOST {
                self.more = false;
                return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
            }
        }
        slices.iter().for_each(|slice| self.held.extend_from_slice(slice));
        self.more = slices.iter().filter(|slice| !slice.is_empty()).count() > 1;
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.more) {
            self.owed = true;
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        self.uncork(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.uncork(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Corked<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// What was written, by calls.
    #[derive(Default)]
    struct Wire(Vec<Vec<u8>>);

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            self.poll_write(cx, &bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection, and the calls that are made of it.
    struct Scene {
        corked: Corked<Wire>,
        wakes: Arc<Wakes>,
        waker: Waker,
    }

    impl Scene {
        fn new() -> Self {
            let wakes = Arc::new(Wakes::default());
            Self { corked: Corked::new(Wire::default()), waker: wakes.clone().into(), wakes }
        }

        fn write(&mut self, slices: &[&[u8]]) {
            let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
            let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let mut cx = Context::from_waker(&self.waker);
            let written = Pin::new(&mut self.corked).poll_write_vectored(&mut cx, &slices);
            assert!(matches!(written, Poll::Ready(Ok(all)) if all == bytes));
            assert!(matches!(Pin::new(&mut self.corked).poll_flush(&mut cx), Poll::Ready(Ok(()))));
        }

        fn read(&mut self) {
            let (mut bytes, mut cx) = ([0; 8], Context::from_waker(&self.waker));
            assert!(Pin::new(&mut self.corked).poll_read(&mut cx, &mut ReadBuf::new(&mut bytes)).is_pending());
        }

        fn wire(&self) -> Vec<&[u8]> {
            self.corked.stream.0.iter().map(Vec::as_slice).collect()
        }
    }

    #[test]
    fn an_answer_with_a_large_message_is_one_write() {
        let mut scene = Scene::new();
        scene.write(&[b"head", b"message"]);
        assert!(scene.wire().is_empty());
        scene.write(&[b"trailers"]);
        assert_eq!(scene.wire(), [b"headmessagetrailers"]);
        scene.read();
        scene.write(&[b"small"]);
        assert_eq!(scene.wire(), [&b"headmessagetrailers"[..], b"small"], "at once: nothing follows");
    }

    #[test]
    fn a_message_that_nothing_follows_leaves_at_the_next_turn() {
        let mut scene = Scene::new();
        scene.write(&[b"head", b"event"]);
        assert_eq!(scene.wakes.0.load(Ordering::Relaxed), 1, "there will be one");
        scene.read();
        assert_eq!(scene.wire(), [b"headevent"]);
    }

    #[test]
    fn what_does_not_fit_is_not_held_back() {
        let (mut scene, large) = (Scene::new(), vec![b'x'; MOST]);
        scene.write(&[b"head", b"event"]);
        scene.write(&[b"head", &large]);
        assert_eq!(scene.wire().concat().len(), 4 + 5 + 4 + MOST);
    }
}
