//! The laws that every [`Tier`] keeps, built-in or a user's: call [`tier`] in a test.

use crate::budget::{Budget, BudgetReport};
use crate::tier::{Extent, Extents, TensorId, Tier, TierError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Makes the tier under test from files and a budget.
pub type MakeTier<'a> = &'a dyn Fn(&Extents, &Budget) -> Result<Arc<dyn Tier>, TierError>;

/// Runs every law on files of its own in the system's folder for temporary files.
///
/// # Panics
/// With the law that does not hold.
pub fn tier(make: MakeTier<'_>) {
    output_does_not_depend_on_the_tier(make);
    threads_and_prefetching_change_nothing(make);
    counted_bytes_are_those_of_the_operating_system(make);
    a_truncated_file_is_an_error_before_use(make);
    a_changed_file_is_an_error_or_still_right(make);
    a_wrong_checksum_is_an_error(make);
    bad_extents_and_ids_are_errors(make);
    the_budget_is_kept_and_given_back(make);
}

/// Two files of tensors of awkward sizes and places, and what they hold.
struct Sample {
    folder: tempfile::TempDir,
    extents: Extents,
    contents: Vec<Vec<u8>>,
}

/// File, offset, bytes: neighbours, gaps, pages shared, an empty one, several pages.
const PLACES: [(usize, u64, usize); 8] = [
    (0, 0, 1),
    (0, 1, 63),
    (0, 64, 0),
    (0, 100, 40_000),
    (1, 4096, 8192),
    (1, 12_288, 4097),
    (1, 300_001, 70_001),
    (0, 65_536, 131_072),
];

impl Sample {
    fn new() -> Sample {
        let folder = tempfile::tempdir().expect("the law needs a folder for temporary files");
        let files: Vec<PathBuf> = (0..2).map(|i| folder.path().join(format!("weights-{i}"))).collect();
        let bytes: Vec<Vec<u8>> =
            [200_000usize, 400_000].iter().enumerate().map(|(i, &n)| noise(i as u64, n)).collect();
        for (path, bytes) in files.iter().zip(&bytes) {
            std::fs::write(path, bytes).expect("the law writes its sample");
        }
        let contents: Vec<Vec<u8>> =
            PLACES.iter().map(|&(file, at, n)| bytes[file][at as usize..at as usize + n].to_vec()).collect();
        let tensors = PLACES
            .iter()
            .zip(&contents)
            .enumerate()
            .map(|(i, (&(file, offset, bytes), content))| Extent {
                name: format!("layer.{i}.weight"),
                file,
                offset,
                bytes,
                checksum: (i % 2 == 1).then(|| crc32fast::hash(content)),
            })
            .collect();
        Sample { folder, extents: Extents { files, tensors }, contents }
    }

    fn make(&self, make: MakeTier<'_>) -> Arc<dyn Tier> {
        make(&self.extents, &Budget::unlimited()).expect("a tier of good files")
    }

    fn edit(&self, file: usize, change: impl FnOnce(&File)) {
        let path = &self.extents.files[file];
        let file = File::options().write(true).open(path).expect("the law opens its sample");
        change(&file);
        // A fast machine changes the file within one tick of its clock.
        file.set_modified(SystemTime::now() + Duration::from_secs(10)).expect("the law sets a time");
    }
}

/// Bytes without a pattern, the same each time.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn output_does_not_depend_on_the_tier(make: MakeTier<'_>) {
    let sample = Sample::new();
    let tier = sample.make(make);
    assert_eq!(tier.tensors(), PLACES.len(), "law: a tier has the tensors it was made from");
    for round in 0..2 {
        for i in (0..PLACES.len()).rev() {
            let guard = tier.get(TensorId(i)).expect("a tensor of a good file");
            assert!(*guard == sample.contents[i], "law: tensor {i} has the bytes of its file (round {round})");
        }
    }
    let guard = tier.get(TensorId(3)).expect("a tensor of a good file");
    let clone = guard.clone();
    drop((guard, tier));
    assert!(*clone == sample.contents[3], "law: a guard keeps its bytes when the tier is gone");
}

fn threads_and_prefetching_change_nothing(make: MakeTier<'_>) {
    let sample = Sample::new();
    let tier = sample.make(make);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (tier, sample) = (&tier, &sample);
            scope.spawn(move || {
                for i in 0..4 * PLACES.len() {
                    let (this, next) = ((i + thread) % PLACES.len(), (i + thread + 1) % PLACES.len());
                    tier.prefetch(TensorId(next)).expect("law: a known tensor can be prefetched");
                    let guard = tier.get(TensorId(this)).expect("a tensor of a good file");
                    assert!(*guard == sample.contents[this], "law: threads read the bytes of the file");
                }
            });
        }
    });
    assert_eq!(tier.counters().gets, 16 * PLACES.len() as u64, "law: every get is counted");
}

/// Bytes that read calls of this thread have returned so far, and how many the question itself will add to that.
fn bytes_by_read_calls() -> Option<(u64, u64)> {
    let io = std::fs::read_to_string("/proc/thread-self/io").ok()?;
    let rchar = io.lines().find_map(|line| line.strip_prefix("rchar:"))?.trim().parse().ok()?;
    Some((rchar, io.len() as u64))
}

/// Resident bytes of mappings of a file, looked up by its name.
fn resident_by_name(sample: &Sample) -> Option<u64> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let folder = sample.folder.path().to_str()?;
    let mut inside = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        if line.contains('/') || line.split(' ').next().is_some_and(|first| first.contains('-')) {
            inside = line.contains(folder);
        } else if inside && let Some(kib) = line.strip_prefix("Rss:") {
            bytes += 1024 * kib.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?;
        }
    }
    Some(bytes)
}

fn counted_bytes_are_those_of_the_operating_system(make: MakeTier<'_>) {
    let sample = Sample::new();
    let budget = Budget::unlimited();
    let before = bytes_by_read_calls();
    let tier = make(&sample.extents, &budget).expect("a tier of good files");
    for i in 0..PLACES.len() {
        let guard = tier.get(TensorId(i)).expect("a tensor of a good file");
        assert!(*guard == sample.contents[i]);
    }
    let after = bytes_by_read_calls();
    let counters = tier.counters();
    if let (Some((before, question)), Some((after, _))) = (before, after) {
        let read = after - before - question;
        assert_eq!(counters.bytes_read, read, "law: bytes read are those of the system's read calls");
    }
    if let Some(resident) = resident_by_name(&sample) {
        assert_eq!(counters.bytes_mapped, resident, "law: mapped bytes are the system's resident pages");
    }
    assert!(counters.bytes_mapped <= budget.held() as u64, "law: the budget holds at least what is resident");
    let all: u64 = sample.contents.iter().map(|c| c.len() as u64).sum();
    let moved = counters.bytes_read + counters.bytes_mapped;
    let known = cfg!(target_os = "linux");
    assert!(!known || moved >= all, "law: {all} bytes cannot come from {moved} bytes read or mapped");
}

fn a_truncated_file_is_an_error_before_use(make: MakeTier<'_>) {
    let sample = Sample::new();
    for len in [0, 1, 5000, 65_536, 131_072 + 65_535] {
        let sample = Sample::new();
        sample.edit(0, |file| file.set_len(len).expect("the law truncates its sample"));
        let error =
            make(&sample.extents, &Budget::unlimited()).err().expect("law: a truncated file is refused at opening");
        let shown = error.to_string();
        assert!(shown.contains("weights-0") && shown.contains("layer."), "law: {shown} names file and tensor");
    }
    let tier = sample.make(make);
    sample.edit(1, |file| file.set_len(5000).expect("the law truncates its sample"));
    for i in 0..PLACES.len() {
        if let Ok(guard) = tier.get(TensorId(i)) {
            assert!(
                *guard == sample.contents[i],
                "law: a file truncated after opening gives an error or the right bytes"
            );
        }
    }
}

fn a_changed_file_is_an_error_or_still_right(make: MakeTier<'_>) {
    let sample = Sample::new();
    let tier = sample.make(make);
    sample.edit(0, |file| file.write_all_at(&[0; 4096], 70_000).expect("the law changes its sample"));
    for i in 0..PLACES.len() {
        if let Ok(guard) = tier.get(TensorId(i)) {
            assert!(
                *guard == sample.contents[i],
                "law: a file changed after opening gives an error or the right bytes"
            );
        }
    }
}

fn a_wrong_checksum_is_an_error(make: MakeTier<'_>) {
    let sample = Sample::new();
    let (file, at, bytes) = PLACES[3];
    assert!(sample.extents.tensors[3].checksum.is_some());
    let flipped = sample.contents[3][bytes - 1] ^ 1;
    sample.edit(file, |file| file.write_all_at(&[flipped], at + bytes as u64 - 1).expect("the law flips a bit"));
    let error = match make(&sample.extents, &Budget::unlimited()) {
        Err(error) => error,
        Ok(tier) => {
            for _ in 0..2 {
                let error = tier.get(TensorId(3)).expect_err("law: a wrong checksum is an error, each time");
                assert!(matches!(error, TierError::Checksum { .. }), "{error}");
            }
            tier.get(TensorId(3)).expect_err("law: a wrong checksum is an error")
        }
    };
    let shown = error.to_string();
    assert!(shown.contains("layer.3.weight") && shown.contains("weights-0"), "law: {shown} names file and tensor");
}

fn bad_extents_and_ids_are_errors(make: MakeTier<'_>) {
    let sample = Sample::new();
    let tier = sample.make(make);
    for id in [PLACES.len(), usize::MAX] {
        assert!(tier.get(TensorId(id)).is_err() && tier.prefetch(TensorId(id)).is_err(), "law: unknown ids are errors");
    }
    let refused = |change: &dyn Fn(&mut Extents)| {
        let mut extents = sample.extents.clone();
        change(&mut extents);
        make(&extents, &Budget::unlimited()).err().expect("law: bad extents are refused").to_string()
    };
    assert!(refused(&|e| e.tensors[5].file = 2).contains("layer.5.weight"));
    assert!(refused(&|e| e.tensors[6].offset = u64::MAX - 5).contains("layer.6.weight"));
    assert!(refused(&|e| e.tensors[6].bytes = usize::MAX).contains("layer.6.weight"));
    assert!(refused(&|e| e.files[1] = sample.folder.path().join("missing")).contains("missing"));
    assert!(
        refused(&|e| e.files[1] = sample.folder.path().to_path_buf())
            .contains(&*sample.folder.path().to_string_lossy())
    );
}

fn the_budget_is_kept_and_given_back(make: MakeTier<'_>) {
    let sample = Sample::new();
    let budget = Budget::unlimited();
    let tier = make(&sample.extents, &budget).expect("a tier of good files");
    let needed = budget.held();
    assert!(needed >= sample.extents.bytes(), "law: weights are taken from the budget");
    let weights = |report: BudgetReport| report.accounts.iter().find(|a| a.name == "weights").map_or(0, |a| a.bytes);
    assert_eq!(weights(budget.report()), needed, "law: weights at rest are in the account `weights`");
    let guard = tier.get(TensorId(7)).expect("a tensor of a good file");
    drop(tier);
    assert!(budget.held() >= guard.len(), "law: what a guard keeps in memory stays counted");
    drop(guard);
    assert_eq!(budget.held(), 0, "law: a dropped tier gives everything back");

    let small = Budget::new(needed - 1);
    match make(&sample.extents, &small) {
        Err(TierError::Budget(error)) => assert_eq!(error.minimum, needed, "law: a refusal says what would work"),
        Err(other) => panic!("law: a budget without room is refused as such, not with: {other}"),
        Ok(_) => panic!("law: a tier that needs {needed} bytes is refused in {}", needed - 1),
    }
    assert_eq!(small.held(), 0, "law: a refusal holds nothing");
}
