//! Lets requests through: each, while authentication is not enabled; else those whose caller may do what they ask.
//!
//! What the users are is asked of the store for each request, as linearizable as the request is: so what was taken away from
//! a user by an answered request is gone on every member. What is cached is only how they read, and that nobody need be asked
//! for: a member hears from the store when that ends, as soon as it has applied it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tonic::{Request, Status};

use super::caller::Caller;
use super::needs::{Need, Needs};
use super::permissions::Spans;
use super::tokens::Shown;
use super::users::{Change, ROOT, User, Users};
use crate::backend::Error;
use crate::grpc::proto::authpb::permission::Type;
use crate::grpc::{Api, answered, closed, fault};
use crate::kv::{Compare, CompareTarget, Event, Op, Range, Revision, Txn, WatchFrom};

/// The key under which they are kept. No request of etcd's API can name it: the first key there is a zero byte.
const KEPT: Bytes = Bytes::new();

/// Tries to change what others change at the same time.
const TRIES: usize = 16;

/// How long the store is left alone that could not be asked.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Who is let through. It begins without knowing, and asks.
pub(crate) struct Gate {
    /// Known to be open to everybody.
    open: AtomicBool,
    /// As of which revision that is known.
    known: Mutex<Revision>,
    /// The users as they were read last, and as of which revision of their key.
    read: Mutex<Option<(Revision, Arc<Users>)>>,
    pub(super) shown: Shown,
}

impl Gate {
    pub(crate) fn new(token_ttl: Duration) -> Self {
        let (open, known, read) = (AtomicBool::new(false), Mutex::new(0), Mutex::new(None));
        Self { open, known, read, shown: Shown::new(token_ttl) }
    }

    /// Whether nobody need be asked who it is.
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Takes in what the users are as of a revision, unless something newer is known.
    fn learn(&self, revision: Revision, users: &Users) {
        let mut known = self.known.lock();
        if revision >= *known {
            *known = revision;
            self.open.store(!users.enabled, Ordering::Release);
        }
    }

    /// What is known may be out of date.
    fn doubt(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// What the users read, at this revision of their key.
    fn read(&self, revision: Revision, kept: Bytes) -> Result<Arc<Users>, Status> {
        let mut read = self.read.lock();
        if let Some((_, users)) = read.as_ref().filter(|(at, _)| *at == revision) {
            return Ok(users.clone());
        }
        let users = Arc::new(decoded(kept)?);
        *read = Some((revision, users.clone()));
        Ok(users)
    }
}

fn decoded(kept: Bytes) -> Result<Users, Status> {
    Users::decode(kept).map_err(|error| Status::data_loss(format!("etcdserver: users and roles are corrupt: {error}")))
}

impl Api {
    /// What a request says, if whoever asks it may.
    pub(crate) async fn admitted<T: Needs>(&self, request: Request<T>) -> Result<T, Status> {
        if self.gate.is_open() {
            return Ok(request.into_inner());
        }
        let caller = Caller::of(&request);
        let request = request.into_inner();
        self.admit(&caller, &request).await?;
        Ok(request)
    }

    /// Refuses a request that its caller may not ask.
    pub(crate) async fn admit(&self, caller: &Caller, request: &impl Needs) -> Result<(), Status> {
        let needs = request.needs();
        if self.gate.is_open() || needs.is_empty() {
            return Ok(());
        }
        let (_, users) = self.users(request.serializable()).await?;
        if !users.enabled {
            return Ok(());
        }
        let name = caller.user(&users, &self.gate.shown)?;
        let asker = Asker::new(name, &users);
        for need in needs {
            self.meet(&asker, need).await?;
        }
        Ok(())
    }

    async fn meet(&self, asker: &Asker<'_>, need: Need) -> Result<(), Status> {
        match need {
            Need::Known => asker.is_known(),
            Need::Root => asker.is_root(),
            Need::User(name) if asker.name.as_ref() == Some(&name) => Ok(()),
            Need::Holder(role) if asker.has(&role) => Ok(()),
            Need::User(_) | Need::Holder(_) => asker.is_root(),
            Need::Read(key, end) => asker.may(Type::Read, &key, &end),
            Need::Write(key, end) => asker.may(Type::Write, &key, &end),
            // What a lease has need not be asked for a root.
            Need::ReadLease(_) | Need::ReadLeases | Need::WriteLease(_) if asker.has(ROOT) => Ok(()),
            Need::ReadLease(lease) => self.may_with_keys(asker, Type::Read, lease).await,
            Need::WriteLease(lease) => self.may_with_keys(asker, Type::Write, lease).await,
            Need::ReadLeases => {
                for lease in answered(self.backend.leases().await)? {
                    self.may_with_keys(asker, Type::Read, lease).await?;
                }
                Ok(())
            }
        }
    }

    async fn may_with_keys(&self, asker: &Asker<'_>, access: Type, lease: i64) -> Result<(), Status> {
        let keys = match self.backend.lease(lease).await {
            Err(Error::LeaseNotFound(_)) => Vec::new(),
            lease => answered(lease)?.keys,
        };
        keys.iter().try_for_each(|key| asker.may(access, key, &[]))
    }

    /// The users, and the revision of what is kept of them; 0 for nothing.
    pub(super) async fn users(&self, serializable: bool) -> Result<(Revision, Arc<Users>), Status> {
        let reply = answered(self.backend.range(Range { serializable, ..Range::key(KEPT) }).await)?;
        Ok(match reply.entries.into_iter().next() {
            Some(kept) => (kept.mod_revision, self.gate.read(kept.mod_revision, kept.value)?),
            None => (0, Arc::default()),
        })
    }

    /// Changes the users; all members know it when it is answered.
    pub(super) async fn change_users(&self, change: Change) -> Result<(), Status> {
        for _ in 0..TRIES {
            let (revision, before) = self.users(false).await?;
            let mut users = Users::clone(&before);
            if !users.apply(change.clone())? {
                return Ok(());
            }
            let put = Op::Put { key: KEPT, value: users.encode(), lease: 0 };
            let unchanged = Compare::equal(KEPT, CompareTarget::ModRevision(revision));
            let txn = Txn { compare: vec![unchanged], success: vec![put], failure: Vec::new() };
            let reply = answered(self.backend.txn(txn).await)?;
            if reply.succeeded {
                self.gate.learn(reply.revision, &users);
                return Ok(());
            }
        }
        Err(fault::too_many_requests())
    }

    /// Keeps the gate told whether it is open, until the server closes.
    pub(crate) async fn attend_gate(self: Arc<Self>) {
        let mut closing = std::pin::pin!(closed(self.closing.subscribe()));
        loop {
            let attended = tokio::select! {
                attended = self.hear_of_users() => attended,
                () = &mut closing => return,
            };
            self.gate.doubt();
            if let Err(error) = attended {
                tracing::debug!(%error, "the store cannot be asked for its users; it is asked for each request");
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = &mut closing => return,
            }
        }
    }

    /// Follows the users for as long as the store tells of them.
    async fn hear_of_users(&self) -> Result<(), Status> {
        let reply = answered(self.backend.range(Range::key(KEPT)).await)?;
        let from = WatchFrom::Revision(reply.revision + 1);
        let mut changes = answered(self.backend.watch(KEPT, Bytes::new(), from).await)?;
        let users = reply.entries.into_iter().next().map_or(Ok(Users::default()), |kept| decoded(kept.value))?;
        self.gate.learn(reply.revision, &users);
        while let Some(batch) = changes.next().await {
            for event in answered(batch)?.events {
                if let Event::Put { entry, .. } = event {
                    self.gate.learn(entry.mod_revision, &decoded(entry.value)?);
                }
            }
        }
        Ok(())
    }
}

/// Who asks, and what may be asked by it.
struct Asker<'a> {
    name: Option<String>,
    user: Option<&'a User>,
    users: &'a Users,
    reads: OnceLock<Spans>,
    writes: OnceLock<Spans>,
}

impl<'a> Asker<'a> {
    fn new(name: Option<String>, users: &'a Users) -> Self {
        let user = name.as_ref().and_then(|name| users.user(name));
        Self { name, user, users, reads: OnceLock::new(), writes: OnceLock::new() }
    }

    fn has(&self, role: &str) -> bool {
        self.user.is_some_and(|user| user.roles.contains(role))
    }

    fn is_known(&self) -> Result<(), Status> {
        if self.name.is_some() { Ok(()) } else { Err(fault::user_empty()) }
    }

    fn is_root(&self) -> Result<(), Status> {
        self.is_known()?;
        match self.user {
            None => Err(fault::user_not_found()),
            Some(_) if self.has(ROOT) => Ok(()),
            Some(_) => Err(fault::permission_denied()),
        }
    }

    fn may(&self, access: Type, key: &[u8], end: &[u8]) -> Result<(), Status> {
        self.is_known()?;
        let user = self.user.ok_or_else(fault::permission_denied)?;
        let spans = if access == Type::Write { &self.writes } else { &self.reads };
        let may = self.has(ROOT) || spans.get_or_init(|| self.users.spans(user, access)).cover(key, end);
        if may { Ok(()) } else { Err(fault::permission_denied()) }
    }
}
