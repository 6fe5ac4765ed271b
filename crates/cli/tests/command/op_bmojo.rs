//! `memwall op bmojo` and `innovation` against their definitions, written out here.

use std::collections::HashMap;

use crate::op::{Given, difference, draw, integers, reals, run, write};
use crate::{refused, text};

/// Tokens of two packed sequences, heads and their width, window, slots.
const LENGTHS: [usize; 2] = [19, 8];
const T: usize = LENGTHS[0] + LENGTHS[1];
const H: usize = 2;
const G: usize = 1;
const K: usize = 3;
const V: usize = 4;
const W: usize = 3;
const E: usize = 2;

const OPTIONS: [&str; 4] = ["--window", "3", "--slots", "2"];
const QUERIES: [&str; 3] = ["q", "q_fading", "q_eidetic"];
const KEYS: [&str; 3] = ["k", "k_fading", "k_eidetic"];

fn values() -> HashMap<&'static str, Vec<f64>> {
    let queries = QUERIES.iter().zip(1..).map(|(name, seed)| (*name, draw(T * H * K, seed)));
    let keys = KEYS.iter().zip(4..).map(|(name, seed)| (*name, draw(T * G * K, seed)));
    let values = ["v", "v_fading"].into_iter().zip(7..).map(|(name, seed)| (name, draw(T * G * V, seed)));
    // Few different scores, so that some are equal.
    let scores = draw(T, 9).iter().map(|x| (4.0 * x).round()).collect();
    queries.chain(keys).chain(values).chain([("scores", scores)]).collect()
}

fn given(values: &HashMap<&'static str, Vec<f64>>) -> Vec<Given> {
    let tensor = |(name, x): (&&'static str, &Vec<f64>)| match *name {
        "scores" => reals(name, &[1, T], x),
        name if name.starts_with('q') => reals(name, &[1, T, H, K], x),
        name if name.starts_with('k') => reals(name, &[1, T, G, K], x),
        name => reals(name, &[1, T, G, V], x),
    };
    let mut given: Vec<Given> = values.iter().map(tensor).collect();
    given.push(integers("cu_seqlens", &[3], &[0, LENGTHS[0] as i64, T as i64]));
    given
}

/// o [T, H, V]: one softmax over three sets of keys, key by key.
fn dense(x: &HashMap<&'static str, Vec<f64>>) -> Vec<f64> {
    let mut o = vec![0.0; T * H * V];
    for (start, length) in [(0, LENGTHS[0]), (LENGTHS[0], LENGTHS[1])] {
        for i in 0..length {
            let chunk = i / W;
            let mut buffer: Vec<usize> = (0..length).filter(|j| j + W <= chunk * W).collect();
            buffer.sort_by(|a, b| x["scores"][start + b].total_cmp(&x["scores"][start + a]).then(b.cmp(a)));
            buffer.truncate(E);
            let eidetic = buffer.into_iter().filter(|j| j + 2 * W <= i).map(|j| (2, j));
            let recent = (0..=i).filter(|j| j + W > i).map(|j| (0, j));
            let fading = (0..=i).filter(|j| j + W <= i && j + 2 * W > i).map(|j| (1, j));
            let keys: Vec<(usize, usize)> = recent.chain(fading).chain(eidetic).collect();
            for head in 0..H {
                let score = |&(set, j): &(usize, usize)| -> f64 {
                    let q = &x[QUERIES[set]][((start + i) * H + head) * K..][..K];
                    let k = &x[KEYS[set]][(start + j) * G * K..][..K];
                    q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (K as f64).sqrt()
                };
                let shares: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
                let sum: f64 = shares.iter().sum();
                for ((set, j), share) in keys.iter().zip(&shares) {
                    let v = &x[if *set == 1 { "v_fading" } else { "v" }][(start + j) * G * V..][..V];
                    let to = &mut o[((start + i) * H + head) * V..][..V];
                    to.iter_mut().zip(v).for_each(|(o, v)| *o += share / sum * v);
                }
            }
        }
    }
    o
}

#[test]
fn bmojo_is_one_softmax_over_three_sets_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let x = values();
    write(&input, &given(&x));
    let want = (vec![1, T, H, V], dense(&x));
    let double = run("bmojo", &input, &[&OPTIONS[..], &["--dtype", "f64"]].concat());
    assert!(difference("o", &double["o"], &want) < 1e-12);
    assert_eq!(double["until"].0, [1, T]);
    let chunked = run("bmojo", &input, &OPTIONS);
    let recurrent = run("bmojo", &input, &[&OPTIONS[..], &["--form", "recurrent"]].concat());
    for name in ["o", "lse"] {
        assert!(difference(name, &recurrent[name], &chunked[name]) < 1e-6, "{name}");
    }
    // No token enters: the buffer is as if it were not there.
    let shut = run("bmojo", &input, &[&OPTIONS[..], &["--threshold", "9"]].concat());
    write(
        &input,
        &given(&x).into_iter().filter(|g| !["q_eidetic", "k_eidetic", "scores"].contains(&g.0)).collect::<Vec<_>>(),
    );
    let without = run("bmojo", &input, &OPTIONS[..2]);
    assert_eq!(shut["o"], without["o"]);
    assert!(difference("o", &without["o"], &chunked["o"]) > 1e-3, "the buffer changes outputs");
}

#[test]
fn gradients_of_bmojo_equal_differences_of_its_definition() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let (x, d_o) = (values(), draw(T * H * V, 11));
    let mut all = given(&x);
    all.push(reals("do", &[1, T, H, V], &d_o));
    write(&input, &all);
    let made = run("bmojo", &input, &[&OPTIONS[..], &["--dtype", "f64", "--grad"]].concat());
    assert!(!made.contains_key("dscores"), "scores choose, and have no gradient");
    for name in QUERIES.into_iter().chain(KEYS).chain(["v", "v_fading"]) {
        let direction = draw(x[name].len(), 12);
        let along = |step: f64| -> f64 {
            let mut moved = x.clone();
            let to = moved.get_mut(name).unwrap();
            to.iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
            dense(&moved).iter().zip(&d_o).map(|(o, d)| o * d).sum()
        };
        let want = (along(1e-5) - along(-1e-5)) / 2e-5;
        let got: f64 = made[&format!("d{name}")].1.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert!((got - want).abs() < 1e-7 * want.abs().max(1.0), "{name}: {got}, by differences {want}");
    }
}

#[test]
fn innovation_equals_its_definition_and_its_gradient_differences() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.safetensors");
    let (t, d, taps) = (9, 3, 2);
    let (f, w) = (draw(t * d, 1), draw(taps * d, 2));
    let scores = |w: &[f64]| -> Vec<f64> {
        let mut square = vec![0.0; d];
        let score = |t: usize| {
            let weights = (1.0 - 0.99f64.powi(t as i32 + 1)) / 0.01;
            (0..d).fold(0.0, |sum, c| {
                square[c] = 0.99 * square[c] + f[t * d + c].powi(2);
                let seen: f64 = (1..=taps.min(t)).map(|s| w[(s - 1) * d + c] * f[(t - s) * d + c]).sum();
                sum + (f[t * d + c] - seen).powi(2) / (square[c] / weights) / d as f64
            })
        };
        (0..t).map(score).collect()
    };
    write(&input, &[reals("f", &[1, t, d], &f), reals("weight", &[taps, d], &w), reals("dmean", &[1], &[1.0])]);
    let made = run("innovation", &input, &["--dtype", "f64", "--grad"]);
    let mean = |w: &[f64]| scores(w).iter().sum::<f64>() / t as f64;
    assert!(difference("scores", &made["scores"], &(vec![1, t], scores(&w))) < 1e-9);
    assert!((made["mean"].1[0] - mean(&w)).abs() < 1e-9);
    for i in 0..w.len() {
        let moved = |step: f64| {
            let mut w = w.clone();
            w[i] += step;
            mean(&w)
        };
        let want = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((made["dweight"].1[i] - want).abs() < 1e-7, "tap {i}: {}, not {want}", made["dweight"].1[i]);
    }
}

#[test]
fn bmojo_refuses_bad_input_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let op = ["op", "bmojo", "--in", text(&input), "--out", text(&out)];
    let x = values();
    write(&input, &given(&x));
    refused(&op, &["--window is missing"]);
    refused(&[&op[..], &["--window", "0"]].concat(), &["--window 0", "at least 1"]);
    refused(&[&op[..], &["--window=-3"]].concat(), &["--window", "whole number from 0 on"]);
    refused(&[&op[..], &["--window", "3"]].concat(), &["--slots is missing"]);
    refused(&[&op[..], &["--window", "3", "--slots", "0"]].concat(), &["--slots 0", "at least 1"]);
    refused(&[&op[..], &["--window", "3", "--slots=-1"]].concat(), &["--slots", "whole number from 0 on"]);
    let recurrent = ["--form", "recurrent", "--dtype", "f64"];
    refused(&[&op[..], &OPTIONS, &recurrent].concat(), &["--dtype f64", "chunked"]);
    let mut spoiled = x.clone();
    spoiled.get_mut("scores").unwrap()[5] = f64::NAN;
    write(&input, &given(&spoiled));
    refused(&[&op[..], &OPTIONS].concat(), &["scores: element 5 is NaN", "finite"]);
    let without = |name: &str| given(&x).into_iter().filter(|g| g.0 != name).collect::<Vec<_>>();
    write(&input, &without("k_eidetic"));
    refused(&[&op[..], &OPTIONS].concat(), &["k_eidetic is missing", "q_eidetic"]);
    write(&input, &without("k_fading"));
    refused(&[&op[..], &OPTIONS].concat(), &["k_fading is missing", "B, T, G, K"]);
    let buffer = ["q_eidetic", "k_eidetic", "scores"];
    write(&input, &given(&x).into_iter().filter(|g| !buffer.contains(&g.0)).collect::<Vec<_>>());
    refused(&[&op[..], &OPTIONS].concat(), &["--slots", "no q_eidetic"]);
    assert!(!out.exists());
}
