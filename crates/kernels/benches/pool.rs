//! What a fork and a join cost: tasks that do nothing, beside rayon.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use memwall_kernels::Pool;
use rayon::prelude::*;
use std::hint::black_box;

fn fork_join(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let pool = Pool::new(threads);
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("rayon starts its threads");
    let mut group = c.benchmark_group(format!("fork_join/{threads}_threads"));
    for tasks in [2, 16, 256] {
        group.bench_function(format!("memwall/{tasks}"), |b| {
            b.iter(|| {
                pool.run(tasks, |task, _| {
                    black_box(task);
                });
            });
        });
        group.bench_function(format!("rayon/{tasks}"), |b| {
            rayon.install(|| {
                b.iter(|| {
                    (0..tasks).into_par_iter().with_max_len(1).for_each(|task| {
                        black_box(task);
                    })
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, fork_join);
criterion_main!(benches);
