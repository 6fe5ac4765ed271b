//! FP8 versus INT8 for efficient deep learning inference (arXiv 2303.17951): floats of eight bits buy range with
//! mantissa, which well-behaved tensors do not need, and their hardware is larger.
//!
//! 1. Tensors: signal to noise of INT8 and four FP8 grids under the range of least error, beside the published table; the
//!    expected error in closed form beside the encoders'; that of products of two quantized values.
//! 2. Exactness: the published quantizer's formula, its grid beside OCP's, integers with a zero point, refusals.
//! 3. Layers: outputs of a layer with and without one loud input; logits of two real models whose matrices are stored.
//! 4. Hardware: gates of multiply-accumulate units by a model whose every constant is open.
//!
//! Falsifier, against the lead of INT8 on a well-behaved layer: one of 128 inputs thirty times as large.
//!
//! Not measured: training with quantization, and nets trained in FP8 that are converted to INT8.

mod distributions;
mod exactness;
mod grid;
mod layers;

use std::fs;

use memwall_hardware::mac_gates::{Accumulator, Gates, Operand};
use memwall_infer::Model;
use memwall_tasks::data::{AIDREAMS_260K, TINY_SHAKESPEARE, TINY_STORIES_SAMPLE};

use crate::{
    About, Bar, Check, Claim, Error, Falsifier, Kind, Measured, Outcome, Run,
    evidence::{Curve, Line, Point},
    largest::largest,
};
use distributions::Distribution;
use grid::{ALL, E4M3, Eight, Sample, expected_error, expected_products};
use layers::{Layer, logits_db};

const TABLE: &str = "largest distance from the published table, light tails";
const HEAVY: &str = "largest distance from the published table, heavy tails and outliers";
const EXPECTED: &str = "largest distance of the expected error from the encoders'";
const PRODUCTS: &str = "distance of the expected error of products from the encoders'";
const FORMULA: &str = "largest distance from the published quantizer's formula";
const OCP_480: &str = "values of E4M3FN that the grid of range 480 lacks";
const OCP_448: &str = "values of E4M3FN that the grid of range 448 lacks";
const DISTINCT: &str = "distance of the number of values of a float from 255";
const DEFAULT_BIAS: &str = "distance of the largest value under the default bias from the published one";
const ZERO_POINT: &str = "largest difference of integers with a zero point from their formula";
const REFUSED: &str = "inputs that must be refused and are not";
const LEAD: &str = "lead of INT8 over E4M3 in the outputs of a layer";
const LAYERS: &str = "largest distance from the published outputs of a layer with a loud input";
const EQUALIZED: &str = "lead of INT8 over E4M3 with the loud input equalized";
const BOOKS: &str = "lead of INT8 over E4M3 in the logits of the model that ships";
const STORIES: &str = "lead of INT8 over E4M3 in the logits of aidreams260K";
const HALF: &str = "gates of E4M3 added in FP16 over those of INT8";
const SINGLE: &str = "gates of E4M3 added in FP32 over those of INT8";
const FIXED: &str = "gates of E4M3 added in fixed point over those of INT8";
const MONOTONE: &str = "accumulators that have no more gates than a narrower one";

const fn value(what: &'static str, unit: &'static str, bar: Bar) -> Check {
    Check { what, kind: Kind::Value, unit, bar }
}

static ABOUT: About = About {
    system: 21,
    name: "fp8-versus-int8",
    data: &[TINY_SHAKESPEARE, TINY_STORIES_SAMPLE, AIDREAMS_260K],
    checks: &[
        value(TABLE, "dB", Bar::at_most(0.3)),
        value(HEAVY, "dB", Bar::at_most(1.0)),
        value(EXPECTED, "relative", Bar::at_most(0.01)),
        value(PRODUCTS, "relative", Bar::at_most(0.01)),
        value(FORMULA, "steps", Bar::at_most(1e-4)),
        value(OCP_480, "values", Bar::exactly(0.0)),
        value(OCP_448, "values", Bar::at_least(1.0)),
        value(DISTINCT, "values", Bar::exactly(0.0)),
        value(DEFAULT_BIAS, "absolute", Bar::exactly(0.0)),
        value(ZERO_POINT, "absolute", Bar::exactly(0.0)),
        value(REFUSED, "inputs", Bar::exactly(0.0)),
        value(LEAD, "dB", Bar::at_least(3.0)),
        value(LAYERS, "dB", Bar::at_most(1.0)),
        value(EQUALIZED, "dB", Bar::at_least(3.0)),
        value(BOOKS, "dB", Bar::at_least(3.0)),
        value(STORIES, "dB", Bar::at_least(3.0)),
        value(HALF, "ratio", Bar::at_least(1.4)),
        value(SINGLE, "ratio", Bar::at_most(3.0)),
        value(FIXED, "ratio", Bar::at_most(3.0)),
        value(MONOTONE, "accumulators", Bar::exactly(0.0)),
    ],
    falsifier: Falsifier { what: "one of 128 inputs thirty times as large", against: LEAD },
    source: concat!(
        include_str!("fp8_vs_int8.rs"),
        include_str!("fp8_vs_int8/distributions.rs"),
        include_str!("fp8_vs_int8/grid.rs"),
        include_str!("fp8_vs_int8/exactness.rs"),
        include_str!("fp8_vs_int8/layers.rs"),
    ),
};

/// dB as published, with the range of least error: INT8, E2M5, E3M4, E4M3, E5M2.
const PUBLISHED: [(Distribution, [f64; 5]); 7] = [
    (Distribution::Uniform, [48.10, 44.44, 38.48, 32.40, 26.27]),
    (Distribution::Gaussian, [40.34, 42.56, 37.59, 31.58, 25.63]),
    (Distribution::Laplace, [35.39, 39.87, 37.59, 31.59, 25.59]),
    (Distribution::StudentT(8), [34.04, 38.71, 37.56, 31.58, 25.60]),
    (Distribution::StudentT(3), [16.68, 20.56, 35.59, 31.77, 25.83]),
    (Distribution::Outliers(20.0), [19.92, 24.89, 37.16, 31.83, 25.83]),
    (Distribution::Outliers(100.0), [15.55, 20.43, 35.04, 33.18, 26.73]),
];
/// From here on the largest values of the sample decide.
const HEAVY_FROM: usize = 4;
/// How many times as large one input is, and dB of the outputs as published, INT8 and E4M3.
const LOUD: [(f32, [f64; 2]); 3] = [(10.0, [21.9, 31.5]), (30.0, [12.3, 31.5]), (100.0, [2.3, 31.5])];

/// The claim of FP8 versus INT8.
pub struct Fp8VersusInt8;

impl Claim for Fp8VersusInt8 {
    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn run(&self, run: &Run) -> Result<Outcome, Error> {
        let seeds = run.seeds();
        let mut outcome = Outcome::new();
        let (mut falsifier, mut tables) = (Vec::new(), Vec::new());
        let read = |set, at: usize| Ok::<_, Error>(run.data(set)?.swap_remove(at));
        let text = |set| -> Result<String, Error> {
            let path = read(set, 0)?;
            fs::read_to_string(&path).map_err(|source| Error::Io { path, source })
        };
        let models = [
            (Model::shipped().map_err(Error::experiment)?, text(&TINY_SHAKESPEARE)?),
            (Model::open(read(&AIDREAMS_260K, 0)?).map_err(Error::experiment)?, text(&TINY_STORIES_SAMPLE)?),
        ];
        for (i, &seed) in seeds.iter().enumerate() {
            let step = |what: &str| run.step(what, i as u64, seeds.len() as u64);
            step("tensors")?;
            let table = table(seed, run.pick(1 << 14, 200_000, 1 << 22))?;
            let expected = expected_distances(seed, run.pick(1 << 14, 1 << 21, 1 << 24))?;
            step("layers")?;
            let rows = run.pick(64, 2048, 16384);
            let loud = |times| Layer::amplified(seed, rows, times);
            let outputs = LOUD.iter().map(|(times, published)| {
                let layer = loud(*times);
                let off = |db: f64, published: f64| (db - published).abs();
                let int8 = off(layer.output_db(Eight::Int8)?, published[0]);
                Ok(int8.max(off(layer.output_db(ALL[E4M3].0)?, published[1])))
            });
            let outputs = outputs.collect::<Result<Vec<f64>, Error>>()?;
            step("logits")?;
            let mut logits = Vec::new();
            for (model, text) in &models {
                let passage: String = text.chars().skip(seed as usize * 4099).take(4000).collect();
                let tokens = run.pick(16, 128, 128);
                let [int8, fp8] = logits_db(run, model, &passage, tokens, [Eight::Int8, ALL[E4M3].0])?;
                logits.push(int8 - fp8);
            }
            for (what, figure) in [
                (TABLE, largest(distances(&table[..HEAVY_FROM], 0))),
                (HEAVY, largest(distances(&table[HEAVY_FROM..], HEAVY_FROM))),
                (EXPECTED, largest(expected)),
                (PRODUCTS, product_distance(seed, run.pick(1 << 14, 1 << 21, 1 << 24))?),
                (FORMULA, exactness::formula_distance(seed)?),
                (OCP_480, exactness::missing_of_ocp()),
                (OCP_448, exactness::missing_at_448()),
                (DISTINCT, exactness::distinct_values()),
                (DEFAULT_BIAS, exactness::default_bias_distance()),
                (ZERO_POINT, exactness::zero_point_distance(seed)?),
                (REFUSED, exactness::not_refused()),
                (LEAD, loud(1.0).lead()?),
                (LAYERS, largest(outputs)),
                (EQUALIZED, loud(30.0).equalized().lead()?),
                (BOOKS, logits[0]),
                (STORIES, logits[1]),
                (HALF, ratio(Accumulator::FP16)?),
                (SINGLE, ratio(Accumulator::FP32)?),
                (FIXED, ratio(Accumulator::FIXED)?),
                (MONOTONE, not_monotone()?),
            ] {
                outcome.value(what, figure);
            }
            falsifier.push(loud(30.0).lead()?);
            tables.push(table);
        }
        Ok(outcome.falsifier(Measured::values(&falsifier)).curve(curve(&tables)).note(gates_note()?))
    }
}

/// dB of the five formats for each distribution, with the range of least error.
fn table(seed: u64, count: usize) -> Result<Vec<[f64; 5]>, Error> {
    let row = |(i, (distribution, _)): (usize, &(Distribution, [f64; 5]))| {
        let x = distribution.draw(seed * 100 + i as u64, count);
        let sample = Sample::new(&x)?;
        let mut db = [f64::NAN; 5];
        for (db, (format, _)) in db.iter_mut().zip(ALL) {
            *db = grid::decibel(&x, &format.back(sample.best_range(format) as f32, &x)?);
        }
        Ok(db)
    };
    PUBLISHED.iter().enumerate().map(row).collect()
}

fn distances(table: &[[f64; 5]], from: usize) -> Vec<f64> {
    let rows = table.iter().zip(&PUBLISHED[from..]);
    rows.flat_map(|(got, (_, want))| got.iter().zip(want).map(|(a, b)| (a - b).abs())).collect()
}

/// Relative distances of the expected error from what the encoders lose, for all closed forms and formats.
fn expected_distances(seed: u64, count: usize) -> Result<Vec<f64>, Error> {
    let mut all = Vec::new();
    for (i, (distribution, _)) in PUBLISHED[..HEAVY_FROM].iter().enumerate() {
        let x = distribution.draw(seed * 1000 + i as u64, count);
        for (format, _) in ALL {
            // A range that clips little, so that the sample's few largest values do not decide.
            let range = match distribution {
                Distribution::Uniform => 1.0,
                Distribution::Gaussian => 6.0,
                _ => 20.0f32,
            };
            let y = format.back(range, &x)?;
            let lost = x.iter().zip(&y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / count as f64;
            let moments = |at: f64| distribution.moments(at).unwrap_or([f64::NAN; 3]);
            all.push((expected_error(&format.values(f64::from(range)), moments) / lost - 1.0).abs());
        }
    }
    Ok(all)
}

/// Relative distance of `E[(q(w) q(x) - w x)²]`, by the moments of both, from what products of encoded values lose: weights
/// normal, inputs of Laplace's distribution, both in E4M3.
fn product_distance(seed: u64, count: usize) -> Result<f64, Error> {
    let (of_w, of_x) = (Distribution::Gaussian, Distribution::Laplace);
    let (w, x) = (of_w.draw(seed * 7 + 1, count), of_x.draw(seed * 7 + 2, count));
    let (format, w_range, x_range) = (ALL[E4M3].0, 5.0f32, 20.0f32);
    let (wq, xq) = (format.back(w_range, &w)?, format.back(x_range, &x)?);
    let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
    let pairs = w.iter().zip(&x).zip(wq.iter().zip(&xq));
    let lost = pairs.map(|((w, x), (wq, xq))| (product(*wq, *xq) - product(*w, *x)).powi(2)).sum::<f64>();
    let parts = |d: Distribution, range: f32| {
        let moments = move |at: f64| d.moments(at).unwrap_or([f64::NAN; 3]);
        let whole = moments(f64::INFINITY)[2];
        let (square, cross) = expected_products(&format.values(f64::from(range)), moments);
        (whole, square, cross)
    };
    let ((w2, wq2, wwq), (x2, xq2, xxq)) = (parts(of_w, w_range), parts(of_x, x_range));
    let expected = wq2 * xq2 - 2.0 * wwq * xxq + w2 * x2;
    Ok((expected / (lost / count as f64) - 1.0).abs())
}

const FLOAT: Operand = Operand::Float { exponent: 4, mantissa: 3 };

fn gates(operand: Operand, accumulator: Accumulator) -> Result<f64, Error> {
    Ok(Gates::default().mac(operand, accumulator).map_err(Error::experiment)?.gates())
}

fn ratio(accumulator: Accumulator) -> Result<f64, Error> {
    Ok(gates(FLOAT, accumulator)? / gates(Operand::Int8, Accumulator::FIXED)?)
}

/// How many accumulators, float and fixed, have no more gates than the next narrower one.
fn not_monotone() -> Result<f64, Error> {
    let mut count = 0;
    for accumulators in [
        (4..32).map(|mantissa| Accumulator::Float { exponent: 8, mantissa }).collect::<Vec<_>>(),
        (0..32).map(|headroom| Accumulator::Fixed { headroom }).collect(),
    ] {
        let costs = accumulators.iter().map(|a| gates(FLOAT, *a)).collect::<Result<Vec<f64>, Error>>()?;
        count += costs.windows(2).filter(|pair| pair[1] <= pair[0]).count();
    }
    Ok(count as f64)
}

fn gates_note() -> Result<String, Error> {
    let int8 = gates(Operand::Int8, Accumulator::FIXED)?;
    let mut units = Vec::new();
    for operand in &Operand::ALL[1..] {
        let [half, single, fixed] =
            [Accumulator::FP16, Accumulator::FP32, Accumulator::FIXED].map(|a| gates(*operand, a).map(|g| g / int8));
        units.push(format!("{operand} {:.2} {:.2} {:.2}", half?, single?, fixed?));
    }
    Ok(format!("gates over those of INT8 ({int8:.0}), added in FP16, FP32, fixed point: {}", units.join("; ")))
}

/// dB of each format over the distributions, from light to heavy tails.
fn curve(seeds: &[Vec<[f64; 5]>]) -> Curve {
    let line = |(i, (_, name)): (usize, &(Eight, &str))| {
        let at = |row: usize| Point { x: (row + 1) as f64, per_seed: seeds.iter().map(|t| t[row][i]).collect() };
        Line { name: (*name).to_owned(), points: (0..PUBLISHED.len()).map(at).collect() }
    };
    Curve {
        what: "signal to noise with the range of least error".to_owned(),
        x_label:
            "1 uniform, 2 normal, 3 Laplace, 4 t of 8, 5 t of 3, 6 and 7 one in a thousand 20 and 100 times as large"
                .to_owned(),
        y_label: "dB".to_owned(),
        log_x: false,
        log_y: false,
        lines: ALL.iter().enumerate().map(line).collect(),
    }
}
