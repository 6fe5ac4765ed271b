//! What holds to the bit, or to the last of them.

use std::sync::Arc;

use memwall_formats::{Dtype, Quantizer, format};
use memwall_graph::ops::{fake_quantize::FakeQuantize, int8_linear::Int8Linear, linear::Linear};
use memwall_graph::{Executor, Graph, Memory, PlanOptions};
use memwall_kernels::{Pool, gemm::Compute};
use memwall_nn::{CorrectionGate, GATE};
use memwall_tasks::{Batches, Philox, Position, Split};
use memwall_train::{Optimizer, Trainer};

use super::learning::{HYBRID, Learning, RANK, clear};
use crate::{Error, Run, random::normal, trial::packed as packed_batch};

fn batch(learning: &Learning, seed: u64) -> Result<memwall_train::Batch, Error> {
    let task = learning.task(seed)?;
    let mut batches = Batches::new(&task, Split::Train, 2, Position::default()).map_err(Error::experiment)?;
    Ok(packed_batch(&batches.next_batch().map_err(Error::experiment)?))
}

fn distance(a: &mut Trainer, b: &mut Trainer, batch: &memwall_train::Batch) -> Result<f64, Error> {
    let (a, b) = (a.evaluate(batch).map_err(Error::experiment)?, b.evaluate(batch).map_err(Error::experiment)?);
    Ok(a.logits.iter().zip(&b.logits).fold(0.0, |m: f64, (a, b)| m.max(f64::from((a - b).abs()))))
}

/// The largest difference of logits from the model without correction of the same seed, before any step.
pub(super) fn beginning(run: &Run, learning: &Learning, seed: u64) -> Result<f64, Error> {
    let mut hybrid = learning.trainer(run, &learning.model(HYBRID, RANK), seed)?;
    let mut uncorrected = learning.trainer(run, &learning.uncorrected(), seed)?;
    distance(&mut hybrid, &mut uncorrected, &batch(learning, seed)?)
}

/// The largest difference of logits from the model without correction of the same weights, behind gates of 0, after a few
/// steps.
pub(super) fn shut(run: &Run, learning: &Learning, seed: u64) -> Result<f64, Error> {
    let mut model = learning.model(HYBRID, RANK);
    if let Some(correction) = model.quantization.as_mut().and_then(|q| q.correction.as_mut()) {
        correction.gate = CorrectionGate::Identity;
        correction.schedule.hold = 0;
    }
    let mut hybrid = learning.trainer(run, &model, seed)?;
    let batch = batch(learning, seed)?;
    for _ in 0..3 {
        hybrid.step(std::slice::from_ref(&batch), 1e-2, &Optimizer::default()).map_err(Error::experiment)?;
    }
    clear(&mut hybrid, GATE);
    let mut uncorrected = learning.trainer(run, &learning.uncorrected(), seed)?;
    let names: Vec<String> = uncorrected.parameters().map(str::to_owned).collect();
    for name in names {
        let weight = hybrid.memory().get::<f32>(&name).map(<[f32]>::to_vec);
        if let (Some(from), Some(to)) = (weight, uncorrected.memory_mut().get_mut::<f32>(&name)) {
            to.copy_from_slice(&from);
        }
    }
    distance(&mut hybrid, &mut uncorrected, &batch)
}

/// The largest difference, over the largest output, between integers times packed ternary weights and the product of training.
pub(super) fn packed(seed: u64) -> Result<f64, Error> {
    const ROWS: usize = 16;
    const INPUTS: usize = 512;
    const OUTPUTS: usize = 96;
    let mut rng = Philox::new(seed, 1);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| normal(&mut rng) as f32).collect() };
    let (x, w) = (draw(ROWS * INPUTS), draw(OUTPUTS * INPUTS));
    let named = |name: &str| name.parse::<Quantizer>().map_err(Error::experiment);
    let (ternary, int8) = (named("ternary_f16")?, named("int8")?);
    let mut rounded = vec![0.0; w.len()];
    let of = ternary.of_tensor(INPUTS, &w).map_err(Error::experiment)?;
    ternary.round(of, INPUTS, &w, &mut rounded, &mut []).map_err(Error::experiment)?;
    let row_bytes = Dtype::TQ2_0.row_bytes(INPUTS).unwrap_or(0);
    let mut stored = vec![0; OUTPUTS * row_bytes];
    format(Dtype::TQ2_0).encode(INPUTS, &rounded, &mut stored).map_err(Error::experiment)?;

    let (mut g, mut memory) = (Graph::new(Dtype::F32), Memory::new());
    let built = (|| {
        memory.set("x", Dtype::F32, &x)?;
        memory.set("w", Dtype::F32, &w)?;
        memory.set("packed", Dtype::TQ2_0, &stored)?;
        let x = g.weight("x", [ROWS, INPUTS], Dtype::F32)?;
        let master = g.weight("w", [OUTPUTS, INPUTS], Dtype::F32)?;
        let stored = g.weight("packed", [OUTPUTS, INPUTS], Dtype::TQ2_0)?;
        let x_hat = g.push1(FakeQuantize::new(int8), &[x])?;
        let w_hat = g.push1(FakeQuantize::new(ternary), &[master])?;
        let linear = Linear { compute: Compute::F32 };
        let trained = g.push1(linear, &[x_hat, w_hat])?;
        let integers = g.push1(Int8Linear { linear }, &[x_hat, stored])?;
        g.output("trained", trained);
        g.output("integers", integers);
        let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1)))?;
        e.run(&mut memory)?;
        Ok::<_, memwall_graph::GraphError>(e)
    })();
    let e = built.map_err(Error::experiment)?;
    let (trained, integers) = (e.output::<f32>("trained"), e.output::<f32>("integers"));
    let most = trained.iter().fold(f32::MIN_POSITIVE, |m, y| m.max(y.abs()));
    let apart = trained.iter().zip(integers).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
    Ok(f64::from(apart / most))
}
