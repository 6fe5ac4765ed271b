//! The stabilized gates of mLSTM over sequences, and their step on states.

use memwall_graph::ops::mlstm::{MlstmGates, MlstmGatesStep};
use memwall_graph::ops::reshape;

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Argument, How, IN_PLACE, Made, Operator, integer, made, real};

const EQUATION: &str = "m_t = max(f_t + m_{t−1}, i_t, 0), g = f_t + m_{t−1} − m_t, input = exp(i_t − m_t), \
                        bound = exp(−m_t) (mLSTM, arXiv 2405.04517): `gla` with one log-gate g a head, keys times input \
                        and values [v, 1], then `normalize` by bound, is mLSTM";

pub const MLSTM_GATES: Operator = Operator {
    name: "mlstm_gates",
    about: EQUATION,
    inputs: &[
        real("i", "B T H", "logarithms of the input gates"),
        real("f", "B T H", "logarithms of the forget gates, at most 0"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &OUTPUTS,
    attributes: &[],
    forms: &[],
    how: How::Graph(gates),
};

const OUTPUTS: [Argument; 3] = [
    real("g", "B T H", "log-gates of the scaled state, at most 0"),
    real("input", "B T H", "factors of the keys, at most 1"),
    real("bound", "B T H", "the least normalizer, at most 1"),
];

pub const MLSTM_GATES_STEP: Operator = Operator {
    name: "mlstm_gates_step",
    about: "the same for rows that continue kept scales m; rows of one slot are taken in order",
    inputs: &[
        real("m", "S H", "the scales, 0 at first"),
        real("i", "N H", "logarithms of the input gates"),
        real("f", "N H", "logarithms of the forget gates, at most 0"),
        integer("slots", "N", "which scale each row continues"),
    ],
    weights: None,
    outputs: &[
        real("g", "N H", "log-gates of the scaled state"),
        real("input", "N H", "factors of the keys"),
        real("bound", "N H", "the least normalizer"),
        real("m", "S H", "the scales after"),
    ],
    attributes: &[],
    forms: &[],
    how: How::Step(step, IN_PLACE),
};

fn gates(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let shape = [b.size('B'), b.size('T'), b.size('H')];
    let flat = [shape[0] * shape[1], shape[2]];
    let (i, f) = (b.reshaped("i", &flat)?, b.reshaped("f", &flat)?);
    let (cu, _) = cu_seqlens(b)?;
    let out = b.g.push(MlstmGates, &[i, f, cu])?;
    let names = ["g", "input", "bound"];
    names.into_iter().zip(out).map(|(name, y)| Ok(made(name, reshape(&mut b.g, y, fixed(&shape)?)?))).collect()
}

fn step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let slots = b.integers("slots").unwrap_or_default();
    let mut inputs = vec![b.real("m")?, b.real("i")?, b.real("f")?];
    inputs.push(b.feed_integers("slots", &[b.size('N')], slots)?);
    let out = b.g.push(MlstmGatesStep, &inputs)?;
    Ok(vec![made("g", out[1]), made("input", out[2]), made("bound", out[3]), made("m", out[0])])
}
