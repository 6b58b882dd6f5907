//! What a backup promises.

use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::kv::{Op, Txn};
use crate::{Embedded, Memory, Options};

const ALL: Bytes = Bytes::from_static(&[0]);

async fn write(store: &dyn Backend, key: &str, value: &[u8], lease: i64) {
    let put = Op::Put { key: key.to_owned().into(), value: value.to_vec().into(), lease };
    store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
}

async fn filled(keys: usize) -> Memory {
    let store = Memory::new();
    let lease = store.grant(60).await.unwrap();
    for key in 0..keys {
        write(&store, &format!("/registry/key-{key:05}"), &vec![7; 997], if key % 10 == 0 { lease } else { 0 }).await;
    }
    store
}

fn source(store: &Memory, page: usize) -> Source {
    let attachments = vec![("ca.crt".to_owned(), "authority".to_owned())];
    Source { backend: Arc::new(store.clone()), start: Bytes::from_static(&[0]), end: ALL, page, attachments, time: 17 }
}

async fn backup(store: &Memory, page: usize) -> Vec<u8> {
    let blocks: Vec<_> = stream(source(store, page)).try_collect().await.unwrap();
    blocks.concat()
}

fn read(bytes: &[u8]) -> Result<(Head, Vec<Item>), Error> {
    let mut reader = Reader::new();
    let mut items = Vec::new();
    for piece in bytes.chunks(1000) {
        reader.feed(piece);
        while let Some(item) = reader.take_item()? {
            items.push(item);
        }
    }
    Ok((reader.finish()?, items))
}

fn entries(items: Vec<Item>) -> Vec<Entry> {
    items.into_iter().filter_map(|item| if let Item::Entry(entry) = item { Some(entry) } else { None }).collect()
}

async fn held(store: &dyn Backend) -> Vec<Entry> {
    store.range(Range { start: Bytes::from_static(&[0]), end: ALL, ..Range::default() }).await.unwrap().entries
}

#[tokio::test]
async fn what_was_written_is_read_again_at_once_or_in_pages() {
    let store = filled(1_000).await;
    for page in [0, 300] {
        let (head, items) = read(&backup(&store, page).await).unwrap();
        assert_eq!(head, Head { revision: 1_001, time: 17, entries: 1_000 });
        assert_eq!(items[0], Item::Attachment { name: "ca.crt".into(), content: "authority".into() });
        assert_eq!(entries(items), held(&store).await);
    }
}

#[tokio::test]
async fn entries_are_of_one_revision_whatever_is_written_meanwhile() {
    let store = filled(1_000).await;
    let before = held(&store).await;
    for page in [0, 100] {
        let mut blocks = Box::pin(stream(source(&store, page)));
        let mut bytes = blocks.next().await.unwrap().unwrap().to_vec();
        let mut round = 0;
        while let Some(block) = blocks.next().await {
            bytes.extend_from_slice(&block.unwrap());
            write(&store, "/registry/key-00999", &[round], 0).await;
            write(&store, &format!("/registry/key-0050{round}"), &[round], 0).await;
            round += 1;
        }
        assert!(round > 2, "the backup was made in one piece");
        let (head, items) = read(&bytes).unwrap();
        if page == 0 {
            assert_eq!(entries(items), before);
        } else {
            let read = store.range(Range {
                revision: head.revision,
                start: Bytes::from_static(&[0]),
                end: ALL,
                ..Range::default()
            });
            assert_eq!(entries(items), read.await.unwrap().entries);
        }
    }
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found() {
    let whole = backup(&filled(600).await, 0).await;
    assert!(whole.len() > 2 * BLOCK);
    let places = (0..60).chain((60..whole.len() - 60).step_by(20_011)).chain(whole.len() - 60..whole.len());
    for place in places {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        assert!(read(&flipped).is_err(), "a bit of byte {place}");
        assert!(read(&whole[..place]).is_err(), "cut at {place}");
    }
    assert!(read(&[&whole[..], &[0]].concat()).is_err(), "longer");
    assert!(matches!(read(b"#!/bin/sh\necho hello world"), Err(Error::Foreign)));
    assert!(matches!(read(b""), Err(Error::Cut { offset: 0 })));
}

#[tokio::test]
async fn a_file_is_there_whole_or_not_at_all() {
    use std::os::unix::fs::PermissionsExt as _;
    let (store, dir) = (filled(600).await, tempfile::tempdir().unwrap());
    let path = dir.path().join("a.backup");
    let broken = stream(source(&store, 0)).take(2);
    let error = save(&path, broken, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    let mut told = Vec::new();
    let written = save(&path, stream(source(&store, 0)), |written| told.push(written.entries)).await.unwrap();
    assert_eq!((written.entries, written.head.unwrap().entries), (600, 600));
    assert!(told.is_sorted() && told.len() > 2, "{told:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(read(&std::fs::read(&path).unwrap()).is_ok());
}

#[tokio::test]
async fn a_seeded_store_has_the_same_entries_and_goes_on_far_above() {
    let store = filled(1_000).await;
    let (head, items) = read(&backup(&store, 0).await).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let planted = || entries(items.clone()).into_iter().map(Ok::<_, backend::Error>);
    seed(dir.path(), head.revision, planted()).unwrap();
    let again = seed(dir.path(), head.revision, planted());
    assert!(matches!(again, Err(backend::Error::Unavailable { .. } | backend::Error::Corrupt { .. })), "{again:?}");
    for _ in 0..2 {
        let restored = Embedded::open(dir.path(), Options::default()).unwrap();
        assert_eq!(held(&restored).await[..999], held(&store).await[..999]);
        let status = restored.status().await.unwrap();
        assert!(status.revision >= 1_001 + BUMP && status.compacted >= 1_001 + BUMP, "{status:?}");
        write(&restored, "/registry/key-00999", b"new", 0).await;
        assert!(restored.status().await.unwrap().revision > status.revision);
        assert_eq!(restored.keep_alive(1).await.unwrap(), LEASE_SECONDS);
        restored.close().await;
    }
}

#[tokio::test]
async fn a_refilled_store_has_the_same_values_and_a_higher_revision() {
    let store = filled(1_000).await;
    let (head, items) = read(&backup(&store, 0).await).unwrap();
    let other = Memory::new();
    let mut refill = Refill::new(&other);
    for entry in entries(items) {
        refill.put(entry).await.unwrap();
    }
    let mut told = 0;
    let reached = refill.finish(b"/registry/filler", head.revision, |revision| told = revision).await.unwrap();
    assert!(reached > head.revision && told == reached);
    let (mut is, was) = (held(&other).await, held(&store).await);
    is.retain(|entry| entry.key != "/registry/filler");
    let short = |entries: Vec<Entry>| entries.into_iter().map(|e| (e.key, e.value, e.lease != 0)).collect::<Vec<_>>();
    assert_eq!(short(is), short(was));
    assert_eq!(other.status().await.unwrap().compacted, reached);
}
