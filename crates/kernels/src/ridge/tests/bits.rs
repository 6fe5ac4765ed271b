//! What must not change a bit: pieces, packing, threads, the step.

use super::case::*;
use crate::gla::tests::error;
use crate::ridge::*;

const STRENGTHS: [Strength; 2] = [Strength::None, Strength::Tau(4.0)];

#[test]
fn a_recurrent_prompt_in_any_pieces_on_any_threads_has_the_same_bits() {
    for strength in STRENGTHS {
        let case = Case::<f32>::new(Ridge::new(2, 40), &[130], strength);
        let whole = case.forward(Form::Recurrent, 1);
        for (threads, length) in [(1, 1), (2, 7), (3, 64), (2, 100)] {
            let (mut state, mut out) = (case.initial_state.clone(), vec![]);
            for from in (0..130).step_by(length) {
                let [part, next] = case.piece(from, (from + length).min(130), &state).forward(Form::Recurrent, threads);
                out.extend(part);
                state = next;
            }
            assert!(out == whole[0] && state == whole[1], "{strength:?}: pieces of {length}, {threads} threads");
        }
    }
}

#[test]
fn a_split_sequence_equals_one_run_in_chunks() {
    for strength in STRENGTHS {
        let case = Case::<f64>::new(Ridge::new(2, 16), &[200], strength);
        let whole = case.forward(Form::Chunked, 1);
        for split in [1, 16, 64, 77, 199] {
            let first = case.piece(0, split, &case.initial_state).forward(Form::Chunked, 1);
            let second = case.piece(split, 200, &first[1]).forward(Form::Chunked, 1);
            let e = error(&[&first[0][..], &second[0]].concat(), &whole[0]).max(error(&second[1], &whole[1]));
            assert!(e < 1e-12, "{strength:?}, split at {split}: {e:.1e}");
        }
    }
}

#[test]
fn packed_sequences_have_the_bits_of_separate_ones_forward_and_backward() {
    for form in FORMS {
        for strength in STRENGTHS {
            let lengths = [65, 0, 1, 130, 16];
            let packed = Case::<f32>::new(Ridge::new(2, 20), &lengths, strength);
            let (outputs, gradients) = (packed.forward(form, 2), packed.backward(form, 2));
            for b in 0..lengths.len() {
                let alone = packed.alone(b);
                for (i, x) in alone.forward(form, 1).iter().enumerate() {
                    assert!(*x == packed.part(&outputs[i], b, i == 1), "{form:?} {strength:?} output {i} of {b}");
                }
                for (i, x) in alone.backward(form, 1).iter().enumerate() {
                    assert!(*x == packed.part(&gradients[i], b, i == 3), "{form:?} {strength:?} gradient {i} of {b}");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for form in FORMS {
        let case = Case::<f32>::new(Ridge::new(4, 40), &[150, 17], Strength::Tau(1.0));
        let (x, d) = (case.forward(form, 1), case.backward(form, 1));
        for threads in 2..=4 {
            assert!(
                case.forward(form, threads) == x && case.backward(form, threads) == d,
                "{form:?} {threads} threads"
            );
        }
    }
}

#[test]
fn a_step_has_the_bits_of_the_recurrent_form_and_touches_only_its_slot() {
    const T: usize = 9;
    for (heads, width) in [(4, 64), (2, 19), (1, 130)] {
        let ridge = Ridge::new(heads, width);
        for strength in STRENGTHS {
            let batch = Case::<f32>::new(ridge, &[T; 3], strength);
            let whole = batch.forward(Form::Recurrent, 1);
            for slots in [[0, 1, 2], [4, 0, 3]] {
                let size = ridge.state_elements(1);
                let mut state = vec![7.0f32; 5 * size];
                for (b, slot) in slots.iter().enumerate() {
                    state[*slot as usize * size..][..size].copy_from_slice(&batch.part(&batch.initial_state, b, true));
                }
                for t in 0..T {
                    let rows = |x: &[f32]| -> Vec<f32> {
                        let width = x.len() / (3 * T);
                        (0..3).flat_map(|b| &x[(b * T + t) * width..(b * T + t + 1) * width]).copied().collect()
                    };
                    let (q, k, g) = (rows(&batch.q), rows(&batch.k), batch.g.as_deref().map(rows));
                    let mut out = vec![f32::NAN; q.len()];
                    ridge_step(&Pool::new(2), &ridge, &q, &k, g.as_deref(), &slots, &mut state, &mut out);
                    assert!(out == rows(&whole[0]), "{strength:?} {ridge:?} token {t}");
                }
                for slot in 0..5 {
                    let state = &state[slot * size..(slot + 1) * size];
                    match slots.iter().position(|s| *s as usize == slot) {
                        Some(b) => assert!(state == batch.part(&whole[1], b, true), "{strength:?} {ridge:?}"),
                        None => assert!(state.iter().all(|x| *x == 7.0), "another slot is left alone"),
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_one_slot_are_steps_in_order() {
    let ridge = Ridge::new(2, 64);
    let case = Case::<f32>::new(ridge, &[6], Strength::Tau(2.0));
    let [want, want_state] = case.forward(Form::Recurrent, 1);
    let (mut state, mut out) = (case.initial_state.clone(), vec![0.0; want.len()]);
    ridge_step(&Pool::new(3), &ridge, &case.q, &case.k, case.g.as_deref(), &[0; 6], &mut state, &mut out);
    assert!(out == want && state == want_state);
}

#[test]
fn a_gate_of_minus_1e30_leaves_nothing_of_what_was_before() {
    for form in FORMS {
        for at in [0, 5, 16, 63, 64, 70] {
            let mut case = Case::<f32>::new(Ridge::new(1, 16), &[80], Strength::Tau(0.5));
            case.g.as_mut().expect("gated")[at] = -1e30;
            let other = case.initial_state.iter().map(|s| s * 3.0).collect::<Vec<_>>();
            let after = |state: &[f32]| case.piece(0, at + 1, state).forward(form, 1)[1].clone();
            assert_eq!(after(&case.initial_state), after(&other), "{form:?} at {at}");
            // Only what comes after is asked for.
            case.d_out[..at * 16].fill(0.0);
            let d_initial = &case.backward(form, 1)[3];
            assert!(d_initial.iter().all(|d| *d == 0.0), "{form:?} at {at}: nothing goes back");
        }
    }
}

#[test]
fn keys_of_zero_and_states_of_zero_stay_finite() {
    for form in FORMS {
        let mut case = Case::<f32>::new(Ridge::new(1, 16), &[70], Strength::Tau(1.0));
        case.initial_state.fill(0.0);
        case.k[..20 * 16].fill(0.0);
        case.k[20 * 16..40 * 16].iter_mut().for_each(|k| *k *= 1e-6);
        let finite = |x: &Vec<f32>| x.iter().all(|x| x.is_finite());
        assert!(case.forward(form, 1).iter().all(finite), "{form:?}");
    }
}
