//! Corpora of real text, where the data sets are.

use memwall_tasks::data::DATA_SETS;
use memwall_tasks::{Corpus, DataDir, Documents, Fractions, Split, Task, TextTask, laws};
use std::sync::Arc;

#[test]
fn known_data_sets_are_found_and_cut_without_loss() {
    let Some(_) = memwall_testdata::data("text") else { return };
    let folder = memwall_testdata::folder().unwrap();
    let dir = DataDir::find(Some(&folder)).unwrap();
    for set in DATA_SETS {
        let files = dir.need(&set).unwrap();
        let corpus = Corpus::read_bytes(&files, &Documents::Files, Fractions::default()).unwrap();
        let whole: Vec<u8> = files.iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
        let ids = Split::ALL.into_iter().flat_map(|split| corpus.part(split).window(0, usize::MAX));
        assert!(ids.eq(whole.iter().map(|&byte| i32::from(byte))), "{}", set.name);
        for split in [Split::Validation, Split::Test] {
            let share = corpus.part(split).bytes() as f64 / whole.len() as f64;
            assert!((share - 0.05).abs() < 0.001, "{} {split}: {share}", set.name);
        }
        assert!(corpus.held_bytes() < whole.len() + 1000, "{}: a byte of text takes a byte", set.name);
    }
}

#[test]
fn the_laws_of_tasks_hold_on_a_book() {
    let Some(path) = memwall_testdata::data("text/warpeace-first90.txt") else { return };
    let corpus = Arc::new(Corpus::read_bytes(&[path], &Documents::Files, Fractions::default()).unwrap());
    laws::task(&|seed| TextTask::new(corpus.clone(), 256, 256, seed).unwrap(), &|e| {
        e.inputs.iter().map(|&id| id as u8).collect()
    });
    let task = TextTask::new(corpus.clone(), 256, 256, 1).unwrap();
    let windows = task.groups(Split::Validation).iter().sum::<u64>();
    assert_eq!(windows as usize, (corpus.part(Split::Validation).len() - 1).div_ceil(256));
}
