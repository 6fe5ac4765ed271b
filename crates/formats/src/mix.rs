//! Mixes: which format each tensor of a model gets, as llama.cpp's quantizer chooses.
//!
//! A mix such as `Q4_K_M` has a main format and spends more bits where errors hurt more: the output matrix (or the
//! embedding, where it serves as output), the value projections and the second matrix of the MLP in the first and the last
//! eighth of the layers and in every third between. Rows that the chosen format cannot cut into blocks get the nearest
//! format with shorter blocks. Names are those of GGUF (`blk.3.ffn_down.weight`).
//!
//! Source: llama.cpp, `src/llama-quant.cpp` (tensor categories, `use_more_bits`, fallback by shape), without importance
//! matrix; compared in `tests/mixes.rs` with files that it wrote.

use std::cmp::Ordering;

use crate::Dtype;

/// A mix, by the name that llama.cpp gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the variants are the field's own names
#[allow(non_camel_case_types)]
pub enum Mix {
    F32,
    BF16,
    F16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
    /// E2M1 in blocks of 32 for every matrix.
    MXFP4,
    /// MXFP4 for the matrices of experts, Q8_0 for all others.
    MXFP4_MOE,
    NVFP4,
    TQ1_0,
    TQ2_0,
    Q1_0,
    Q2_0,
    /// memwall's own: E3M2 in blocks of 64 for every matrix but the embedding and the output, which stay in BF16.
    FP6,
}

/// What the choice depends on besides the tensors.
#[derive(Clone, Copy, Debug)]
pub struct MixModel<'a> {
    /// `general.architecture`.
    pub architecture: &'a str,
    /// Layers, `block_count`.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Experts of a layer; 0 or 1 for dense models.
    pub experts: usize,
}

/// A tensor before quantization.
#[derive(Clone, Copy, Debug)]
pub struct MixTensor<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Outermost dimension first; the last is the row.
    pub shape: &'a [usize],
    /// How it is stored now.
    pub stored: Dtype,
}

impl Mix {
    /// Every mix, most bits first.
    pub const ALL: [Mix; 27] = {
        use Mix::*;
        [
            F32, BF16, F16, Q8_0, Q6_K, FP6, Q5_1, Q5_K_M, Q5_K_S, Q5_0, Q4_1, Q4_K_M, Q4_K_S, Q4_0, IQ4_NL, NVFP4,
            MXFP4_MOE, MXFP4, IQ4_XS, Q3_K_L, Q3_K_M, Q3_K_S, Q2_K, Q2_0, TQ2_0, TQ1_0, Q1_0,
        ]
    };

    /// The name in the field's spelling.
    pub const fn name(self) -> &'static str {
        use Mix::*;
        match self {
            F32 => "F32",
            BF16 => "BF16",
            F16 => "F16",
            Q8_0 => "Q8_0",
            Q6_K => "Q6_K",
            Q5_K_M => "Q5_K_M",
            Q5_K_S => "Q5_K_S",
            Q5_1 => "Q5_1",
            Q5_0 => "Q5_0",
            Q4_K_M => "Q4_K_M",
            Q4_K_S => "Q4_K_S",
            Q4_1 => "Q4_1",
            Q4_0 => "Q4_0",
            IQ4_NL => "IQ4_NL",
            IQ4_XS => "IQ4_XS",
            Q3_K_L => "Q3_K_L",
            Q3_K_M => "Q3_K_M",
            Q3_K_S => "Q3_K_S",
            Q2_K => "Q2_K",
            TQ1_0 => "TQ1_0",
            TQ2_0 => "TQ2_0",
            MXFP4 => "MXFP4",
            MXFP4_MOE => "MXFP4_MOE",
            NVFP4 => "NVFP4",
            Q1_0 => "Q1_0",
            Q2_0 => "Q2_0",
            FP6 => "FP6",
        }
    }

    /// The mix of that name in any case, or `None`; `Q3_K`, `Q4_K` and `Q5_K` mean their `_M`.
    pub fn from_name(name: &str) -> Option<Mix> {
        match name.to_ascii_uppercase().as_str() {
            "Q3_K" => Some(Mix::Q3_K_M),
            "Q4_K" => Some(Mix::Q4_K_M),
            "Q5_K" => Some(Mix::Q5_K_M),
            upper => Mix::ALL.into_iter().find(|m| m.name() == upper),
        }
    }

    /// The mix whose name is most like `name`, for "did you mean".
    pub fn nearest_name(name: &str) -> &'static str {
        crate::dtype::most_alike(name, Mix::ALL.map(Mix::name).into())
    }

    /// The format of most tensors.
    pub const fn main(self) -> Dtype {
        use Mix::*;
        match self {
            F32 => Dtype::F32,
            BF16 => Dtype::BF16,
            F16 => Dtype::F16,
            Q8_0 => Dtype::Q8_0,
            Q6_K => Dtype::Q6_K,
            Q5_K_M | Q5_K_S => Dtype::Q5_K,
            Q5_1 => Dtype::Q5_1,
            Q5_0 => Dtype::Q5_0,
            Q4_K_M | Q4_K_S => Dtype::Q4_K,
            Q4_1 => Dtype::Q4_1,
            Q4_0 => Dtype::Q4_0,
            IQ4_NL => Dtype::IQ4_NL,
            IQ4_XS => Dtype::IQ4_XS,
            Q3_K_L | Q3_K_M | Q3_K_S => Dtype::Q3_K,
            Q2_K => Dtype::Q2_K,
            MXFP4 | MXFP4_MOE => Dtype::MXFP4,
            TQ1_0 => Dtype::TQ1_0,
            TQ2_0 => Dtype::TQ2_0,
            NVFP4 => Dtype::NVFP4,
            Q1_0 => Dtype::Q1_0,
            Q2_0 => Dtype::Q2_0,
            FP6 => Dtype::FP6,
        }
    }

    /// The number of the mix in GGUF's `general.file_type`.
    pub const fn file_type(self) -> u32 {
        use Mix::*;
        match self {
            F32 => 0,
            F16 => 1,
            Q4_0 => 2,
            Q4_1 => 3,
            Q8_0 => 7,
            Q5_0 => 8,
            Q5_1 => 9,
            Q2_K => 10,
            Q3_K_S => 11,
            Q3_K_M => 12,
            Q3_K_L => 13,
            Q4_K_S => 14,
            Q4_K_M => 15,
            Q5_K_S => 16,
            Q5_K_M => 17,
            Q6_K => 18,
            IQ4_NL => 25,
            IQ4_XS => 30,
            BF16 => 32,
            TQ1_0 => 36,
            TQ2_0 => 37,
            // There is one number for MXFP4.
            MXFP4 | MXFP4_MOE => 38,
            NVFP4 => 39,
            Q1_0 => 40,
            Q2_0 => 41,
            // memwall's own: llama.cpp counts its mixes from 0 on.
            FP6 => 0x6d77,
        }
    }

    /// The format of every tensor of a model, in the order given.
    ///
    /// Norms, biases, expert gates, convolutions and other small tensors stay as they are stored.
    pub fn assign(self, model: &MixModel, tensors: &[MixTensor]) -> Vec<Dtype> {
        let tied = !tensors.iter().any(|t| t.name == "output.weight");
        let value_projections = tensors.iter().filter(|t| Role::of(t.name).is_value()).count();
        let mut chosen: Vec<Dtype> = tensors.iter().map(|t| t.stored).collect();
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|&a, &b| by_layer_then_name(tensors[a].name, tensors[b].name));
        // The running numbers count the tensors of a role, which are the layers unless some layers lack that role.
        let (mut value_number, mut down_number) = (0, 0);
        for i in order {
            let t = &tensors[i];
            if !is_quantized(t) {
                continue;
            }
            if !self.main().is_block() {
                chosen[i] = self.main();
                continue;
            }
            let role = match Role::of(t.name) {
                Role::Embedding if tied => Role::Output,
                role => role,
            };
            let place = match role {
                role if role.is_value() => Place { number: post_increment(&mut value_number), of: value_projections },
                Role::Down if model.experts > 1 => Place { number: layer(t.name).unwrap_or(0), of: model.layers },
                Role::Down => Place { number: post_increment(&mut down_number), of: model.layers },
                _ => Place { number: 0, of: model.layers },
            };
            chosen[i] = fit_rows(self.choose(model, t, role, place), t.shape.last().copied().unwrap_or(0));
        }
        chosen
    }

    fn choose(self, model: &MixModel, t: &MixTensor, role: Role, place: Place) -> Dtype {
        use Mix::*;
        let main = self.main();
        if self == MXFP4_MOE {
            return if t.name.contains("_exps.") { main } else { Dtype::Q8_0 };
        }
        if self == FP6 {
            return if matches!(role, Role::Output | Role::Embedding) { Dtype::BF16 } else { main };
        }
        let falcon = model.architecture == "falcon";
        let eight_experts = model.experts == 8;
        match role {
            Role::Output => {
                let whole = t.shape.last().is_some_and(|cols| cols.is_multiple_of(main.block_len()));
                if falcon || !whole || main == Dtype::Q8_0 { Dtype::Q8_0 } else { Dtype::Q6_K }
            }
            Role::Value | Role::Qkv | Role::KvB => {
                let shared_by_four = model.kv_heads > 0 && model.heads / model.kv_heads >= 4;
                let more = match self {
                    Q2_K if shared_by_four => Dtype::Q4_K,
                    Q2_K => Dtype::Q3_K,
                    Q3_K_M if place.number < 2 => Dtype::Q5_K,
                    Q3_K_M => Dtype::Q4_K,
                    Q3_K_L => Dtype::Q5_K,
                    IQ4_NL | IQ4_XS if shared_by_four => Dtype::Q5_K,
                    Q4_K_S if place.number < 4 => Dtype::Q5_K,
                    Q4_K_M | Q5_K_M if place.deserves_more_bits() => Dtype::Q6_K,
                    _ => main,
                };
                // Eight query heads share these values: a small matrix of much influence.
                let seventy_b = model.architecture == "llama" && model.layers == 80 && model.heads != model.kv_heads;
                match more {
                    _ if eight_experts => Dtype::Q8_0,
                    Dtype::Q3_K | Dtype::Q4_K if seventy_b => Dtype::Q5_K,
                    more => more,
                }
            }
            Role::Key if eight_experts => Dtype::Q8_0,
            Role::Down if falcon => match self {
                Q2_K => Dtype::Q3_K,
                Q3_K_M if place.number < place.of / 16 => Dtype::Q5_K,
                Q3_K_M if place.deserves_more_bits() => Dtype::Q4_K,
                Q3_K_L => Dtype::Q4_K,
                IQ4_NL | IQ4_XS if place.number < place.of / 8 => Dtype::Q5_K,
                Q4_K_M if place.number < place.of / 16 => Dtype::Q6_K,
                Q4_K_M if place.deserves_more_bits() => Dtype::Q5_K,
                Q5_K_M if place.deserves_more_bits() => Dtype::Q6_K,
                _ => main,
            },
            Role::Down => match self {
                Q2_K => Dtype::Q3_K,
                Q3_K_M if place.number < place.of / 16 => Dtype::Q5_K,
                Q3_K_M => Dtype::Q4_K,
                Q3_K_L => Dtype::Q5_K,
                IQ4_NL | IQ4_XS | Q4_K_S if place.number < place.of / 8 => Dtype::Q5_K,
                Q4_K_M | Q5_K_M if place.deserves_more_bits() => Dtype::Q6_K,
                _ => main,
            },
            Role::AttentionOutput if falcon => match self {
                Q3_K_L => Dtype::Q4_K,
                _ => main,
            },
            Role::AttentionOutput if eight_experts => match self {
                Q2_K | Q3_K_S | Q3_K_M | IQ4_NL | IQ4_XS | Q4_K_S | Q4_K_M => Dtype::Q5_K,
                _ => main,
            },
            Role::AttentionOutput => match self {
                Q2_K => Dtype::Q3_K,
                Q3_K_M => Dtype::Q4_K,
                Q3_K_L => Dtype::Q5_K,
                _ => main,
            },
            Role::Embedding if matches!(self, TQ1_0 | TQ2_0) => Dtype::Q4_K,
            Role::Key | Role::Embedding | Role::Other => main,
        }
    }
}

/// What a tensor is for, as far as mixes distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Output,
    Embedding,
    Qkv,
    KvB,
    Value,
    Key,
    AttentionOutput,
    Down,
    Other,
}

impl Role {
    fn of(name: &str) -> Role {
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
            _ if name.contains("attn_qkv.weight") => Role::Qkv,
            _ if name.contains("attn_kv_b.weight") => Role::KvB,
            _ if name.contains("attn_v.weight") => Role::Value,
            _ if name.contains("attn_k.weight") => Role::Key,
            _ if name.contains("attn_output.weight") => Role::AttentionOutput,
            _ if name.contains("ffn_down") => Role::Down,
            _ => Role::Other,
        }
    }

    fn is_value(self) -> bool {
        matches!(self, Role::Value | Role::Qkv | Role::KvB)
    }
}

/// Which of the tensors of a role.
#[derive(Clone, Copy)]
struct Place {
    number: usize,
    of: usize,
}

impl Place {
    /// In the first and the last eighth, and every third between.
    fn deserves_more_bits(self) -> bool {
        let eighth = self.of / 8;
        self.number < eighth || self.number >= 7 * self.of / 8 || (self.number - eighth) % 3 == 2
    }
}

fn post_increment(n: &mut usize) -> usize {
    *n += 1;
    *n - 1
}

/// Matrices and stacks of matrices, except those that are small or that errors hurt most.
fn is_quantized(t: &MixTensor) -> bool {
    // A matrix of one row counts as a vector.
    let dimensions = t.shape.iter().skip_while(|d| **d == 1).count();
    let kept = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "memory_bank.weight",
        "indexer.k_proj.weight",
        "indexer.q_proj.weight",
        "time_mix_first.weight",
        "time_mix_w0.weight",
        "time_mix_w1.weight",
        "time_mix_w2.weight",
        "time_mix_v0.weight",
        "time_mix_v1.weight",
        "time_mix_v2.weight",
        "time_mix_a0.weight",
        "time_mix_a1.weight",
        "time_mix_a2.weight",
        "time_mix_g1.weight",
        "time_mix_g2.weight",
        "time_mix_decay_w1.weight",
        "time_mix_decay_w2.weight",
        "time_mix_lerp_fused.weight",
        "attn_rel_b.weight",
        ".position_embd",
        "sam.pos_embd",
        "sam.neck.",
        "sam.net_",
        ".rel_pos",
        ".patch_embd",
        ".patch_merger",
        "a.rvq.codebook",
        "mm.a.code_embd",
    ];
    dimensions >= 2
        && t.name.ends_with("weight")
        && !matches!(t.name, "position_embd.weight" | "token_types.weight")
        && !kept.iter().any(|part| t.name.contains(part))
}

/// The format itself, or the nearest whose blocks divide rows of `cols` values.
fn fit_rows(chosen: Dtype, cols: usize) -> Dtype {
    let fallback = match chosen {
        d if d.row_bytes(cols).is_some() => return d,
        Dtype::Q2_K | Dtype::Q3_K | Dtype::TQ1_0 | Dtype::TQ2_0 => Dtype::Q4_0,
        Dtype::NVFP4 | Dtype::Q1_0 | Dtype::Q2_0 => Dtype::Q4_0,
        Dtype::Q4_K => Dtype::Q5_0,
        Dtype::Q5_K => Dtype::Q5_1,
        Dtype::Q6_K | Dtype::FP6 => Dtype::Q8_0,
        Dtype::IQ4_XS => Dtype::IQ4_NL,
        _ => Dtype::F16,
    };
    if fallback.row_bytes(cols).is_some() { fallback } else { Dtype::F16 }
}

fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

fn by_layer_then_name(a: &str, b: &str) -> Ordering {
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}
