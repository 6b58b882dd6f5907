//! Passwords, hashed with bcrypt as etcd's are: slowly, on threads that nobody else waits for, and few at once.

use tokio::sync::Semaphore;
use tonic::Status;

use crate::grpc::fault;

/// Hashes made at once; others wait.
const AT_ONCE: usize = 2;

/// How slow a hash is: two to the power of this rounds, some 50 ms. etcd's default.
const COST: u32 = 10;

/// What bcrypt looks at, bytes: a longer password is refused, not cut.
const MAX_BYTES: usize = 72;

/// Hashes and compares.
pub(crate) struct Passwords(Semaphore);

impl Default for Passwords {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Passwords {
    /// The hash of a password, never empty.
    pub(super) async fn hash(&self, password: String) -> Result<String, Status> {
        if password.len() > MAX_BYTES {
            return Err(fault::password_too_long());
        }
        self.slowly(move || bcrypt::hash(password, COST)).await
    }

    /// Whether this is the password that was hashed.
    pub(super) async fn verify(&self, password: String, hash: String) -> Result<bool, Status> {
        if password.len() > MAX_BYTES {
            return Ok(false);
        }
        self.slowly(move || bcrypt::verify(password, &hash)).await
    }

    async fn slowly<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> bcrypt::BcryptResult<T> + Send + 'static,
    ) -> Result<T, Status> {
        let _turn = self.0.acquire().await.expect("invariant: it is never closed");
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.map_err(|error| Status::internal(format!("etcdserver: cannot hash a password: {error}")))?;
        done.map_err(|error| Status::internal(format!("etcdserver: cannot hash a password: {error}")))
    }
}
