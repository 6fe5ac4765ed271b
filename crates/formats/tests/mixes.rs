//! Mixes give every tensor the format that llama.cpp gives it.
//!
//! `golden/mixes.tsv` comes from `golden/make_mixes.py`, which describes it.

use memwall_formats::{Dtype, Mix, MixModel, MixTensor};

struct Case<'a> {
    model: MixModel<'a>,
    tied: bool,
    width: usize,
    inner: usize,
    mix: Mix,
    letters: &'a str,
}

impl<'a> Case<'a> {
    fn parse(line: &'a str) -> Self {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |i: usize| fields[i].parse::<usize>().expect("a number");
        Case {
            model: MixModel {
                architecture: fields[0],
                layers: number(1),
                heads: number(2),
                kv_heads: number(3),
                experts: number(4),
            },
            tied: number(5) == 1,
            width: number(6),
            inner: number(7),
            mix: Mix::from_name(fields[8]).expect("a known mix"),
            letters: fields[9],
        }
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (width, inner, experts) = (self.width, self.inner, self.model.experts);
        let mut all = vec![("token_embd.weight".into(), vec![8, width])];
        for i in 0..self.model.layers {
            let mut add = |name: &str, shape: &[usize]| all.push((format!("blk.{i}.{name}"), shape.to_vec()));
            add("attn_norm.weight", &[width]);
            if self.model.architecture == "falcon" {
                add("attn_qkv.weight", &[8, width]);
            } else {
                add("attn_q.weight", &[8, width]);
                add("attn_k.weight", &[4, width]);
                add("attn_v.weight", &[4, width]);
            }
            add("attn_output.weight", &[8, width]);
            if self.model.architecture == "qwen2" {
                add("attn_q.bias", &[8]);
            }
            if experts > 0 {
                add("ffn_gate_inp.weight", &[experts, width]);
                add("ffn_gate_exps.weight", &[experts, 4, width]);
                add("ffn_down_exps.weight", &[experts, 4, inner]);
                add("ffn_up_exps.weight", &[experts, 4, width]);
            } else {
                if self.model.architecture != "falcon" {
                    add("ffn_gate.weight", &[4, width]);
                }
                add("ffn_down.weight", &[4, inner]);
                add("ffn_up.weight", &[4, width]);
            }
        }
        all.push(("output_norm.weight".into(), vec![width]));
        if !self.tied {
            all.push(("output.weight".into(), vec![8, width]));
        }
        all
    }
}

fn letter(dtype: Dtype) -> char {
    match dtype {
        Dtype::F32 => 'f',
        Dtype::F16 => 'h',
        Dtype::BF16 => 'b',
        Dtype::Q8_0 => '8',
        Dtype::Q6_K => '6',
        Dtype::Q5_K => '5',
        Dtype::Q5_1 => '1',
        Dtype::Q5_0 => '0',
        Dtype::Q4_K => '4',
        Dtype::Q4_1 => 'y',
        Dtype::Q4_0 => 'x',
        Dtype::Q3_K => '3',
        Dtype::Q2_K => '2',
        Dtype::IQ4_NL => 'n',
        Dtype::IQ4_XS => 's',
        Dtype::TQ1_0 => 't',
        Dtype::TQ2_0 => 'u',
        Dtype::MXFP4 => 'm',
        Dtype::NVFP4 => 'v',
        Dtype::Q1_0 => 'i',
        Dtype::Q2_0 => 'j',
        other => panic!("no mix uses {other}"),
    }
}

fn assigned(case: &Case, tensors: &[(String, Vec<usize>)]) -> Vec<Dtype> {
    let tensors: Vec<MixTensor> =
        tensors.iter().map(|(name, shape)| MixTensor { name, shape, stored: Dtype::F32 }).collect();
    case.mix.assign(&case.model, &tensors)
}

#[test]
fn every_tensor_gets_the_format_that_llama_cpp_gives_it() {
    let mut compared = 0;
    for case in include_str!("golden/mixes.tsv").lines().map(Case::parse) {
        let tensors = case.tensors();
        assert_eq!(tensors.len(), case.letters.len());
        for (((name, shape), dtype), expected) in
            tensors.iter().zip(assigned(&case, &tensors)).zip(case.letters.chars())
        {
            assert_eq!(letter(dtype), expected, "{} of {:?} with {}: {shape:?}", name, case.model, case.mix.name());
            compared += 1;
        }
    }
    println!("{compared} tensors compared");
    assert!(compared > 50_000, "{compared}");
}

#[test]
fn the_order_of_the_tensors_does_not_matter() {
    for case in include_str!("golden/mixes.tsv").lines().map(Case::parse) {
        let tensors = case.tensors();
        let expected = assigned(&case, &tensors);
        let mut reversed: Vec<_> = tensors.into_iter().rev().collect();
        let half = reversed.len() / 2;
        reversed.rotate_left(half);
        let mut chosen = assigned(&case, &reversed);
        chosen.rotate_right(half);
        chosen.reverse();
        assert_eq!(chosen, expected, "{:?} {}", case.model, case.mix.name());
    }
}

#[test]
fn names_lead_back_to_their_mix_and_near_misses_to_the_one_meant() {
    for mix in Mix::ALL {
        assert_eq!(Mix::from_name(&mix.name().to_lowercase()), Some(mix));
    }
    assert_eq!(Mix::from_name("q4_k"), Some(Mix::Q4_K_M));
    assert_eq!(Mix::from_name("q4km"), None);
    for (typed, meant) in
        [("q4km", "Q4_K_M"), ("Q5-K-S", "Q5_K_S"), ("q8", "Q8_0"), ("fp16", "F16"), ("bfloat16", "BF16")]
    {
        assert_eq!(Mix::nearest_name(typed), meant, "{typed}");
    }
}
