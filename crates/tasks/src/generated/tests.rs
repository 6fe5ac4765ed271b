//! The laws of recall generators, each held to the published description.

use super::*;
use crate::batch::{Batches, Position};
use crate::copying::CopyingConfig;
use crate::draw::distinct;
use crate::recall::{
    CompositionalMqarConfig, ForgettingMqarConfig, LongFillerMqarConfig, MqarConfig, QueryPlaces, StackedMqarConfig,
};
use crate::state_tracking::{Group, StateTrackingConfig};
use crate::task::IGNORE;
use crate::triggered_copying::TriggeredCopyingConfig;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

fn mqar(v: usize, t: usize, n: usize) -> MqarConfig {
    MqarConfig { random_non_queries: false, ..MqarConfig::new(v, t, n, 100) }
}

fn generate(generator: &dyn Generator, seed: u64) -> (Vec<i32>, Vec<i32>) {
    generator.check().unwrap();
    generator.generate(&mut Philox::new(seed, 0))
}

fn copying(selective: bool) -> CopyingConfig {
    CopyingConfig { vocab_size: 40, input_seq_len: 64, num_examples: 60, num_tokens: 12, selective }
}

fn triggered(only_triggers: bool) -> TriggeredCopyingConfig {
    TriggeredCopyingConfig { vocab_size: 66, input_seq_len: 64, num_examples: 60, num_triggers: 8, only_triggers }
}

/// Every kind of generator at a size whose examples are never equal by chance.
fn every_kind() -> Vec<GeneratorConfig> {
    let long = |query_places| LongFillerMqarConfig {
        vocab_size: 300,
        input_seq_len: 256,
        num_examples: 90,
        num_kv_pairs: 6,
        num_filler_ids: 100,
        query_places,
    };
    vec![
        GeneratorConfig::Mqar(mqar(300, 64, 8)),
        GeneratorConfig::Mqar(MqarConfig { num_passes: 3, ..MqarConfig::new(300, 64, 8, 50) }),
        GeneratorConfig::ForgettingMqar(ForgettingMqarConfig {
            vocab_size: 300,
            input_seq_len: 64,
            num_examples: 70,
            num_kv_pairs: 8,
            num_updates: 8,
            power_a: 1.0,
            random_non_queries: true,
        }),
        GeneratorConfig::LongFillerMqar(long(QueryPlaces::End)),
        GeneratorConfig::LongFillerMqar(long(QueryPlaces::Anywhere)),
        GeneratorConfig::LongFillerMqar(long(QueryPlaces::Apart { filler: 40 })),
        GeneratorConfig::CompositionalMqar(CompositionalMqarConfig {
            vocab_size: 300,
            input_seq_len: 64,
            num_examples: 40,
            num_kv_pairs: 9,
            power_a: 0.01,
            random_non_queries: true,
        }),
        GeneratorConfig::StackedMqar(StackedMqarConfig {
            vocab_size: 300,
            input_seq_len: 64,
            num_examples: 40,
            num_kv_pairs: 8,
            power_a: 0.5,
            num_passes: 2,
            random_non_queries: true,
        }),
        GeneratorConfig::Copying(copying(false)),
        GeneratorConfig::Copying(copying(true)),
        GeneratorConfig::StateTracking(StateTrackingConfig { group: Group::S5, input_seq_len: 30, num_examples: 80 }),
        GeneratorConfig::TriggeredCopying(triggered(false)),
        GeneratorConfig::TriggeredCopying(triggered(true)),
    ]
}

fn data(configs: Vec<GeneratorConfig>, seed: u64) -> GeneratedData {
    GeneratedData { train_configs: configs.clone(), validation_configs: configs.clone(), test_configs: configs, seed }
}

#[test]
fn the_laws_of_tasks_hold_for_every_generator() {
    let bytes = |e: &Tokens| e.inputs.iter().flat_map(|id| id.to_le_bytes()).collect();
    crate::laws::task(&|seed| GeneratedTask::new(data(every_kind(), seed)).unwrap(), &bytes);
    for config in every_kind() {
        crate::laws::task(&|seed| GeneratedTask::new(data(vec![config.clone()], seed)).unwrap(), &bytes);
    }
}

#[test]
fn the_toy_layout_has_four_context_tokens_and_two_labels() {
    // The documented example has V < T, which the published check itself refuses; the layout does not need V > T.
    assert!(mqar(12, 16, 2).check().is_err());
    for seed in 0..200 {
        let (inputs, targets) = mqar(12, 16, 2).generate(&mut Philox::new(seed, 0));
        assert_eq!((inputs.len(), targets.len()), (16, 16));
        assert!((1..6).contains(&inputs[0]) && (6..12).contains(&inputs[1]));
        assert!((1..6).contains(&inputs[2]) && (6..12).contains(&inputs[3]));
        let labelled: Vec<usize> = (0..16).filter(|&t| targets[t] != IGNORE).collect();
        assert_eq!(labelled.len(), 2);
        assert!(labelled.iter().all(|t| t % 2 == 0 && *t >= 4));
        let elsewhere = (4..16).filter(|t| !labelled.contains(t));
        assert!(elsewhere.into_iter().all(|t| inputs[t] == 0), "values are never written after a query");
    }
}

/// The slots of the queries, in the order of the keys of the context.
fn slots_of(inputs: &[i32], n: usize) -> Vec<usize> {
    let keys: Vec<i32> = inputs[..2 * n].iter().copied().step_by(2).collect();
    let place = |key: &i32| inputs[2 * n..].iter().position(|id| id == key).unwrap() / 2;
    keys.iter().map(place).collect()
}

/// A sequential weighted draw without replacement, as it is defined: by the cumulative weights of what remains.
fn sequential_draw(rng: &mut Philox, weights: &[f64], count: usize) -> Vec<usize> {
    let mut left: Vec<(usize, f64)> = weights.iter().copied().enumerate().collect();
    (0..count)
        .map(|_| {
            let total: f64 = left.iter().map(|(_, w)| w).sum();
            let mut at = rng.unit() * total;
            let pick = left.iter().position(|(_, w)| {
                at -= w;
                at <= 0.0
            });
            left.remove(pick.unwrap_or(left.len() - 1)).0
        })
        .collect()
}

/// Chi-square of two histograms of the same number of draws, and its degrees of freedom.
fn two_sample_chi_square(a: &[f64], b: &[f64]) -> (f64, usize) {
    let used: Vec<(f64, f64)> = a.iter().copied().zip(b.iter().copied()).filter(|(a, b)| a + b > 0.0).collect();
    (used.iter().map(|(a, b)| (a - b).powi(2) / (a + b)).sum(), used.len() - 1)
}

#[test]
fn the_histogram_of_slots_is_that_of_the_sequential_weighted_draw() {
    const EXAMPLES: u64 = 100_000;
    for power_a in [0.01, 1.0] {
        let (t, n) = (64, 8);
        let slots = (t - 2 * n) / 2;
        let config = MqarConfig { power_a, ..mqar(128, t, n) };
        let weights: Vec<f64> = (1..=slots).map(|j| power_a * (j as f64).powf(power_a - 1.0)).collect();
        let total: f64 = weights.iter().sum();
        let mut reference = Philox::new(99, 99);
        // Histograms of the slot of the first and of the last key, and of all keys of either draw.
        let mut ours = vec![vec![0.0; slots]; 3];
        let mut theirs = vec![vec![0.0; slots]; 3];
        for i in 0..EXAMPLES {
            let (inputs, _) = config.generate(&mut Philox::new(1, i));
            for (histograms, drawn) in
                [(&mut ours, slots_of(&inputs, n)), (&mut theirs, sequential_draw(&mut reference, &weights, n))]
            {
                histograms[0][drawn[0]] += 1.0;
                histograms[1][drawn[n - 1]] += 1.0;
                histograms[2][drawn[i as usize % n]] += 1.0;
            }
        }
        // 23 degrees of freedom: p = 0.001 at 49.7.
        let exact: f64 = ours[0]
            .iter()
            .zip(&weights)
            .map(|(count, weight)| {
                let expected = EXAMPLES as f64 * weight / total;
                (count - expected).powi(2) / expected
            })
            .sum();
        assert!(exact < 49.7, "first key, a = {power_a}: {exact}");
        for which in 0..3 {
            let (chi_square, freedom) = two_sample_chi_square(&ours[which], &theirs[which]);
            assert!(freedom == 23 && chi_square < 49.7, "histogram {which}, a = {power_a}: {chi_square} ({freedom})");
        }
        if power_a == 0.01 {
            let (wrong, _) = two_sample_chi_square(&ours[0], &ours[1]);
            assert!(wrong > 1000.0, "the test tells the first draw from the last: {wrong}");
        }
    }
}

#[test]
fn random_filler_is_uniform_over_the_whole_vocabulary_and_touches_nothing_else() {
    let plain = mqar(64, 62, 4);
    let random = MqarConfig { random_non_queries: true, ..plain.clone() };
    let mut counts = vec![0.0; 64];
    for seed in 0..2000 {
        let ((zeros, targets), (filled, same_targets)) = (generate(&plain, seed), generate(&random, seed));
        assert_eq!(targets, same_targets);
        for (zero, fill) in zeros.into_iter().zip(filled) {
            if zero == 0 {
                counts[fill as usize] += 1.0;
            } else {
                assert_eq!(zero, fill);
            }
        }
    }
    let expected = counts.iter().sum::<f64>() / 64.0;
    let chi_square: f64 = counts.iter().map(|c: &f64| (c - expected).powi(2) / expected).sum();
    assert!(chi_square < 103.5, "{chi_square}"); // 63 degrees of freedom, p = 0.001
}

#[test]
fn pairs_apart_from_queries_follow_each_other_with_filler_between() {
    let (n, time, filler) = (6, 64, 20);
    let config = LongFillerMqarConfig {
        vocab_size: 41,
        input_seq_len: time,
        num_examples: 1,
        num_kv_pairs: n,
        num_filler_ids: 1,
        query_places: QueryPlaces::Apart { filler },
    };
    let (queries, first) = (time - 2 * n, time - 4 * n - filler);
    let mut orders = BTreeSet::new();
    for seed in 0..200 {
        let (inputs, targets) = generate(&config, seed);
        let is_pair = |t: usize| (first..first + 2 * n).contains(&t);
        assert!((0..queries).all(|t| (inputs[t] != 0) == is_pair(t)), "{inputs:?}");
        let asked = (0..time).filter(|&t| targets[t] != IGNORE);
        assert_eq!(asked.collect::<Vec<_>>(), (queries..time).step_by(2).collect::<Vec<_>>());
        let pair = |key: i32| inputs[first..queries].iter().position(|id| *id == key).unwrap() / 2;
        orders.insert((queries..time).step_by(2).map(|t| pair(inputs[t])).collect::<Vec<_>>());
    }
    assert!(orders.len() > 100, "queries come in {} orders", orders.len());
    for (filler, problem) in
        [(21, "long_filler_mqar: query_places.apart.filler = 21: "), (42, "long_filler_mqar: input_seq_len = 64: ")]
    {
        let config = LongFillerMqarConfig { query_places: QueryPlaces::Apart { filler }, ..config.clone() };
        let shown = config.check().unwrap_err().to_string();
        assert!(shown.starts_with(problem), "{shown}");
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let refused = |config: &dyn Generator, start: &str| {
        let shown = config.check().unwrap_err().to_string();
        assert!(shown.starts_with(start), "{shown} should start with {start}");
    };
    refused(&mqar(128, 63, 8), "mqar: input_seq_len = 63: ");
    refused(&mqar(128, 0, 8), "mqar: input_seq_len = 0: ");
    refused(&mqar(64, 64, 8), "mqar: vocab_size = 64: ");
    refused(&mqar(128, 64, 17), "mqar: input_seq_len = 64: ");
    refused(&mqar(128, 64, usize::MAX), "mqar: input_seq_len = 64: ");
    refused(&mqar(66, 64, 0), "mqar: num_kv_pairs = 0: ");
    refused(&mqar(usize::MAX, 64, 8), "mqar: vocab_size = ");
    refused(&MqarConfig { num_examples: 0, ..mqar(128, 64, 8) }, "mqar: num_examples = 0: ");
    refused(&MqarConfig { num_passes: 0, ..mqar(128, 64, 8) }, "mqar: num_passes = 0: ");
    refused(&MqarConfig { num_passes: 4, ..mqar(128, 64, 8) }, "mqar: input_seq_len = 64: ");
    assert!(MqarConfig { num_passes: 3, ..mqar(128, 64, 8) }.check().is_ok());
    assert!(mqar(128, 64, 16).check().is_ok());
    for power_a in [0.0, -1.0, 16.5, f64::NAN, f64::INFINITY] {
        refused(&MqarConfig { power_a, ..mqar(128, 64, 8) }, "mqar: power_a = ");
    }
    // V > T and 4n <= T leave enough keys for plain MQAR; two ids a position do not.
    refused(&stacked(17, 16, 8), "stacked_mqar: num_kv_pairs = 8: ");
    refused(&stacked(40, 15, 4), "stacked_mqar: input_seq_len = 15: ");
    refused(&stacked(40, 16, 9), "stacked_mqar: input_seq_len = 16: ");

    refused(&forgetting(128, 64, 8, 9), "forgetting_mqar: num_updates = 9: ");
    refused(&forgetting(128, 46, 8, 8), "forgetting_mqar: input_seq_len = 46: ");
    assert!(forgetting(128, 48, 8, 8).check().is_ok());

    refused(&compositional(128, 64, 8), "compositional_mqar: num_kv_pairs = 8: ");
    refused(&compositional(128, 52, 9), "compositional_mqar: input_seq_len = 52: ");
    assert!(compositional(128, 54, 9).check().is_ok());
    refused(&compositional(7, 6, 1).with_pairs(4), "compositional_mqar: input_seq_len = 6: ");

    refused(&long_filler(40, 64, 4, 40), "long_filler_mqar: num_filler_ids = 40: ");
    refused(&long_filler(40, 64, 4, 0), "long_filler_mqar: num_filler_ids = 0: ");
    refused(&long_filler(40, 64, 4, 33), "long_filler_mqar: num_kv_pairs = 4: ");
    refused(&long_filler(40, usize::MAX - 1, 4, 20), "long_filler_mqar: input_seq_len = ");
    refused(&long_filler(40, 14, 4, 20), "long_filler_mqar: input_seq_len = 14: ");
    assert!(long_filler(40, 16, 4, 32).check().is_ok());

    let error = GeneratedTask::new(data(vec![GeneratorConfig::Mqar(mqar(64, 64, 8))], 1)).unwrap_err();
    assert!(matches!(error, TaskError::Config(_)), "{error}");
}

fn stacked(v: usize, t: usize, n: usize) -> StackedMqarConfig {
    StackedMqarConfig {
        vocab_size: v,
        input_seq_len: t,
        num_examples: 10,
        num_kv_pairs: n,
        power_a: 0.01,
        num_passes: 1,
        random_non_queries: false,
    }
}

fn forgetting(v: usize, t: usize, n: usize, u: usize) -> ForgettingMqarConfig {
    ForgettingMqarConfig {
        vocab_size: v,
        input_seq_len: t,
        num_examples: 10,
        num_kv_pairs: n,
        num_updates: u,
        power_a: 0.01,
        random_non_queries: false,
    }
}

fn compositional(v: usize, t: usize, n: usize) -> CompositionalMqarConfig {
    CompositionalMqarConfig {
        vocab_size: v,
        input_seq_len: t,
        num_examples: 10,
        num_kv_pairs: n,
        power_a: 0.01,
        random_non_queries: false,
    }
}

impl CompositionalMqarConfig {
    fn with_pairs(self, num_kv_pairs: usize) -> CompositionalMqarConfig {
        CompositionalMqarConfig { num_kv_pairs, ..self }
    }
}

fn long_filler(v: usize, t: usize, n: usize, f: usize) -> LongFillerMqarConfig {
    LongFillerMqarConfig {
        vocab_size: v,
        input_seq_len: t,
        num_examples: 10,
        num_kv_pairs: n,
        num_filler_ids: f,
        query_places: QueryPlaces::End,
    }
}

#[test]
fn recipes_name_the_generator_and_unknown_keys_are_refused() {
    let recipe = r#"
        [[train_configs]]
        name = "mqar"
        vocab_size = 8192
        input_seq_len = 64
        num_examples = 100000
        [[test_configs]]
        name = "long_filler_mqar"
        vocab_size = 128
        input_seq_len = 256
        num_examples = 10
        num_filler_ids = 64
        query_places = "anywhere"
    "#;
    let data: GeneratedData = toml::from_str(recipe).unwrap();
    assert_eq!(data.seed, 123);
    assert_eq!(data.train_configs, [GeneratorConfig::Mqar(MqarConfig::new(8192, 64, 8, 100_000))]);
    assert!(GeneratedTask::new(data).is_ok());
    let error = toml::from_str::<GeneratedData>(&recipe.replace("vocab_size", "vocabulary")).unwrap_err().to_string();
    assert!(error.contains("vocabulary"), "{error}");
    assert!(toml::from_str::<GeneratedData>(&recipe.replace("\"mqar\"", "\"mqra\"")).is_err());
}

#[test]
fn a_task_is_called_after_its_generators() {
    let name = |configs| GeneratedTask::new(data(configs, 1)).unwrap().name().to_string();
    assert_eq!(name(vec![GeneratorConfig::Mqar(mqar(128, 64, 8)); 2]), "mqar");
    assert_eq!(name(every_kind()), "generated");
}

#[test]
fn seeds_of_splits_come_from_ranges_that_are_disjoint() {
    let configs = vec![GeneratorConfig::Mqar(mqar(128, 64, 8)); 50];
    for seed in 0..20 {
        let task = GeneratedTask::new(data(configs.clone(), seed)).unwrap();
        let of = |split| task.segments(split).iter().map(|s| s.seed).collect::<BTreeSet<u64>>();
        assert!(of(Split::Train).iter().all(|s| *s < 1 << 31));
        assert!(of(Split::Test).iter().all(|s| (1 << 31..1 << 32).contains(s)));
        assert!(of(Split::Validation).iter().all(|s| (1 << 32..1 << 33).contains(s)));
        assert_eq!(of(Split::Train).len() + of(Split::Test).len() + of(Split::Validation).len(), 150);
    }
}

#[test]
fn batches_keep_segments_apart_and_drop_nothing() {
    let task = GeneratedTask::new(data(every_kind(), 3)).unwrap();
    let batches = Batches::new(&task, Split::Test, 32, Position::default()).unwrap();
    let per_epoch = batches.per_epoch();
    let batches: Vec<_> = batches.rest_of_epoch().collect::<Result<_, _>>().unwrap();
    assert_eq!(batches.len() as u64, per_epoch);
    let mut rows = vec![0u64; every_kind().len()];
    for batch in &batches {
        rows[batch.group] += batch.rows as u64;
        assert_eq!(batch.inputs.len(), batch.rows * batch.time * batch.channels);
        assert_eq!(batch.labels(), batch.rows * task.generator(Split::Test, batch.group).unwrap().asked());
    }
    assert_eq!(rows, task.groups(Split::Test));
    assert!(batches.is_sorted_by_key(|batch| batch.group), "segments come in their order");
}

#[test]
fn a_second_pass_repeats_the_first_and_resumes_anywhere() {
    let task = GeneratedTask::new(data(vec![GeneratorConfig::Mqar(mqar(128, 64, 8))], 3)).unwrap();
    let mut batches = Batches::new(&task, Split::Train, 32, Position::default()).unwrap();
    let first: Vec<_> = (0..4).map(|_| batches.next_batch().unwrap()).collect();
    assert_eq!(first.iter().map(|b| b.rows).collect::<Vec<_>>(), [32, 32, 32, 4]);
    assert_eq!(batches.position(), Position { epoch: 1, index: 0 });
    batches.next_batch().unwrap();
    let mut resumed = Batches::new(&task, Split::Train, 32, batches.position()).unwrap();
    assert_eq!(resumed.next_batch().unwrap(), first[1]);
    assert!(Batches::new(&task, Split::Train, 0, Position::default()).is_err());
    assert!(Batches::new(&task, Split::Train, 1, Position { epoch: 0, index: 100 }).is_err());
}

#[test]
fn answers_of_a_wrong_length_are_errors() {
    let task = GeneratedTask::new(data(every_kind(), 3)).unwrap();
    let example = task.example(Split::Test, 0).unwrap();
    assert!(matches!(task.score(&example, &vec![0; 5]), Err(TaskError::AnswerShape { found: 5, expected: 64, .. })));
}

/// Keys in the order in which they are asked, each with its answer.
fn asked(inputs: &[i32], targets: &[i32]) -> Vec<(i32, i32)> {
    (0..targets.len()).filter(|&t| targets[t] != IGNORE).map(|t| (inputs[t], targets[t])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mqar_keeps_its_invariants(n in 1usize..9, passes in 1usize..4, spare in 0usize..20, seed: u64, random: bool) {
        let t = 2 * n * passes + 2 * n + 2 * spare;
        let v = (2 * n + 2).max(t + 1) + spare;
        let config = MqarConfig { num_passes: passes, random_non_queries: random, ..mqar(v, t, n) };
        let (inputs, targets) = generate(&config, seed);
        let context = 2 * n * passes;
        let pairs: HashMap<i32, i32> = inputs[..2 * n].chunks_exact(2).map(|p| (p[0], p[1])).collect();
        prop_assert_eq!(pairs.len(), n, "each key is in the context once");
        prop_assert_eq!(pairs.values().collect::<BTreeSet<_>>().len(), n, "values are distinct");
        for pass in 1..passes {
            prop_assert_eq!(&inputs[2 * n * pass..2 * n * (pass + 1)], &inputs[..2 * n], "passes repeat the pairs");
        }
        for (&key, value) in &pairs {
            prop_assert!((1..(v / 2) as i32).contains(&key));
            prop_assert!(((v / 2) as i32..v as i32).contains(value));
        }
        prop_assert!(targets[..context].iter().all(|&target| target == IGNORE));
        let asked = asked(&inputs, &targets);
        prop_assert_eq!(asked.len(), n);
        prop_assert_eq!(asked.iter().copied().collect::<HashMap<_, _>>(), pairs, "each key is asked once, with its value");
        prop_assert!((0..t).filter(|&i| targets[i] != IGNORE).all(|i| i.is_multiple_of(2)));
        if !random {
            prop_assert!((context..t).all(|i| (inputs[i] != 0) == (targets[i] != IGNORE)), "filler elsewhere");
        }
        prop_assert!(inputs.iter().all(|id| (0..v as i32).contains(id)));
    }

    #[test]
    fn forgetting_asks_for_the_latest_value(n in 1usize..9, u in 0usize..9, spare in 0usize..20, seed: u64) {
        let u = u.min(n);
        let t = 2 * (n + u) + 2 * n + 2 * spare;
        let config = forgetting((2 * n + 2).max(t + 1), t, n, u);
        let (inputs, targets) = generate(&config, seed);
        let pairs = |range: std::ops::Range<usize>| inputs[range].chunks_exact(2).map(|p| (p[0], p[1])).collect::<HashMap<_, _>>();
        let (first, updates) = (pairs(0..2 * n), pairs(2 * n..2 * (n + u)));
        prop_assert_eq!((first.len(), updates.len()), (n, u), "each update is of another key");
        prop_assert!(updates.iter().all(|(key, value)| first[key] != *value), "an update changes the value");
        let mut latest = first;
        latest.extend(updates);
        prop_assert_eq!(latest.values().collect::<BTreeSet<_>>().len(), n, "no two keys end with one value");
        prop_assert_eq!(asked(&inputs, &targets).into_iter().collect::<HashMap<_, _>>(), latest);
    }

    #[test]
    fn long_filler_is_never_a_key_and_queries_come_after_their_pair(
        n in 1usize..9, spare in 0usize..40, f in 1usize..50, seed: u64, anywhere: bool
    ) {
        let query_places = if anywhere { QueryPlaces::Anywhere } else { QueryPlaces::End };
        let (t, v) = (4 * n + 2 * spare, f + 2 * n + spare);
        let config = LongFillerMqarConfig { query_places, ..long_filler(v, t, n, f) };
        let (inputs, targets) = generate(&config, seed);
        let asked = asked(&inputs, &targets);
        prop_assert_eq!(asked.len(), n);
        for (i, (key, value)) in asked.iter().enumerate() {
            let places: Vec<usize> = (0..t).filter(|&p| inputs[p] == *key).collect();
            prop_assert_eq!(places.len(), 2, "a key is written once and asked once");
            prop_assert_eq!(inputs[places[0] + 1], *value);
            prop_assert!(targets[places[0]] == IGNORE && targets[places[1]] == *value);
            prop_assert!(inputs[places[1] + 1] < f as i32, "the value is not written after the query");
            prop_assert!(anywhere || places[1] >= t - 2 * n);
            prop_assert!(asked[..i].iter().all(|(_, other)| other != value));
        }
        let fillers = inputs.iter().filter(|id| **id < f as i32).count();
        prop_assert_eq!(fillers, t - 3 * n);
    }

    #[test]
    fn neither_half_of_a_compositional_key_determines_the_value(side in 2usize..5, spare in 0usize..20, seed: u64) {
        let n = side * side;
        let t = 6 * n + 2 * spare;
        let config = compositional(3 * n + t, t, n);
        let (inputs, targets) = generate(&config, seed);
        let pairs: HashMap<[i32; 2], i32> = inputs[..3 * n].chunks_exact(3).map(|p| ([p[0], p[1]], p[2])).collect();
        prop_assert_eq!(pairs.len(), n);
        prop_assert_eq!(pairs.values().collect::<BTreeSet<_>>().len(), n);
        for half in 0..2 {
            let mut of: HashMap<i32, usize> = HashMap::new();
            pairs.keys().for_each(|key| *of.entry(key[half]).or_default() += 1);
            prop_assert!(of.len() == side && of.values().all(|&count| count == side));
        }
        let asked: HashMap<[i32; 2], i32> =
            (1..t).filter(|&i| targets[i] != IGNORE).map(|i| ([inputs[i - 1], inputs[i]], targets[i])).collect();
        prop_assert_eq!(asked, pairs);
        prop_assert_eq!(targets.iter().filter(|&&target| target != IGNORE).count(), n);
    }

    #[test]
    fn stacked_pairs_share_a_position_and_queries_have_no_value(
        n in 1usize..9, passes in 1usize..4, spare in 0usize..10, seed: u64, random: bool
    ) {
        let t = (n * passes + n + spare).next_multiple_of(2);
        let config = StackedMqarConfig { num_passes: passes, random_non_queries: random, ..stacked(2 * n + 2 + t, t, n) };
        let (inputs, targets) = generate(&config, seed);
        prop_assert_eq!((inputs.len(), targets.len()), (2 * t, t));
        let pairs: HashMap<i32, i32> = inputs[..2 * n].chunks_exact(2).map(|p| (p[0], p[1])).collect();
        prop_assert_eq!(pairs.len(), n);
        let asked: Vec<usize> = (0..t).filter(|&i| targets[i] != IGNORE).collect();
        prop_assert_eq!(asked.len(), n);
        for &i in &asked {
            prop_assert!(i >= n * passes && inputs[2 * i + 1] == 0 && pairs[&inputs[2 * i]] == targets[i]);
        }
    }

    #[test]
    fn the_oracle_answers_from_inputs_alone(seed: u64) {
        for config in every_kind() {
            let generator = config.generator();
            let (inputs, targets) = generate(&*generator, seed);
            let answers = generator.answer(&inputs);
            prop_assert!(targets.iter().zip(&answers).all(|(target, answer)| *target == IGNORE || target == answer));
        }
    }
}

#[test]
fn distinct_keys_are_uniform() {
    let mut counts = [0.0; 5];
    let mut rng = Philox::new(4, 4);
    for _ in 0..30_000 {
        for i in distinct(&mut rng, 5, 2) {
            counts[i] += 1.0;
        }
    }
    let chi_square: f64 = counts.iter().map(|c: &f64| (c - 12_000.0).powi(2) / 12_000.0).sum();
    assert!(chi_square < 18.5, "{chi_square}"); // 4 degrees of freedom, p = 0.001 (draws of a pair are not independent: less)
}
