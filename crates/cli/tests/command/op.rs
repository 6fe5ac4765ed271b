//! `memwall op` against PyTorch's own gradients, naive forms, and its own documentation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use memwall_kernels::attention::{Attention, BlockMask, naive};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{json, refused, text};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A tensor to write: name, type, shape, bytes.
pub(crate) struct Given(pub(crate) &'static str, Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn reals(name: &'static str, shape: &[usize], values: &[f64]) -> Given {
    Given(name, Dtype::F64, shape.to_vec(), bytemuck::cast_slice(values).to_vec())
}

pub(crate) fn integers(name: &'static str, shape: &[usize], values: &[i64]) -> Given {
    Given(name, Dtype::I64, shape.to_vec(), bytemuck::cast_slice(values).to_vec())
}

pub(crate) fn write(path: &Path, given: &[Given]) {
    let views = given.iter().map(|g| (g.0, TensorView::new(g.1, g.2.clone(), &g.3).unwrap()));
    let none: Option<HashMap<String, String>> = None;
    std::fs::write(path, safetensors::serialize(views, none).unwrap()).unwrap();
}

/// Shapes and elements of a file's real tensors.
fn read(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f64>)> {
    let bytes = std::fs::read(path).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |t: &TensorView<'_>| -> Vec<f64> {
        match t.dtype() {
            Dtype::F64 => t.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::F32 => {
                t.data().chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            _ => t.data().iter().map(|&b| f64::from(b)).collect(),
        }
    };
    parsed.tensors().iter().map(|(name, t)| (name.clone(), (t.shape().to_vec(), tensor(t)))).collect()
}

/// The greatest difference over the greatest element; both must have the same shape.
#[track_caller]
pub(crate) fn difference(name: &str, got: &(Vec<usize>, Vec<f64>), want: &(Vec<usize>, Vec<f64>)) -> f64 {
    assert_eq!(got.0, want.0, "shape of {name}");
    let scale = want.1.iter().filter(|x| x.is_finite()).fold(1e-9_f64, |m, x| m.max(x.abs()));
    let each = got.1.iter().zip(&want.1).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / scale });
    each.fold(0.0, |m: f64, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}

/// Runs an operator on a file; what it wrote.
pub(crate) fn run(name: &str, input: &Path, options: &[&str]) -> HashMap<String, (Vec<usize>, Vec<f64>)> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let mut args = vec!["op", name, "--in", text(input), "--out", text(&out), "--json"];
    args.extend(options);
    let report = json(&args);
    let made = read(&out);
    assert_eq!(report["outputs"].as_array().unwrap().len(), made.len());
    made
}

/// Numbers that look random, in (−1, 1).
pub(crate) fn draw(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[test]
fn attention_and_its_gradients_equal_those_of_pytorch() {
    let want = read(&golden("attention.out.safetensors"));
    let options = ["--grad", "--causal", "--window-left", "5", "--softcap", "2", "--scale", "0.3"];
    for (dtype, bar) in [("f64", 1e-12), ("f32", 2e-6), ("bf16", 2e-2)] {
        let made = run("attention", &golden("attention.in.safetensors"), &[&options[..], &["--dtype", dtype]].concat());
        for (name, want) in &want {
            let worst = difference(name, &made[name], want);
            assert!(worst < bar, "{name} in {dtype}: {worst:e}");
        }
    }
}

#[test]
fn gated_linear_attention_and_its_gradients_equal_those_of_pytorch_in_every_form() {
    let want = read(&golden("gla.out.safetensors"));
    for form in ["recurrent", "chunked", "parallel"] {
        for (dtype, bar) in [("f64", 1e-12), ("f32", 5e-6), ("bf16", 3e-2)] {
            for threads in ["1", "2"] {
                let options = ["--grad", "--form", form, "--chunk", "16", "--dtype", dtype, "--threads", threads];
                let made = run("gla", &golden("gla.in.safetensors"), &options);
                for (name, want) in &want {
                    let worst = difference(name, &made[name], want);
                    assert!(worst < bar, "{name}, {form} in {dtype}: {worst:e}");
                }
            }
        }
    }
}

#[test]
fn the_gated_delta_rule_and_its_gradients_equal_those_of_pytorch_in_every_form() {
    for gate in ["head", "channel"] {
        let want = read(&golden(&format!("delta_{gate}.out.safetensors")));
        for form in ["recurrent", "chunked"] {
            for (dtype, bar) in [("f64", 1e-12), ("f32", 1e-5)] {
                for threads in ["1", "2"] {
                    let options = ["--grad", "--form", form, "--chunk", "16", "--dtype", dtype, "--threads", threads];
                    let made = run("delta", &golden(&format!("delta_{gate}.in.safetensors")), &options);
                    for (name, want) in &want {
                        let worst = difference(name, &made[name], want);
                        assert!(worst < bar, "{name}, gate by {gate}, {form} in {dtype}: {worst:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn recurrences_of_rwkv_and_mamba_and_their_gradients_equal_those_of_pytorch() {
    let cases: [(&str, &[&str]); 7] = [
        ("wkv4", &[]),
        ("wkv6", &["--form", "recurrent"]),
        ("wkv6", &["--form", "chunked", "--chunk", "16"]),
        ("wkv6", &["--form", "parallel"]),
        ("wkv7", &["--form", "recurrent"]),
        ("wkv7", &["--form", "chunked", "--chunk", "16"]),
        ("selective_scan", &[]),
    ];
    for (name, options) in cases {
        let want = read(&golden(&format!("{name}.out.safetensors")));
        for (dtype, bar) in [("f64", 1e-12), ("f32", 1e-5)] {
            for threads in ["1", "2"] {
                let options = [options, &["--grad", "--dtype", dtype, "--threads", threads]].concat();
                let made = run(name, &golden(&format!("{name}.in.safetensors")), &options);
                for (tensor, want) in &want {
                    let worst = difference(tensor, &made[tensor], want);
                    assert!(worst < bar, "{name} {options:?}, {tensor}: {worst:e}");
                }
            }
        }
    }
}

#[test]
fn recurrences_of_rwkv_and_mamba_refuse_bad_input_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let rows = |name: &'static str, value: f64| reals(name, &[1, 3, 4], &[value; 12]);
    let op = |name: &str, given: &[Given], parts: &[&str]| {
        write(&input, given);
        refused(&["op", name, "--in", text(&input), "--out", text(&out)], parts);
    };
    let wkv = |decay: f64| {
        vec![reals("log_decay", &[4], &[decay; 4]), reals("bonus", &[4], &[0.5; 4]), rows("k", 0.1), rows("v", 0.2)]
    };
    op("wkv4", &wkv(0.5), &["log_decay", "element 0 is 0.5", "at most 0"]);
    op("wkv4", &wkv(f64::NAN), &["log_decay", "NaN"]);
    let mut wide = wkv(-0.5);
    wide[3] = reals("v", &[1, 3, 5], &[0.2; 15]);
    op("wkv4", &wide, &["v has shape [1, 3, 5]"]);
    let scan = |delta: f64, a: f64| {
        let shared = |name: &'static str| reals(name, &[1, 3, 2], &[0.3; 6]);
        let (a, skip) = (reals("a", &[4, 2], &[a; 8]), reals("skip", &[4], &[1.0; 4]));
        vec![rows("x", 0.1), rows("delta", delta), a, shared("b"), shared("c"), skip]
    };
    op("selective_scan", &scan(-0.1, -1.0), &["delta", "element 0 is -0.1", "at least 0"]);
    op("selective_scan", &scan(0.1, 1.0), &["a", "element 0 is 1", "at most 0"]);
}

/// Tensors of the delta rule, [1, T, heads, width] or as rows of a step [T, heads, width].
fn delta_tensors(lead: &[usize], [t, h, kw, vw]: [usize; 4]) -> Vec<Given> {
    let rows = |tail: &[usize]| [lead, &[t], tail].concat();
    let mut k = draw(t * h * kw, 2);
    for k in k.chunks_exact_mut(kw) {
        let length = k.iter().map(|x| x * x).sum::<f64>().sqrt();
        k.iter_mut().for_each(|x| *x /= length);
    }
    let g: Vec<f64> = draw(t * h * kw, 4).iter().map(|x| -x.abs()).collect();
    let beta: Vec<f64> = draw(t * h, 5).iter().map(|x| x.abs().min(2.0)).collect();
    vec![
        reals("q", &rows(&[h, kw]), &draw(t * h * kw, 1)),
        reals("k", &rows(&[h, kw]), &k),
        reals("v", &rows(&[h, vw]), &draw(t * h * vw, 3)),
        reals("beta", &rows(&[h]), &beta),
        reals("g", &rows(&[h, kw]), &g),
    ]
}

#[test]
fn delta_steps_on_states_have_the_bits_of_whole_sequences() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let sizes @ [t, h, kw, vw] = [9, 2, 4, 5];
    write(&input, &delta_tensors(&[1], sizes));
    let whole = run("delta", &input, &["--form", "recurrent"]);
    let mut given = delta_tensors(&[], sizes);
    given.push(reals("state", &[1, h, kw, vw], &vec![0.0; h * kw * vw]));
    given.push(integers("slots", &[t], &vec![0; t]));
    write(&input, &given);
    let steps = run("delta_step", &input, &[]);
    assert_eq!(steps["o"].1, whole["o"].1);
    assert_eq!(steps["state"].1, whole["final_state"].1);
}

#[test]
fn the_delta_rule_refuses_bad_input_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let op = ["op", "delta", "--in", input.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let sizes @ [t, h, kw, vw] = [3, 2, 4, 5];
    let with = |changed: Given| {
        let mut given = delta_tensors(&[1], sizes);
        given.retain(|g| g.0 != changed.0);
        given.push(changed);
        write(&input, &given);
    };
    let spoiled = |n: usize, at: usize, value: f64| {
        let mut x = vec![0.0; n];
        x[at] = value;
        x
    };
    with(reals("g", &[1, t, h, kw], &spoiled(t * h * kw, 9, f64::NAN)));
    refused(&op, &["g: log-gate 9 (token 1) is NaN"]);
    with(reals("g", &[1, t, h], &spoiled(t * h, 2, 0.5)));
    refused(&op, &["g: log-gate 2 (token 1) is 0.5", "at most 0"]);
    with(reals("g", &[1, t, h], &spoiled(t * h, 0, f64::NEG_INFINITY)));
    refused(&op, &["g: log-gate 0", "finite"]);
    with(reals("beta", &[1, t, h], &spoiled(t * h, 5, 2.5)));
    refused(&op, &["beta: element 5 (token 2) is 2.5", "0 to 2"]);
    with(reals("beta", &[1, t, h], &spoiled(t * h, 5, -0.5)));
    refused(&op, &["beta: element 5", "-0.5"]);
    with(reals("beta", &[1, t + 1, h], &vec![0.5; (t + 1) * h]));
    refused(&op, &["beta", "[1, 4, 2]"]);
    with(reals("v", &[1, t, 3, vw], &vec![0.5; t * 3 * vw]));
    refused(&op, &["beta has shape [1, 3, 2]", "H = 3"]);
    write(&input, &delta_tensors(&[1], sizes));
    refused(&[&op[..], &["--chunk", "24"]].concat(), &["multiple of 16"]);
    refused(&[&op[..], &["--form", "parallel"]].concat(), &["--form parallel", "recurrent", "chunked"]);
    assert!(!out.exists());
}

#[test]
fn ridge_steps_on_states_have_the_bits_of_whole_sequences_and_bad_input_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let [t, h, w] = [9, 2, 4];
    let g: Vec<f64> = draw(t * h, 4).iter().map(|x| -x.abs()).collect();
    let tensors = |lead: &[usize]| {
        let rows = |tail: &[usize]| [lead, &[t], tail].concat();
        vec![
            reals("q", &rows(&[h, w]), &draw(t * h * w, 1)),
            reals("k", &rows(&[h, w]), &draw(t * h * w, 2)),
            reals("g", &rows(&[h]), &g),
        ]
    };
    write(&input, &tensors(&[1]));
    let whole = run("ridge", &input, &["--form", "recurrent", "--num-iter", "12"]);
    let mut given = tensors(&[]);
    given.push(reals("state", &[1, h, w, w], &vec![0.0; h * w * w]));
    given.push(integers("slots", &[t], &vec![0; t]));
    write(&input, &given);
    let steps = run("ridge_step", &input, &["--num-iter", "12"]);
    assert_eq!(steps["x"].1, whole["x"].1);
    assert_eq!(steps["state"].1, whole["final_state"].1);

    let op = ["op", "ridge", "--in", input.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let with = |changed: Given| {
        let mut given = tensors(&[1]);
        given.retain(|g| g.0 != changed.0);
        given.push(changed);
        write(&input, &given);
    };
    let mut spoiled = g.clone();
    spoiled[3] = 0.5;
    with(reals("g", &[1, t, h], &spoiled));
    refused(&op, &["g: log-gate 3 (token 1) is 0.5", "at most 0"]);
    let mut state = vec![0.0; h * w * w];
    state[1] = 2.0;
    with(reals("initial_state", &[1, h, w, w], &state));
    refused(&op, &["initial_state: head 0 of sequence 0 is not symmetric", "(1, 0)"]);
    write(&input, &tensors(&[1]));
    refused(&[&op[..], &["--ridge-strength", "0"]].concat(), &["ridge_strength is 0", "above 0"]);
    refused(&[&op[..], &["--num-iter=-1"]].concat(), &["whole number from 0 on"]);
    assert!(!out.exists());
}

/// One set of options of attention, on packed sequences.
struct Options {
    attention: Attention,
    flags: Vec<&'static str>,
    slopes: bool,
    mask: bool,
}

fn options() -> Vec<Options> {
    let base =
        Attention { heads: 4, kv_heads: 2, key_width: 8, value_width: 6, scale: 8f64.powf(-0.5), ..Default::default() };
    let plain = |attention: Attention, flags: &[&'static str]| Options {
        attention,
        flags: flags.to_vec(),
        slopes: attention.alibi,
        mask: false,
    };
    vec![
        plain(base, &[]),
        plain(Attention { causal: true, ..base }, &["--causal"]),
        plain(Attention { causal: true, window: (Some(3), None), ..base }, &["--causal", "--window-left", "3"]),
        plain(
            Attention { window: (Some(2), Some(1)), softcap: Some(1.5), ..base },
            &["--window-left", "2", "--window-right", "1", "--softcap", "1.5"],
        ),
        plain(Attention { alibi: true, causal: true, ..base }, &["--causal"]),
        plain(Attention { dropout: 0.3, seed: 5, ..base }, &["--dropout", "0.3", "--seed", "5"]),
        Options { mask: true, ..plain(base, &["--block-rows", "4", "--block-cols", "4"]) },
    ]
}

#[test]
fn every_option_of_attention_equals_its_naive_form() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let (n, cu) = (19, [0_i32, 7, 8, 19]);
    let mask = BlockMask::new((4, 3), (4, 3), |r, c| r == c || c == 0);
    for o in options() {
        let a = o.attention;
        let (q, k) = (draw(n * a.heads * a.key_width, 1), draw(n * a.kv_heads * a.key_width, 2));
        let (v, d_o) = (draw(n * a.kv_heads * a.value_width, 3), draw(n * a.heads * a.value_width, 4));
        let slopes: Vec<f64> = (0..a.heads).map(|h| 0.5f64.powi(h as i32 + 1)).collect();
        let mut given = vec![
            reals("q", &[1, n, a.heads, a.key_width], &q),
            reals("k", &[1, n, a.kv_heads, a.key_width], &k),
            reals("v", &[1, n, a.kv_heads, a.value_width], &v),
            reals("do", &[1, n, a.heads, a.value_width], &d_o),
            integers("cu_seqlens", &[4], &cu.map(i64::from)),
        ];
        if o.slopes {
            given.push(reals("alibi_slopes", &[a.heads], &slopes));
        }
        if o.mask {
            given.push(Given("block_mask", Dtype::BOOL, vec![3, 3], mask.visible.iter().map(|&v| v.into()).collect()));
        }
        write(&input, &given);
        let oracle = naive::Inputs {
            attention: &a,
            q: &q,
            k: &k,
            v: &v,
            cu_seqlens_q: &cu,
            cu_seqlens_k: &cu,
            alibi_slopes: o.slopes.then_some(&slopes[..]),
            block_mask: o.mask.then_some(&mask),
        };
        let (want_o, want_lse) = oracle.forward();
        let (dq, dk, dv) = oracle.backward(&d_o);
        let made = run("attention", &input, &[&o.flags[..], &["--grad", "--dtype", "f64"]].concat());
        let wide = |heads, width| vec![1, n, heads, width];
        for (name, shape, want) in [
            ("o", wide(a.heads, a.value_width), want_o),
            ("lse", vec![a.heads, n], want_lse),
            ("dq", wide(a.heads, a.key_width), dq),
            ("dk", wide(a.kv_heads, a.key_width), dk),
            ("dv", wide(a.kv_heads, a.value_width), dv),
        ] {
            let worst = difference(name, &made[name], &(shape, want));
            assert!(worst < 1e-12, "{name} with {:?}: {worst:e}", o.flags);
        }
        if a.causal {
            // Over a cache there are the same bits as in f32.
            let f32s = run("attention", &input, &o.flags);
            let cached = run("attention", &input, &[&o.flags[..], &["--form", "recurrent"]].concat());
            assert_eq!(f32s["o"], cached["o"], "{:?}", o.flags);
        }
    }
}

#[test]
fn steps_on_states_continue_what_whole_sequences_do() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let (t, h, kw, vw) = (9, 2, 4, 5);
    let (q, k, v) = (draw(t * h * kw, 1), draw(t * h * kw, 2), draw(t * h * vw, 3));
    let g: Vec<f64> = draw(t * h * kw, 4).iter().map(|x| -x.abs()).collect();
    let rows = |lead: &[usize], heads: usize, width: usize| [lead, &[t, heads, width]].concat();
    let all = |lead: &[usize]| {
        [
            reals("q", &rows(lead, h, kw), &q),
            reals("k", &rows(lead, h, kw), &k),
            reals("v", &rows(lead, h, vw), &v),
            reals("g", &rows(lead, h, kw), &g),
        ]
    };
    write(&input, &all(&[1]));
    let whole = run("gla", &input, &[]);
    let mut given: Vec<Given> = all(&[]).into();
    given.push(reals("state", &[1, h, kw, vw], &vec![0.0; h * kw * vw]));
    given.push(integers("slots", &[t], &vec![0; t]));
    write(&input, &given);
    let steps = run("gla_step", &input, &[]);
    assert_eq!(steps["o"].1, whole["o"].1);
    assert_eq!(steps["state"].1, whole["final_state"].1);

    let (d, w) = (6, 3);
    let (x, weight) = (draw(t * d, 5), draw(d * w, 6));
    write(&input, &[reals("x", &[1, t, d], &x), reals("weight", &[d, w], &weight)]);
    let whole = run("conv1d", &input, &["--silu"]);
    assert_eq!(whole, run("conv1d", &input, &["--silu", "--form", "recurrent"]));
    // By hand, at the last position of the first channel.
    let sum: f64 = (0..w).map(|j| weight[j] * x[(t - w + j) * d]).sum();
    let want = sum / (1.0 + (-sum).exp());
    assert!((whole["y"].1[(t - 1) * d] - want).abs() < 1e-6);
}

#[test]
fn a_mixer_has_the_same_outputs_in_all_its_forms_and_gradients_of_its_weights() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let (b, t, d) = (2, 6, 8);
    let x = reals("x", &[b, t, d], &draw(b * t * d, 1));
    let dy = reals("dy", &[b, t, d], &draw(b * t * d, 2));
    let weight = |name, shape: [usize; 2], seed| reals(name, &shape, &draw(shape[0] * shape[1], seed));
    let attention = r#"{"kind": "attention", "heads": 2, "kv_heads": 1, "head_dim": 4, "rope": {}, "window": 3}"#;
    let gla = r#"{"kind": "gla", "heads": 2, "key_width": 4, "value_width": 4, "gate": false, "output_gate": false}"#;
    let projections = |kv: usize| {
        vec![
            weight("q_proj.weight", [8, d], 3),
            weight("k_proj.weight", [kv, d], 4),
            weight("v_proj.weight", [kv, d], 5),
            weight("o_proj.weight", [d, 8], 6),
        ]
    };
    let mut norm = projections(8);
    norm.push(reals("g_norm.weight", &[4], &draw(4, 7)));
    for (config, weights) in [(attention, projections(4)), (gla, norm)] {
        let mut given = vec![reals("x", &[b, t, d], &draw(b * t * d, 1))];
        given.extend(weights);
        write(&input, &given);
        let parallel = run("mixer", &input, &["--config", config]);
        let recurrent = run("mixer", &input, &["--config", config, "--form", "recurrent"]);
        let worst = difference("y", &recurrent["y"], &parallel["y"]);
        assert!(worst < 1e-5, "{config}: {worst:e}");
        given.push(reals("dy", &[b, t, d], &draw(b * t * d, 2)));
        write(&input, &given);
        let made = run("mixer", &input, &["--config", config, "--grad", "--dtype", "f64"]);
        for name in ["dx", "dq_proj.weight", "dk_proj.weight", "dv_proj.weight", "do_proj.weight"] {
            assert!(made[name].1.iter().any(|x| x.abs() > 1e-3), "{name}");
        }
        assert_eq!(made["dq_proj.weight"].0, [8, d]);
    }
    write(&input, &[x, dy]);
    refused(
        &["op", "mixer", "--in", text(&input), "--out", "o", "--config", attention],
        &["q_proj.weight", "missing", "[8, 8]"],
    );
}

#[test]
fn formats_and_the_optimizer_run_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    let (input, codes) = (folder.path().join("in.safetensors"), folder.path().join("codes.safetensors"));
    let x = draw(2 * 256, 9);
    write(&input, &[reals("x", &[2, 256], &x)]);
    for (format, bytes, bar) in [("q8_0", 272, 5e-3), ("Q4_K", 144, 0.08), ("q6_k", 210, 0.02), ("bf16", 512, 4e-3)] {
        json(&["op", "encode", "--in", text(&input), "--out", text(&codes), "--format", format, "--json"]);
        assert_eq!(read(&codes)["bytes"].0, [2, bytes], "{format}");
        let decoded = run("decode", &codes, &["--format", format]);
        let worst = difference(format, &decoded["x"], &(vec![2, 256], x.clone()));
        assert!(worst > 0.0 && worst < bar, "{format}: {worst}");
        // A product with the stored weight is that with the decoded one, up to the rounding of x to int8 blocks.
        let linear = [reals("x", &[1, 256], &draw(256, 10)), reals("weight", &[2, 256], &x)];
        write(&folder.path().join("l.safetensors"), &linear);
        let y = run("linear", &folder.path().join("l.safetensors"), &["--weight-format", format]);
        let want: Vec<f64> =
            (0..2).map(|n| (0..256).map(|k| draw(256, 10)[k] * decoded["x"].1[n * 256 + k]).sum()).collect();
        let worst = difference("y", &y["y"], &(vec![1, 2], want));
        assert!(worst < 0.05, "{format}: {worst}");
    }
    let [p, g, m, v] = [0.5, -0.25, 0.125, 0.0625];
    let one = |name, x: f64| reals(name, &[1], &[x]);
    write(&input, &[one("p", p), one("g", g), one("m", m), one("v", v)]);
    let options = ["--learning-rate", "0.1", "--weight-decay", "0.01", "--step", "2", "--dtype", "f64"];
    let made = run("adamw", &input, &options);
    let (m, v) = (0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g);
    let want = p - 0.1 * 0.01 * p - 0.1 * (m / (1.0 - 0.81)) / ((v / (1.0 - 0.95 * 0.95)).sqrt() + 1e-8);
    assert!((made["p"].1[0] - want).abs() < 1e-14 && (made["m"].1[0] - m).abs() < 1e-15);
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let q = reals("q", &[1, 3, 2, 4], &draw(24, 1));
    let k = reals("k", &[1, 3, 1, 5], &draw(15, 2));
    let out = folder.path().join("out.safetensors");
    let op = |name: &'static str| vec!["op", name, "--in", text(&input), "--out", text(&out)];
    write(&input, &[q]);
    refused(&op("atention"), &["atention", "did you mean attention"]);
    refused(&op("attention"), &["in.safetensors", "input k is missing", "[B, M, G, K]"]);
    write(&input, &[reals("q", &[1, 3, 2, 4], &draw(24, 1)), k]);
    refused(&op("attention"), &["input k has shape [1, 3, 1, 5]", "K = 4"]);
    write(
        &input,
        &[reals("x", &[3, 4], &draw(12, 1)), reals("wieght", &[4], &draw(4, 1)), reals("weight", &[4], &draw(4, 1))],
    );
    refused(&op("rms_norm"), &["no input wieght", "did you mean weight"]);
    write(&input, &[reals("x", &[3, 4], &draw(12, 1)), reals("weight", &[4], &draw(4, 1))]);
    refused(&[&op("rms_norm")[..], &["--causal"]].concat(), &["--causal", "rms_norm", "--eps"]);
    refused(&[&op("rms_norm")[..], &["--grad"]].concat(), &["--grad", "dy [3, 4]"]);
    refused(&[&op("rms_norm")[..], &["--form", "chunked"]].concat(), &["--form chunked", "no choice"]);
    refused(&op("encode"), &["no input weight"]);
    write(&input, &[reals("x", &[3, 4], &draw(12, 1))]);
    refused(&op("encode"), &["--format is missing"]);
    refused(&[&op("encode")[..], &["--format", "q4k"]].concat(), &["q4k", "Q4_K"]);
    refused(&[&op("encode")[..], &["--format", "q4_k"]].concat(), &["input x", "4 values", "256"]);
    write(&input, &[reals("x", &[3, 0], &[]), reals("weight", &[0], &[])]);
    refused(&op("rms_norm"), &["F32[3, 0]", "at least 1"]);
    refused(&op("gla_step"), &["input state is missing"]);
    write(&input, &[integers("x", &[3], &[1, 2, 3])]);
    refused(&op("silu"), &["input x is I32", "real"]);
    refused(&[&op("adamw")[..], &["--grad"]].concat(), &["adamw has no gradient"]);
    refused(&["op", "silu", "--in", "absent.safetensors", "--out", "o"], &["absent.safetensors"]);
    std::fs::write(&input, b"junk").unwrap();
    refused(&op("silu"), &["in.safetensors", "safetensors"]);
    assert!(!out.exists());
}

#[test]
fn the_list_documents_every_operator() {
    let all = json(&["op", "--list", "--json"]);
    let names: Vec<&str> = all.as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap()).collect();
    for name in [
        "attention",
        "cached_attention",
        "gla",
        "gla_step",
        "delta",
        "delta_step",
        "ridge",
        "ridge_step",
        "bmojo",
        "innovation",
        "mlstm_gates",
        "mlstm_gates_step",
        "taylor",
        "append_one",
        "normalize",
        "conv1d",
        "linear",
        "matmul",
        "rms_norm",
        "layer_norm",
        "rope",
        "softmax",
        "silu",
        "gelu",
        "swiglu",
        "embedding",
        "cross_entropy",
        "distillation",
        "encode",
        "decode",
        "adamw",
        "mixer",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let gla = &json(&["op", "gla", "--list", "--json"])[0];
    let shapes: HashMap<&str, &str> = gla["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i: &Value| (i["name"].as_str().unwrap(), i["shape"].as_str().unwrap()))
        .collect();
    assert_eq!((shapes["q"], shapes["g"]), ("[B, T, H, K]", "[B, T, G, K] or [B, T, G]"));
    assert_eq!(gla["forms"], serde_json::json!(["recurrent", "chunked", "parallel"]));
}

#[test]
fn rounding_gives_what_the_format_holds_and_gradients_go_straight_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.safetensors");
    let (x, dy) = (draw(2 * 32, 3), draw(2 * 32, 4));
    write(&path, &[reals("x", &[2, 32], &x), reals("dy", &[2, 32], &dy)]);
    // Two rows of eight-bit integers, by the definition.
    let made = run("fake_quantize", &path, &["--quantizer", "int8", "--dtype", "f64", "--grad"]);
    for (x, y) in x.chunks(32).zip(made["y"].1.chunks(32)) {
        let step = x.iter().fold(0.0_f64, |m, x| m.max(x.abs())) / 127.0;
        for (x, y) in x.iter().zip(y) {
            assert!((y - (x / step).round() * step).abs() < 1e-6, "{x} is {y}");
        }
    }
    assert_eq!(made["dx"].1, dy);
    // Ternary by the mean of each column's magnitudes; what is beyond it by more than its codes reach has no gradient.
    let made = run(
        "fake_quantize",
        &path,
        &["--quantizer", "ternary:group2", "--columns", "--reached", "--dtype", "f64", "--grad"],
    );
    for column in 0..32 {
        let scale = (x[column].abs() + x[32 + column].abs()) / 2.0;
        for i in [column, 32 + column] {
            let want = (x[i] / scale).round_ties_even().clamp(-1.0, 1.0) * scale;
            assert!((made["y"].1[i] - want).abs() < 1e-6, "{} is {}", x[i], made["y"].1[i]);
            assert_eq!(made["dx"].1[i], if x[i].abs() > scale * 1.000_01 { 0.0 } else { dy[i] });
        }
    }
    let out = folder.path().join("out.safetensors");
    let args = ["op", "fake_quantize", "--in", text(&path), "--out", text(&out)];
    refused(&[&args[..], &["--quantizer", "tenary"]].concat(), &["--quantizer", "did you mean ternary?"]);
    refused(&[&args[..], &["--quantizer", "mxint8", "--columns"]].concat(), &["mxint8", "32"]);
    refused(&args, &["--quantizer"]);
}
