//! What the operating system sees: the resident set follows the budget, page by page.
#![cfg(target_os = "linux")]

use memwall_store::{
    Advice, Arena, ArenaError, Budget, Extent, Extents, Mapped, ProcessMemory, Ram, Reserved, TensorId, Tier,
    committed_bytes, reset_peak,
};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const MIB: usize = 1 << 20;

/// The figures are of the whole process, so the tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn memory() -> ProcessMemory {
    ProcessMemory::read().unwrap()
}

/// A file of `count` tensors of 8 MiB, every byte 7.
fn weights(folder: &Path, count: usize) -> Extents {
    let path = folder.join("weights");
    let mut file = File::create(&path).unwrap();
    let chunk = vec![7u8; MIB];
    for _ in 0..8 * count {
        file.write_all(&chunk).unwrap();
    }
    let tensor =
        |i| Extent { name: format!("w{i}"), file: 0, offset: (i * 8 * MIB) as u64, bytes: 8 * MIB, checksum: None };
    Extents { files: vec![path], tensors: (0..count).map(tensor).collect() }
}

#[test]
fn touched_memory_shows_in_the_resident_set_and_its_peak() {
    let _turn = turn();
    reset_peak().unwrap();
    let before = memory();
    let block = std::hint::black_box(vec![1u8; 32 * MIB]);
    let with = memory();
    drop(block);
    let after = memory();
    assert!(with.rss_anon - before.rss_anon >= 30 * MIB, "{before:?} {with:?}");
    assert!(after.hwm >= before.rss + 30 * MIB, "{before:?} {after:?}");
    assert!(after.rss + 30 * MIB <= with.rss, "{with:?} {after:?}");
    reset_peak().unwrap();
    assert!(memory().hwm < with.hwm);
}

#[test]
fn the_baseline_is_the_resident_set() {
    let _turn = turn();
    let budget = Budget::unlimited();
    let other = budget.take_baseline().unwrap();
    let rss = memory().rss;
    assert!(other.bytes() > 0 && other.bytes().abs_diff(rss) < MIB, "{} {rss}", other.bytes());
    assert_eq!(Budget::new(1).take_baseline().unwrap_err().kind(), ErrorKind::QuotaExceeded);
}

#[test]
fn a_touched_arena_is_resident_to_the_page_and_gone_when_dropped() {
    let _turn = turn();
    let budget = Budget::unlimited();
    let before = memory().rss_anon;
    let bytes = 64 * MIB + 12_345;
    let mut arena = Arena::new(&budget, "arena", bytes).unwrap();
    assert!(memory().rss_anon - before < MIB, "pages come when they are touched");
    arena.as_mut_slice().fill(1);
    let with = memory().rss_anon;
    assert!((with - before).abs_diff(budget.held()) < MIB, "{} {}", with - before, budget.held());
    drop(arena);
    assert!(memory().rss_anon < before + MIB && budget.held() == 0);
}

#[test]
fn a_refused_arena_allocates_nothing() {
    let _turn = turn();
    let budget = Budget::new(MIB);
    let before = committed_bytes();
    assert!(matches!(Arena::new(&budget, "arena", MIB + 1), Err(ArenaError::Budget(_))));
    assert!(Arena::new(&Budget::unlimited(), "arena", usize::MAX).is_err());
    assert!(matches!(Arena::new(&Budget::unlimited(), "arena", 1 << 60), Err(ArenaError::Os { .. })));
    assert_eq!((committed_bytes(), budget.held()), (before, 0));
}

#[test]
fn shrinking_a_reserved_region_really_frees() {
    let _turn = turn();
    let budget = Budget::unlimited();
    let mut kv = Reserved::new(&budget, "kv", 1, 1 << 30).unwrap();
    kv.resize(0, 64 * MIB).unwrap();
    kv.as_mut_slice()[..64 * MIB].fill(1);
    let full = memory().rss_anon;
    kv.resize(0, 8 * MIB).unwrap();
    let less = memory().rss_anon;
    assert!((full - less).abs_diff(56 * MIB) < MIB, "{full} {less}");
    assert_eq!((budget.held(), committed_bytes()), (8 * MIB, 8 * MIB));
    assert!(kv.as_slice()[..8 * MIB].iter().all(|&b| b == 1), "what stays keeps its contents");
}

#[test]
fn the_peak_of_loading_is_the_weights_themselves() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let extents = weights(folder.path(), 12);
    reset_peak().unwrap();
    let before = memory().rss;
    let budget = Budget::unlimited();
    let ram = Ram::load(&budget, &extents).unwrap();
    let growth = memory().hwm - before;
    assert!(growth as f64 <= 1.05 * extents.bytes() as f64, "{growth}");
    assert_eq!(budget.held(), extents.bytes());
    assert!(ram.get(TensorId(11)).unwrap().iter().all(|&b| b == 7));
}

#[test]
fn mapped_pages_are_resident_when_touched_and_leave_when_released() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let extents = weights(folder.path(), 2);
    let before = memory().rss_file;
    let budget = Budget::unlimited();
    let tier = Mapped::open(&budget, extents, Advice::Normal).unwrap();
    let sum = |i| tier.get(TensorId(i)).unwrap().iter().map(|&b| u64::from(b)).sum::<u64>();
    assert_eq!(sum(1), 7 * 8 * MIB as u64);
    assert!(tier.counters().bytes_mapped < 10 * MIB as u64, "a tensor that nobody asked for costs nothing");
    assert_eq!(sum(0), 7 * 8 * MIB as u64);
    assert_eq!(tier.counters().bytes_mapped, 16 * MIB as u64);
    assert!((memory().rss_file - before).abs_diff(budget.held()) < MIB);
    tier.release(TensorId(0)).unwrap();
    tier.release(TensorId(1)).unwrap();
    assert_eq!(tier.counters().bytes_mapped, 0);
    assert_eq!(sum(0), 7 * 8 * MIB as u64, "a released page comes back with the same bytes");
}
