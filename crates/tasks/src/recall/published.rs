//! The settings under which results on MQAR were published.

use super::MqarConfig;
use crate::{GeneratedData, GeneratorConfig};

/// T and n of the four panels of Figure 2 of "Zoology" (Arora, Eyuboglu et al., 2023).
pub const FIGURE_2: [(usize, usize); 4] = [(64, 4), (128, 8), (256, 16), (512, 64)];

/// Segments of (T, n) with their numbers of examples, 8192 ids, filler 0.
fn segments(settings: &[(usize, usize, u64)]) -> Vec<GeneratorConfig> {
    let segment = |&(t, n, examples): &(usize, usize, u64)| {
        GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..MqarConfig::new(8192, t, n, examples) })
    };
    settings.iter().map(segment).collect()
}

impl GeneratedData {
    /// One panel of Figure 2: 100 000 training and 3 000 test examples of T positions and n pairs. It was run for 64 passes
    /// (fewer once the test accuracy passed 0.99) at batches of 512 (256 at T = 256, 128 at 512), D of 64 to 512, and the
    /// best of four learning rates from 1e-4 to 1e-2.
    pub fn figure_2(input_seq_len: usize, num_kv_pairs: usize) -> GeneratedData {
        GeneratedData {
            train_configs: segments(&[(input_seq_len, num_kv_pairs, 100_000)]),
            validation_configs: Vec::new(),
            test_configs: segments(&[(input_seq_len, num_kv_pairs, 3_000)]),
            seed: 123,
        }
    }

    /// The mixture that the authors recommended later: five training segments of up to 64 pairs in up to 256 positions, and
    /// seven test segments of 1 000 examples, up to 256 pairs in 1024. It was run for 32 passes at batches of 256, and the
    /// best of four learning rates from 1e-3 to 10^-1.5.
    pub fn recommended_sweep() -> GeneratedData {
        GeneratedData {
            train_configs: segments(&[
                (64, 4, 100_000),
                (128, 8, 20_000),
                (256, 16, 20_000),
                (256, 32, 20_000),
                (256, 64, 20_000),
            ]),
            validation_configs: Vec::new(),
            test_configs: segments(&[
                (64, 4, 1_000),
                (64, 8, 1_000),
                (64, 16, 1_000),
                (128, 32, 1_000),
                (256, 64, 1_000),
                (512, 128, 1_000),
                (1024, 256, 1_000),
            ]),
            seed: 123,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GeneratedTask, Split, Task};

    #[test]
    fn every_published_setting_can_be_generated() {
        let panels = FIGURE_2.map(|(t, n)| GeneratedData::figure_2(t, n));
        for data in panels.into_iter().chain([GeneratedData::recommended_sweep()]) {
            let task = GeneratedTask::new(data).unwrap();
            for split in [Split::Train, Split::Test] {
                let mut first = 0;
                for (group, size) in task.groups(split).into_iter().enumerate() {
                    let example = task.example(split, first + size - 1).unwrap();
                    let answer = task.oracle(&example).unwrap();
                    assert_eq!((example.group, task.score(&example, &answer)), (group, Ok(1.0)));
                    first += size;
                }
            }
        }
    }
}
