//! What must not change a bit: pieces, packing, threads, the step.

use super::case::*;
use crate::delta::*;
use crate::gla::tests::error;

const GATES: [GateKind; 3] = [GateKind::None, GateKind::Head, GateKind::Channel];

#[test]
fn a_recurrent_prompt_in_any_pieces_on_any_threads_has_the_same_bits() {
    for gate in GATES {
        let case = Case::<f32>::new(small(2, 1, 24, 100), gate, &[330], Strength::Tau(4.0), 2.0);
        let whole = case.forward(Form::Recurrent, 1);
        for (threads, length) in [(1, 1), (2, 7), (3, 64), (2, 200)] {
            let (mut state, mut o) = (case.initial_state.clone(), vec![]);
            for from in (0..330).step_by(length) {
                let [part, next] = case.piece(from, (from + length).min(330), &state).forward(Form::Recurrent, threads);
                o.extend(part);
                state = next;
            }
            assert!(o == whole[0] && state == whole[1], "{gate:?}: pieces of {length}, {threads} threads");
        }
    }
}

#[test]
fn a_split_sequence_equals_one_run_in_chunks() {
    for gate in GATES {
        let case = Case::<f32>::new(small(2, 2, 16, 24), gate, &[200], Strength::Tau(1.0), 1.0);
        let whole = case.forward(Form::Chunked, 1);
        for split in [1, 16, 64, 77, 199] {
            let first = case.piece(0, split, &case.initial_state).forward(Form::Chunked, 1);
            let second = case.piece(split, 200, &first[1]).forward(Form::Chunked, 1);
            let e = error(&[&first[0][..], &second[0]].concat(), &whole[0]).max(error(&second[1], &whole[1]));
            assert!(e < 3e-6, "{gate:?}, split at {split}: {e:.1e}");
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_separate_ones_forward_and_backward() {
    for form in FORMS {
        for gate in GATES {
            let lengths = [65, 0, 1, 130, 16];
            let packed = Case::<f32>::new(small(2, 1, 20, 33), gate, &lengths, Strength::Tau(2.0), 2.0);
            let (outputs, gradients) = (packed.forward(form, 2), packed.backward(form, 2));
            for b in 0..lengths.len() {
                let alone = packed.alone(b);
                for (i, x) in alone.forward(form, 1).iter().enumerate() {
                    assert!(*x == packed.part(&outputs[i], b, i == 1), "{form:?} {gate:?} output {i} of sequence {b}");
                }
                for (i, x) in alone.backward(form, 1).iter().enumerate() {
                    let part = packed.part(&gradients[i], b, i == 5);
                    assert!(*x == part, "{form:?} {gate:?} gradient {i} of sequence {b}");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for form in FORMS {
        for gate in GATES {
            let case = Case::<f32>::new(small(4, 2, 40, 100), gate, &[300, 17], Strength::Tau(1.0), 1.0);
            let (o, d) = (case.forward(form, 1), case.backward(form, 1));
            for threads in 2..=4 {
                let same = case.forward(form, threads) == o && case.backward(form, threads) == d;
                assert!(same, "{form:?} {gate:?} {threads} threads");
            }
        }
    }
}

#[test]
fn a_step_has_the_bits_of_the_recurrent_form_and_touches_only_its_slot() {
    for gate in GATES {
        for delta in [small(4, 2, 64, 64), small(2, 2, 19, 7), small(1, 1, 8, 300), small(3, 1, 130, 129)] {
            const T: usize = 9;
            let batch = Case::<f32>::new(delta, gate, &[T; 3], Strength::Tau(2.0), 2.0);
            let whole = batch.forward(Form::Recurrent, 1);
            for slots in [[0, 1, 2], [4, 0, 3]] {
                let size = delta.state_elements(1);
                let mut state = vec![7.0f32; 5 * size];
                for (b, slot) in slots.iter().enumerate() {
                    state[*slot as usize * size..][..size]
                        .copy_from_slice(&batch.initial_state[b * size..(b + 1) * size]);
                }
                for t in 0..T {
                    let rows = |x: &[f32]| -> Vec<f32> {
                        let width = x.len() / (3 * T);
                        (0..3).flat_map(|b| &x[(b * T + t) * width..(b * T + t + 1) * width]).copied().collect()
                    };
                    let gates = Case { g: rows(&batch.g), ..batch.clone() };
                    let (q, k, v, beta) = (rows(&batch.q), rows(&batch.k), rows(&batch.v), rows(&batch.beta));
                    let mut o = vec![f32::NAN; v.len()];
                    delta_step(&Pool::new(2), &delta, &q, &k, &v, &beta, gates.gates(), &slots, &mut state, &mut o);
                    assert!(o == rows(&whole[0]), "{gate:?} {delta:?} token {t}");
                }
                for slot in 0..5 {
                    let state = &state[slot * size..(slot + 1) * size];
                    match slots.iter().position(|s| *s as usize == slot) {
                        Some(b) => assert!(state == &whole[1][b * size..(b + 1) * size], "{gate:?} {delta:?}"),
                        None => assert!(state.iter().all(|x| *x == 7.0), "another slot is left alone"),
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_one_slot_are_steps_in_order() {
    let delta = small(2, 2, 64, 256);
    let case = Case::<f32>::new(delta, GateKind::Channel, &[6], Strength::Tau(2.0), 1.0);
    let [want, want_state] = case.forward(Form::Recurrent, 1);
    let (mut state, mut o) = (case.initial_state.clone(), vec![0.0; want.len()]);
    let Case { q, k, v, beta, .. } = &case;
    delta_step(&Pool::new(3), &delta, q, k, v, beta, case.gates(), &[0; 6], &mut state, &mut o);
    assert!(o == want && state == want_state);
}

#[test]
fn a_gate_of_minus_1e30_leaves_nothing_of_what_was_before() {
    for form in FORMS {
        for gate in [GateKind::Head, GateKind::Channel] {
            for at in [0, 5, 16, 63, 64, 70] {
                let mut case = Case::<f32>::new(small(1, 1, 16, 16), gate, &[80], Strength::Tau(0.5), 1.0);
                let width = case.g.len() / 80;
                case.g[at * width..(at + 1) * width].fill(-1e30);
                let other = case.initial_state.iter().map(|s| s * -3.0).collect::<Vec<_>>();
                let after = |state: &[f32]| case.piece(0, at + 1, state).forward(form, 1)[1].clone();
                assert_eq!(after(&case.initial_state), after(&other), "{form:?} {gate:?} at {at}");
                // Only what comes after is asked for.
                case.d_o[..at * 16].fill(0.0);
                let d_initial = &case.backward(form, 1)[5];
                assert!(d_initial.iter().all(|d| *d == 0.0), "{form:?} {gate:?} at {at}: nothing goes back");
            }
        }
    }
}
