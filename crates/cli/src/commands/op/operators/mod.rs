//! The operators, by family: each documents itself and adds itself to a graph.

mod adamw;
mod attention;
mod bmojo;
mod conv1d;
mod cross_entropy;
mod delta;
mod distillation;
mod encoded;
mod fake_quantize;
mod gla;
mod layers;
mod linear;
mod linear_attention;
mod long_conv;
mod max_sim;
mod mlstm;
mod norm;
mod pointwise;
mod ridge;
mod rope;
mod rows;
mod selective_scan;
mod sequences;
mod wkv;

use super::operator::Operator;

/// Every operator, mixer and format.
pub const ALL: &[&Operator] = &[
    &attention::ATTENTION,
    &attention::CACHED_ATTENTION,
    &attention::CACHE_WRITE,
    &bmojo::BMOJO,
    &bmojo::INNOVATION,
    &gla::GLA,
    &gla::GLA_STEP,
    &delta::DELTA,
    &delta::DELTA_STEP,
    &ridge::RIDGE,
    &ridge::RIDGE_STEP,
    &mlstm::MLSTM_GATES,
    &mlstm::MLSTM_GATES_STEP,
    &linear_attention::TAYLOR,
    &linear_attention::APPEND_ONE,
    &linear_attention::NORMALIZE,
    &wkv::WKV4,
    &wkv::WKV4_STEP,
    &wkv::WKV6,
    &wkv::WKV6_STEP,
    &wkv::WKV7,
    &wkv::WKV7_STEP,
    &selective_scan::SELECTIVE_SCAN,
    &selective_scan::SELECTIVE_SCAN_STEP,
    &conv1d::CONV1D,
    &conv1d::CONV1D_STEP,
    &long_conv::LONG_CONV,
    &layers::MIXER,
    &layers::CHANNEL,
    &linear::LINEAR,
    &linear::MATMUL,
    &linear::EMBEDDING,
    &norm::RMS_NORM,
    &norm::LAYER_NORM,
    &norm::SOFTMAX,
    &rope::ROPE,
    &cross_entropy::CROSS_ENTROPY,
    &distillation::DISTILLATION,
    &max_sim::MAX_SIM,
    &pointwise::ADD,
    &pointwise::SUB,
    &pointwise::MUL,
    &pointwise::SWIGLU,
    &pointwise::GEGLU,
    &pointwise::SILU,
    &pointwise::GELU,
    &pointwise::GELU_ERF,
    &pointwise::RELU,
    &pointwise::SIGMOID,
    &pointwise::LOG_SIGMOID,
    &pointwise::TANH,
    &pointwise::EXP,
    &pointwise::LN,
    &pointwise::NEG,
    &pointwise::SQUARE,
    &pointwise::RECIPROCAL,
    &pointwise::SCALE,
    &pointwise::OFFSET,
    &pointwise::AT_LEAST,
    &pointwise::SOFTCAP,
    &rows::SELECT_ROWS,
    &rows::SLICE_LAST,
    &rows::REPEAT_HEADS,
    &rows::SUM_ROWS,
    &rows::SUM_LAST,
    &adamw::ADAMW,
    &fake_quantize::FAKE_QUANTIZE,
    &encoded::ENCODE,
    &encoded::DECODE,
];

#[cfg(test)]
mod tests {
    use super::super::attributes;
    use super::*;

    #[test]
    fn names_are_told_apart_and_options_exist() {
        for (i, o) in ALL.iter().enumerate() {
            assert!(ALL[..i].iter().all(|other| other.name != o.name), "{} is there twice", o.name);
            for name in o.attributes {
                assert!(attributes::ALL.iter().any(|a| a.name == *name), "{}: no option {name}", o.name);
            }
        }
        for a in attributes::ALL {
            assert!(ALL.iter().any(|o| o.attributes.contains(&a.name)), "no operator has --{}", a.name);
        }
    }
}
