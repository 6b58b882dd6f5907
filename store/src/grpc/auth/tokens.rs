//! Tokens: what a user shows instead of its password, for as long as it goes on showing it.
//!
//! A token is signed with a secret that all members have, so each accepts what another has issued. It is good for a
//! while after it was issued, and on a member that is shown it, after it was last shown there (etcd's simple tokens live so
//! long after their last use, too).

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use prost::Message;
use sha2::Sha256;

use super::users::Users;
use crate::grpc::proto::userspb::Token;

/// How long a token is good without being shown. etcd's default.
pub(crate) const TTL: Duration = Duration::from_secs(300);

/// How far the clock of another member may be ahead of this one's.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Most tokens whose use is remembered. One that is not is good only for a while after it was issued.
const MAX_REMEMBERED: usize = 10_000;

/// A moment, as a member sees it.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// For what it remembers itself.
    instant: Instant,
    /// For what another has written down.
    since_1970: Duration,
}

impl Now {
    /// By the clocks of this machine.
    pub(super) fn read() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), since_1970 }
    }
}

/// A new token for this user, by what is known of it. The nonce tells it from others.
pub(super) fn issue(users: &Users, user: &str, now: Now, nonce: u64) -> String {
    let issued = now.since_1970.as_secs();
    let token = Token { user: user.to_owned(), revision: users.revision, issued, nonce };
    let claims = token.encode_to_vec();
    let signature = signer(users, &claims).finalize().into_bytes();
    format!("{}.{}", hex::encode(claims), hex::encode(signature))
}

fn signer(users: &Users, claims: &[u8]) -> Hmac<Sha256> {
    let mut signer = Hmac::<Sha256>::new_from_slice(&users.secret).expect("invariant: a key may have any length");
    signer.update(claims);
    signer
}

/// What a token says, if it was issued here or by another member and what it says still holds.
fn claims(users: &Users, token: &str) -> Option<Token> {
    let (claims, signature) = token.split_once('.')?;
    let (claims, signature) = (hex::decode(claims).ok()?, hex::decode(signature).ok()?);
    signer(users, &claims).verify_slice(&signature).ok()?;
    let token = Token::decode(&claims[..]).ok()?;
    (users.user(&token.user)?.since <= token.revision).then_some(token)
}

/// The tokens that were shown to this member.
pub(super) struct Shown {
    ttl: Duration,
    last: Mutex<HashMap<String, Instant>>,
}

impl Shown {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, last: Mutex::default() }
    }

    /// Whose token it is, if it is good.
    pub(super) fn whose(&self, users: &Users, token: &str, now: Now) -> Option<String> {
        let claims = claims(users, token)?;
        let issued = Duration::from_secs(claims.issued);
        let is_recent = |last: &Instant| now.instant.duration_since(*last) < self.ttl;
        let mut shown = self.last.lock();
        let fresh = now.since_1970 < issued + self.ttl && issued < now.since_1970 + CLOCK_SKEW;
        let used = shown.get(token).is_some_and(is_recent);
        if !fresh && !used {
            shown.remove(token);
            return None;
        }
        if shown.len() >= MAX_REMEMBERED {
            shown.retain(|_, last| is_recent(last));
        }
        if used || shown.len() < MAX_REMEMBERED {
            shown.insert(token.to_owned(), now.instant);
        }
        Some(claims.user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::auth::users::{Change, ROOT};

    fn users() -> Users {
        let mut users = Users::default();
        let (root, password) = (|| ROOT.to_owned(), || "hash".to_owned());
        for change in [
            Change::AddUser { name: root(), password: password() },
            Change::GrantRole { user: root(), role: root() },
            Change::AddUser { name: "ann".to_owned(), password: password() },
            Change::Enable { secret: "secret".into() },
        ] {
            assert!(users.apply(change).unwrap());
        }
        users
    }

    fn after(start: Now, by: Duration) -> Now {
        Now { instant: start.instant + by, since_1970: start.since_1970 + by }
    }

    #[test]
    fn a_token_lives_while_it_is_shown() {
        let (users, start) = (users(), Now::read());
        let token = issue(&users, "ann", start, 1);
        let (here, elsewhere) = (Shown::new(TTL), Shown::new(TTL));
        let (minute, whose) = (Duration::from_secs(60), Some("ann".to_owned()));
        assert_eq!(here.whose(&users, &token, after(start, 4 * minute)), whose);
        assert_eq!(here.whose(&users, &token, after(start, 8 * minute)), whose, "it was shown four minutes ago");
        assert_eq!(elsewhere.whose(&users, &token, after(start, 8 * minute)), None, "there it was not");
        assert_eq!(here.whose(&users, &token, after(start, 14 * minute)), None, "nor six minutes ago");
        assert_eq!(here.whose(&users, &token, after(start, 14 * minute)), None, "and being refused is no use");
    }

    #[test]
    fn a_token_is_what_was_signed() {
        let (users, now) = (users(), Now::read());
        let token = issue(&users, "ann", now, 1);
        let forged = issue(&users, ROOT, now, 1);
        let (claims, _) = forged.split_once('.').unwrap();
        let (_, signature) = token.split_once('.').unwrap();
        let shown = Shown::new(TTL);
        for no in
            [format!("{claims}.{signature}"), format!("{claims}."), claims.to_owned(), "äö.1".to_owned(), String::new()]
        {
            assert_eq!(shown.whose(&users, &no, now), None, "{no}");
        }
        let mut again = users.clone();
        assert!(
            again.apply(Change::Disable).unwrap() && again.apply(Change::Enable { secret: "other".into() }).unwrap()
        );
        assert_eq!(shown.whose(&again, &token, now), None, "it was signed with another secret");
    }

    #[test]
    fn a_token_goes_with_its_user_and_password() {
        let (users, now) = (users(), Now::read());
        let (shown, token) = (Shown::new(TTL), issue(&users, "ann", now, 1));
        let (name, password) = ("ann".to_owned(), "other".to_owned());
        let mut granted = users.clone();
        granted.apply(Change::GrantRole { user: name.clone(), role: ROOT.to_owned() }).unwrap();
        assert!(shown.whose(&granted, &token, now).is_some(), "a role changes nothing");
        let mut changed = users.clone();
        changed.apply(Change::SetPassword { name: name.clone(), password: password.clone() }).unwrap();
        assert_eq!(shown.whose(&changed, &token, now), None);
        let mut made_again = users;
        made_again.apply(Change::DeleteUser { name: name.clone() }).unwrap();
        assert_eq!(shown.whose(&made_again, &token, now), None);
        made_again.apply(Change::AddUser { name, password }).unwrap();
        assert_eq!(shown.whose(&made_again, &token, now), None, "it is another ann");
    }
}
