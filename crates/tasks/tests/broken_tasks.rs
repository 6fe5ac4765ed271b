//! The laws catch what they are there for: each task here breaks one of them.

use memwall_tasks::{
    GeneratedData, GeneratedTask, GeneratorConfig, Metric, MqarConfig, Philox, Split, Task, TaskError, Tokens, laws,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that a task does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Examples depend on what was asked before.
    RemembersCalls,
    /// The seed changes nothing.
    IgnoresSeed,
    /// Test examples are training examples.
    Leaks,
    /// The oracle errs in one label.
    WrongOracle,
    /// Chance is said to be what picking among the pairs of an example gives.
    WrongChance,
    /// An index too far gives the first example.
    WrapsAround,
}

struct Broken {
    task: GeneratedTask,
    fault: Fault,
    calls: AtomicU64,
}

fn make(fault: Fault, seed: u64) -> Broken {
    let config = GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..MqarConfig::new(300, 64, 8, 150) });
    let seed = if fault == Fault::IgnoresSeed { 1 } else { seed };
    let data = GeneratedData {
        train_configs: vec![config.clone()],
        validation_configs: vec![],
        test_configs: vec![config],
        seed,
    };
    Broken { task: GeneratedTask::new(data).unwrap(), fault, calls: AtomicU64::new(0) }
}

impl Task for Broken {
    type Example = Tokens;
    type Answer = Vec<i32>;

    fn name(&self) -> &str {
        "broken"
    }

    fn metric(&self) -> Metric {
        self.task.metric()
    }

    fn groups(&self, split: Split) -> Vec<u64> {
        self.task.groups(split)
    }

    fn example(&self, split: Split, index: u64) -> Result<Tokens, TaskError> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::RemembersCalls => self.task.example(split, (index + calls) % 150),
            Fault::Leaks if split == Split::Test && index == 149 => {
                self.task.example(Split::Train, 7).map(|example| Tokens { split, ..example })
            }
            Fault::WrapsAround => self.task.example(split, index % 150),
            _ => self.task.example(split, index),
        }
    }

    fn score(&self, example: &Tokens, answer: &Vec<i32>) -> Result<f64, TaskError> {
        self.task.score(example, answer)
    }

    fn oracle(&self, example: &Tokens) -> Option<Vec<i32>> {
        let mut answer = self.task.oracle(example)?;
        if self.fault == Fault::WrongOracle && example.inputs[0] % 50 == 0 {
            let label = example.targets.iter().position(|&target| target >= 0)?;
            answer[label] -= 1;
        }
        Some(answer)
    }

    fn guess(&self, example: &Tokens, rng: &mut Philox) -> Vec<i32> {
        self.task.guess(example, rng)
    }

    fn chance(&self, example: &Tokens) -> f64 {
        if self.fault == Fault::WrongChance { 1.0 / 8.0 } else { self.task.chance(example) }
    }
}

fn check(fault: Fault) {
    let seen = |example: &Tokens| example.inputs.iter().flat_map(|id| id.to_le_bytes()).collect();
    laws::task(&|seed| make(fault, seed), &seen);
}

#[test]
fn a_task_without_fault_passes() {
    check(Fault::None);
}

#[test]
fn every_fault_is_caught_by_a_law() {
    let faults = [
        (Fault::RemembersCalls, "is the same in any order"),
        (Fault::IgnoresSeed, "another seed gives other training examples"),
        (Fault::Leaks, "is example 149 of test too"),
        (Fault::WrongOracle, "the oracle is right"),
        (Fault::WrongChance, "chance is said to be"),
        (Fault::WrapsAround, "ends after 150 examples"),
    ];
    for (fault, law) in faults {
        let caught = catch_unwind(AssertUnwindSafe(|| check(fault))).expect_err(&format!("{fault:?} passes all laws"));
        let shown = caught.downcast_ref::<String>().cloned();
        let shown = shown.or(caught.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        assert!(shown.contains(law), "{fault:?} was caught by another law: {shown}");
    }
}
