//! Every form equals the definition: outputs, states and gradients.

use super::case::*;
use crate::Real;
use crate::delta::*;
use crate::gla::tests::error;

const LENGTHS: [usize; 9] = [1, 15, 16, 17, 63, 64, 65, 200, 1000];
const STRENGTHS: [Strength; 4] = [Strength::Tau(16.0), Strength::Tau(1.0), Strength::Tau(0.1), Strength::Resets];

/// How many cases there were and the worst errors: of outputs and states, of gradients.
#[derive(Default)]
struct Worst {
    cases: usize,
    forward: f64,
    backward: f64,
}

/// Compares both forms with the definition in f64 over gates, their strengths, β, lengths, packed or not.
fn compare<T: Real>(delta: Delta, tolerance: f64) -> Worst {
    let mut worst = Worst::default();
    let gates = [GateKind::None, GateKind::Head, GateKind::Channel];
    let gates = gates.iter().flat_map(|gate| {
        STRENGTHS[..if *gate == GateKind::None { 1 } else { 4 }].iter().map(|strength| (*gate, *strength))
    });
    for (gate, strength) in gates {
        for (length, packed, most) in
            LENGTHS.iter().flat_map(|l| [(*l, false, 1.0), (*l, true, 1.0), (*l, false, 2.0), (*l, true, 2.0)])
        {
            let lengths: &[usize] = if packed { &[length, 0, 7, length / 2 + 1] } else { &[length] };
            let case = Case::<T>::new(delta, gate, lengths, strength, most);
            let truth = case.to::<f64>();
            let (outputs, gradients) = (truth.naive_forward(), truth.naive_backward());
            for form in FORMS {
                let what = format!("{form:?} {gate:?} {strength:?} T {lengths:?} beta to {most}");
                worst.cases += 1;
                for (i, (a, b)) in case.forward(form, 1).iter().zip(&outputs).enumerate() {
                    let e = error(a, b);
                    worst.forward = worst.forward.max(e);
                    assert!(e < tolerance, "{what}: {} {e:.1e}", ["o", "final_state"][i]);
                }
                for (i, (a, b)) in case.backward(form, 1).iter().zip(&gradients).enumerate() {
                    let e = if i == 4 { gate_error(a, &truth, &gradients) } else { error(a, b) };
                    worst.backward = worst.backward.max(e);
                    assert!(e < tolerance, "{what}: d{} {e:.1e}", ["q", "k", "v", "beta", "g", "initial_state"][i]);
                }
            }
        }
    }
    worst
}

fn report(name: &str, shapes: &[Worst]) {
    let worst = |f: fn(&Worst) -> f64| shapes.iter().map(f).fold(0.0, f64::max);
    eprintln!(
        "{name}: {} cases, worst error {:.1e} forward, {:.1e} backward",
        shapes.iter().map(|w| w.cases).sum::<usize>(),
        worst(|w| w.forward),
        worst(|w| w.backward)
    );
}

#[test]
fn every_form_equals_the_definition_in_f64_to_1e_12() {
    report("f64", &[small(2, 1, 20, 9), small(2, 2, 5, 33)].map(|delta| compare::<f64>(delta, 1e-12)));
}

#[test]
fn every_form_equals_the_definition_in_f32_to_5e_6() {
    report("f32", &[small(2, 2, 64, 64), small(2, 1, 33, 70)].map(|delta| compare::<f32>(delta, 5e-6)));
}

#[test]
fn chunks_of_any_length_agree() {
    for chunk in [16, 32, 48, 128] {
        for gate in [GateKind::Head, GateKind::Channel] {
            let delta = Delta { chunk, ..small(2, 1, 12, 10) };
            let case = Case::<f64>::new(delta, gate, &[150], Strength::Tau(1.0), 2.0);
            for (a, b) in case.forward(Form::Chunked, 1).iter().zip(&case.naive_forward()) {
                assert!(error(a, b) < 1e-12, "chunks of {chunk}, {gate:?}");
            }
            for (a, b) in case.backward(Form::Chunked, 1).iter().zip(&case.naive_backward()) {
                assert!(error(a, b) < 1e-11, "chunks of {chunk}, {gate:?}");
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences_to_1e_6() {
    let kinds = [(GateKind::Channel, 16.0), (GateKind::Channel, 0.3), (GateKind::Head, 1.0), (GateKind::None, 1.0)];
    for (gate, tau) in kinds {
        let case = Case::<f64>::new(small(2, 1, 5, 3), gate, &[19, 2], Strength::Tau(tau), 2.0);
        type Tensor = fn(&mut Case<f64>) -> &mut Vec<f64>;
        let tensors: [Tensor; 6] =
            [|c| &mut c.q, |c| &mut c.k, |c| &mut c.v, |c| &mut c.beta, |c| &mut c.g, |c| &mut c.initial_state];
        let gradients = FORMS.map(|form| case.backward(form, 1));
        for (i, tensor) in tensors.iter().enumerate() {
            let n = tensor(&mut case.clone()).len();
            let difference: Vec<f64> = (0..n)
                .map(|j| {
                    let at = |step: f64| {
                        let mut moved = case.clone();
                        tensor(&mut moved)[j] += step;
                        moved.loss()
                    };
                    // Central differences, extrapolated.
                    let central = |h: f64| (at(h) - at(-h)) / (2.0 * h);
                    (4.0 * central(1e-4) - central(2e-4)) / 3.0
                })
                .collect();
            for (form, gradients) in FORMS.iter().zip(&gradients) {
                let e = error(&gradients[i], &difference);
                assert!(e < 1e-6, "{form:?} {gate:?} tensor {i}: {e:.1e}");
            }
        }
    }
}

#[test]
fn a_repeated_key_with_beta_1_overwrites_and_beta_0_only_decays() {
    for form in FORMS {
        let mut case = Case::<f64>::new(small(1, 1, 8, 6), GateKind::None, &[40], Strength::Tau(1.0), 1.0);
        case.beta.fill(1.0);
        let last = case.k[39 * 8..].to_vec();
        case.k[20 * 8..21 * 8].copy_from_slice(&last);
        case.q[39 * 8..].copy_from_slice(&last);
        let read = case.forward(form, 1)[0][39 * 6..].to_vec();
        let want: Vec<f64> = case.v[39 * 6..].iter().map(|v| v * case.delta.scale).collect();
        // Keys are of length 1 in f32.
        assert!(error(&read, &want) < 1e-6, "{form:?}: what was written last is read");

        let mut case = Case::<f64>::new(small(1, 1, 8, 6), GateKind::Head, &[40], Strength::Tau(16.0), 1.0);
        case.beta.fill(0.0);
        let kept = case.g.iter().sum::<f64>().exp();
        let want: Vec<f64> = case.initial_state.iter().map(|s| s * kept).collect();
        assert!(error(&case.forward(form, 1)[1], &want) < 1e-12, "{form:?}: nothing is written");
    }
}

#[test]
fn equal_gates_of_all_channels_are_one_gate_of_a_head() {
    let by_head = Case::<f64>::new(small(2, 1, 12, 10), GateKind::Head, &[100, 30], Strength::Tau(1.0), 2.0);
    let g = by_head.g.iter().flat_map(|g| [*g; 12]).collect();
    let by_channel = Case { gate: GateKind::Channel, g, ..by_head.clone() };
    for form in FORMS {
        for (a, b) in by_channel.forward(form, 1).iter().zip(&by_head.forward(form, 1)) {
            assert!(error(a, b) < 1e-12, "{form:?}");
        }
    }
}
