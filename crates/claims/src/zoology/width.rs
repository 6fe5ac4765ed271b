//! The width law: how wide a model must be to recall more pairs from longer sequences.
//!
//! From 4 pairs in 64 tokens to 16 in 256, each mixer behind a BaseConv of 3 taps: the smallest width of a ladder at which
//! recall reaches 0.9, found from below. Attention compares what it reads, so its width need not grow; a filter that does not
//! depend on what it reads must keep every distance apart in channels of its own. What the longer setting needs beyond the ladder
//! counts as its next rung, which can only make growth look smaller; beyond it in the shorter one there is no figure.

use crate::evidence::{Arm, Curve, Line, Point, Sweep};
use crate::recall::Recall;
use crate::{Better, Error, Measured, Run, SweepPlan, TuneOn};

pub(super) const ATTENTION: &str = "convolution, attention";
pub(super) const BASE_CONV: &str = "convolution, long convolution";

/// Tokens and pairs.
const SETTINGS: [[usize; 2]; 2] = [[64, 4], [256, 16]];
const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];
/// Recall that counts as solved.
const SOLVED: f64 = 0.9;

/// What a mixer needed.
pub(super) struct Widths {
    /// For each setting, the width of each seed.
    smallest: [Vec<f64>; 2],
    /// Whether the ladder ended before every seed had solved the setting.
    beyond: [bool; 2],
    sweeps: Vec<Sweep>,
    lines: Vec<Line>,
}

impl Widths {
    /// Width at the longer setting against that at the shorter one, a seed each.
    pub(super) fn grown(&self) -> Measured {
        Measured::pairs(&self.smallest[0], &self.smallest[1])
    }
}

/// Climbs the ladder of widths in both settings.
pub(super) fn widths(run: &Run, mixer: &str) -> Result<Widths, Error> {
    let ladder: &[usize] = run.pick(&[8, 16], &[32, 64, 128, 256], &[64, 128, 256, 512]);
    let last = ladder[ladder.len() - 1];
    let mut found = Widths {
        smallest: [f64::NAN, (2 * last) as f64].map(|unsolved| vec![unsolved; run.seeds().len()]),
        beyond: [true; 2],
        sweeps: Vec::new(),
        lines: Vec::new(),
    };
    for (i, setting) in SETTINGS.into_iter().enumerate() {
        let mut points = Vec::new();
        for &width in ladder {
            let arm = at(run, mixer, setting, width)?;
            for (smallest, score) in found.smallest[i].iter_mut().zip(&arm.scores) {
                if *score >= SOLVED {
                    *smallest = smallest.min(width as f64);
                }
            }
            points.push(Point { x: width as f64, per_seed: arm.scores.clone() });
            let [time, pairs] = setting;
            let what = format!("{pairs} pairs in {time} tokens, width {width}");
            found.sweeps.push(Sweep { what, rates: RATES.to_vec(), arms: vec![arm] });
            if found.smallest[i].iter().all(|&w| w <= width as f64) {
                found.beyond[i] = false;
                break;
            }
        }
        let [time, pairs] = setting;
        found.lines.push(Line { name: format!("{mixer}: {pairs} pairs in {time} tokens"), points });
    }
    Ok(found)
}

/// Recall at one width, the rate chosen on validation data.
fn at(run: &Run, mixer: &str, [time, pairs]: [usize; 2], width: usize) -> Result<Arm, Error> {
    let time = run.pick(time / 4, time, time);
    let pairs = run.pick(pairs / 4, pairs, pairs);
    let budget = [run.pick(64, 2048, 16_384), run.pick(2, 1200, 20_000)];
    let recall = Recall::sized(run, [time, pairs, width], budget);
    let what = format!("{mixer}: {pairs} pairs in {time} tokens, width {width}");
    let plan = SweepPlan { what: &what, arms: &[], rates: &RATES, better: Better::Higher, tune_on: TuneOn::FirstSeed };
    crate::sweep::arm(run, &plan, mixer, |rate, seed| {
        run.step(&format!("{what}, rate {rate}, seed {seed}"), 0, 1)?;
        let second = if mixer == ATTENTION { recall.attention(None) } else { recall.base_conv(true) };
        recall.trial(run, [recall.base_conv(false), second], rate, seed)
    })
}

/// Every run of both searches.
pub(super) fn sweeps(searches: [&Widths; 2]) -> Vec<Sweep> {
    searches.into_iter().flat_map(|s| s.sweeps.iter().cloned()).collect()
}

/// Recall over width.
pub(super) fn curve(searches: [&Widths; 2]) -> Curve {
    Curve {
        what: "recall over width".to_owned(),
        x_label: "width".to_owned(),
        y_label: "accuracy".to_owned(),
        log_x: true,
        log_y: false,
        lines: searches.into_iter().flat_map(|s| s.lines.iter().cloned()).collect(),
    }
}

/// What lies beyond the ladder, in words.
pub(super) fn note(searches: [(&str, &Widths); 2]) -> String {
    let of = |(name, found): (&str, &Widths)| {
        let at = |i: usize| {
            let widths: Vec<String> = found.smallest[i].iter().map(|w| format!("{w:.0}")).collect();
            let beyond = if found.beyond[i] { " (not solved on every seed)" } else { "" };
            format!("{}{beyond}", widths.join(", "))
        };
        format!("{name}: {} for 4 pairs in 64 tokens, {} for 16 in 256", at(0), at(1))
    };
    format!("smallest widths by seed. {}", searches.map(of).join("; "))
}
