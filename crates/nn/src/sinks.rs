//! Signs of attention sinks in a model: what the first token draws, the largest activations, how far gates are open.
//!
//! A head that has nothing to add must still spend its attention; without a gate it spends it on the first token, whose
//! activations grow large. Source: "Gated Attention" (arXiv 2505.06708), section 4. The probe reads the graph: it keeps
//! queries, keys and log-sum-exps of every attention, outputs of every gate and every block, and recomputes
//! P[t, 0] = exp(scale · q_t · k_0 − lse_t).

use memwall_graph::{Executor, Graph};
use memwall_kernels::attention::Attention as Kernel;
use memwall_kernels::gemm::Compute;

use crate::config::{MixerConfig, ModelConfig};
use crate::mixers::attention::GateActivation;

/// Attention layers, their gates and all blocks of a graph over whole sequences, kept to be looked at.
#[derive(Debug)]
pub struct SinkProbe {
    /// Kernel options of each attention, and how many gate outputs it has.
    layers: Vec<(Kernel, usize)>,
    blocks: usize,
}

/// What a probe saw in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Sinks {
    /// Of each attention layer that is not differential.
    pub layers: Vec<LayerSinks>,
    /// Largest magnitude of the hidden state after each block.
    pub largest_hidden: Vec<f64>,
}

/// What a probe saw in an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSinks {
    /// Mean over heads and late queries of the attention to the first token, 0 to 1.
    pub first_token_share: f64,
    /// Mean of σ over its gates, and the share of them below 0.1; none without a sigmoid gate.
    pub gates: Option<(f64, f64)>,
}

impl SinkProbe {
    /// Keeps what is to be looked at in `g`, which is `config` over whole sequences before any pass.
    pub fn new(g: &mut Graph, config: &ModelConfig) -> SinkProbe {
        let mut layers = Vec::new();
        // Of each block: its place among the attention layers, and whether its sigmoids are gates.
        let blocks: Vec<Option<(usize, bool)>> = config
            .layers
            .iter()
            .map(|layer| {
                let MixerConfig::Attention(attention) = &layer.mixer else { return None };
                // The difference of two maps has no one share of the first token.
                if attention.differential.is_some() {
                    return None;
                }
                layers.push((attention.kernel(Compute::F32), 0));
                let sigmoid = attention.gate.is_some_and(|gate| gate.activation == GateActivation::Sigmoid);
                Some((layers.len() - 1, sigmoid))
            })
            .collect();
        let (mut kept, mut block_ends) = (Vec::new(), vec![None; blocks.len()]);
        for node in g.nodes() {
            let Some(block) = node.segment.map(|segment| segment.0 as usize) else { continue };
            block_ends[block] = Some(node.outputs[0]);
            let Some((layer, sigmoid)) = blocks[block] else { continue };
            match node.op.name() {
                "attention" => {
                    kept.push((format!("sinks.{layer}.q"), node.inputs[0]));
                    kept.push((format!("sinks.{layer}.k"), node.inputs[1]));
                    kept.push((format!("sinks.{layer}.lse"), node.outputs[1]));
                }
                "sigmoid" if sigmoid && node.scope.ends_with("self_attn") => {
                    kept.push((format!("sinks.{layer}.gate.{}", layers[layer].1), node.outputs[0]));
                    layers[layer].1 += 1;
                }
                _ => {}
            }
        }
        for (block, end) in block_ends.iter().enumerate() {
            kept.extend(end.map(|end| (format!("sinks.hidden.{block}"), end)));
        }
        for (name, value) in kept {
            g.output(&name, value);
        }
        SinkProbe { layers, blocks: blocks.len() }
    }

    /// What the last run of `e` showed; `lengths` are its sequences' tokens, and queries count from position `from` on.
    pub fn read(&self, e: &Executor, lengths: &[usize], from: usize) -> Sinks {
        let layers = self.layers.iter().enumerate().map(|(i, (kernel, gates))| {
            let tensor = |part: &str| e.output::<f32>(&format!("sinks.{i}.{part}"));
            let gates: Vec<f32> = (0..*gates).flat_map(|n| tensor(&format!("gate.{n}")).iter().copied()).collect();
            let count = gates.len() as f64;
            let mean = gates.iter().map(|&s| f64::from(s)).sum::<f64>() / count;
            let closed = gates.iter().filter(|s| **s < 0.1).count() as f64 / count;
            LayerSinks {
                first_token_share: first_token_share(kernel, [tensor("q"), tensor("k"), tensor("lse")], lengths, from),
                gates: (!gates.is_empty()).then_some((mean, closed)),
            }
        });
        let largest = |block| {
            let hidden = e.output::<f32>(&format!("sinks.hidden.{block}"));
            hidden.iter().fold(0.0f64, |top, x| top.max(f64::from(x.abs())))
        };
        Sinks { layers: layers.collect(), largest_hidden: (0..self.blocks).map(largest).collect() }
    }
}

/// Mean of P[t, 0] over heads and queries t ≥ `from` of every sequence; q [N, H, K], k [N, G, K], lse [H, N].
fn first_token_share(a: &Kernel, [q, k, lse]: [&[f32]; 3], lengths: &[usize], from: usize) -> f64 {
    let (tokens, width, share) = (lengths.iter().sum::<usize>(), a.key_width, a.heads / a.kv_heads);
    let (mut sum, mut count, mut first) = (0.0, 0.0, 0);
    for &length in lengths {
        for t in from..length {
            for head in 0..a.heads {
                count += 1.0;
                if a.window.0.is_some_and(|left| t > left) {
                    continue;
                }
                let query = &q[((first + t) * a.heads + head) * width..][..width];
                let key = &k[(first * a.kv_heads + head / share) * width..][..width];
                let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                let score = a.softcap.map_or(a.scale * dot, |c| c * (a.scale * dot / c).tanh());
                sum += (score - f64::from(lse[head * tokens + first + t])).exp();
            }
        }
        first += length;
    }
    sum / count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use memwall_formats::Dtype;
    use memwall_graph::check::pseudo_random;
    use memwall_graph::{Memory, PlanOptions, Source};
    use memwall_kernels::Pool;

    use super::*;
    use crate::{
        AttentionConfig, ChannelConfig, GateConfig, GatePosition, LayerConfig, Sequences, ShortConvConfig, WeightTypes,
    };

    const LENGTHS: [usize; 2] = [5, 9];

    /// What a probe sees of layers of `mixers` on two sequences; `weight` gives element i of a weight, or a random one.
    fn seen(mixers: Vec<MixerConfig>, from: usize, weight: impl Fn(&str, usize) -> Option<f64>) -> Sinks {
        let config = ModelConfig {
            tie_embeddings: true,
            ..ModelConfig::new(
                12,
                16,
                16,
                mixers.into_iter().map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).collect(),
            )
        };
        let tokens: usize = LENGTHS.iter().sum();
        let mut g = Graph::new(Dtype::F32);
        let seqs = Sequences::whole(&mut g, tokens, LENGTHS.len()).unwrap();
        let (ids, cu) = (seqs.ids, g.find("cu_seqlens").unwrap());
        let hidden = config.hidden(&mut g, &WeightTypes::new(), &seqs).unwrap();
        g.output("hidden", hidden);
        let probe = SinkProbe::new(&mut g, &config);
        let mut memory = Memory::new();
        for (_, info) in g.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
            let random = |i| pseudo_random(&info.name, i);
            let elements = info.ty.bytes(&[]) / 4;
            let values: Vec<f32> =
                (0..elements).map(|i| weight(&info.name, i).unwrap_or_else(|| random(i)) as f32).collect();
            memory.set(&info.name, Dtype::F32, &values).unwrap();
        }
        let mut e = Executor::new(g, PlanOptions::default(), &mut memory, Arc::new(Pool::new(1))).unwrap();
        e.input::<i32>(ids).iter_mut().enumerate().for_each(|(i, id)| *id = (7 * i % 12) as i32);
        e.input::<i32>(cu).copy_from_slice(&[0, 5, 14]);
        e.run(&mut memory).unwrap();
        probe.read(&e, &LENGTHS, from)
    }

    #[test]
    fn equal_scores_give_the_first_token_its_equal_share() {
        let no_queries = |name: &str, _| name.ends_with("q_proj.weight").then_some(0.0);
        let plain = AttentionConfig::new(4, 2, 4);
        let windowed = AttentionConfig { window: Some(4), ..plain.clone() };
        let conv = MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true });
        let sinks = seen(vec![MixerConfig::Attention(plain), conv, MixerConfig::Attention(windowed)], 2, no_queries);
        let queries: Vec<usize> = LENGTHS.iter().flat_map(|&n| 2..n).collect();
        let mean = |share: &dyn Fn(usize) -> f64| queries.iter().map(|&t| share(t)).sum::<f64>() / queries.len() as f64;
        let all = mean(&|t| 1.0 / (t + 1) as f64);
        let near = mean(&|t| if t < 4 { 1.0 / (t + 1) as f64 } else { 0.0 });
        assert!((sinks.layers[0].first_token_share - all).abs() < 1e-6, "{sinks:?}");
        assert!((sinks.layers[1].first_token_share - near).abs() < 1e-6, "{sinks:?}");
        assert_eq!((sinks.layers.len(), sinks.largest_hidden.len(), sinks.layers[0].gates), (2, 3, None));
    }

    #[test]
    fn a_query_that_sees_one_key_gives_it_everything() {
        let all = seen(vec![MixerConfig::Attention(AttentionConfig::new(2, 2, 8))], 0, |_, _| None);
        let late = seen(vec![MixerConfig::Attention(AttentionConfig::new(2, 2, 8))], 1, |_, _| None);
        // Two of fourteen queries are first tokens, which see themselves alone.
        let first = all.layers[0].first_token_share * 14.0 - late.layers[0].first_token_share * 12.0;
        assert!((first - 2.0).abs() < 1e-5, "{first}");
        assert!(late.layers[0].first_token_share < 0.9, "{late:?}");
    }

    #[test]
    fn gates_are_seen_wherever_they_stand() {
        for position in [GatePosition::AfterAttention, GatePosition::Values, GatePosition::Queries] {
            let gate = Some(GateConfig { position, input_independent: true, ..GateConfig::default() });
            let gated = AttentionConfig { gate, ..AttentionConfig::new(2, 2, 8) };
            // Every fourth gate is shut, the others half open.
            let gates = |name: &str, i: usize| {
                let shut = if i.is_multiple_of(4) { -30.0 } else { 0.0 };
                name.contains("gate_proj").then_some(shut)
            };
            let sinks = seen(vec![MixerConfig::Attention(gated)], 1, gates);
            let (mean, closed) = sinks.layers[0].gates.unwrap();
            assert!((mean - 0.375).abs() < 1e-6 && closed == 0.25, "{position:?}: {sinks:?}");
        }
    }

    #[test]
    fn the_largest_activation_is_that_of_the_stream() {
        let zero = |name: &str, i: usize| match name {
            crate::EMBEDDING => Some(if i == 0 { -700.0 } else { 0.25 }),
            name if name.ends_with("o_proj.weight") => Some(0.0),
            _ => None,
        };
        let sinks = seen(vec![MixerConfig::Attention(AttentionConfig::new(2, 2, 8)); 2], 1, zero);
        assert_eq!(sinks.largest_hidden, [700.0, 700.0]);
    }
}
