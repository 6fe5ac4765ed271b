//! What cannot be computed is refused by name.

use super::case::*;
use crate::ridge::*;

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let ridge = Ridge::new(4, 3);
    let case = Case::<f32>::new(ridge, &[4, 3], Strength::Tau(1.0));
    assert_eq!(ridge.check(&case.inputs()), Ok(()));
    let refused = |change: &dyn Fn(&mut Ridge, &mut Case<f32>)| {
        let (mut ridge, mut case) = (ridge, case.clone());
        change(&mut ridge, &mut case);
        ridge.check(&case.inputs()).expect_err("refused").to_string()
    };
    let gate = |c: &mut Case<f32>, i: usize, value: f32| c.g.as_mut().expect("gated")[i] = value;
    assert!(refused(&|_, c| gate(c, 13, 0.5)).contains("g: log-gate 13 (token 3) is 0.5"));
    assert!(refused(&|_, c| gate(c, 7, f32::NAN)).contains("g: log-gate 7 (token 1) is NaN"));
    assert!(refused(&|_, c| gate(c, 0, f32::NEG_INFINITY)).contains("must be finite"));
    assert!(refused(&|r, _| r.ridge_strength = 0.0).contains("ridge_strength is 0: it must be above 0"));
    assert!(refused(&|r, _| r.ridge_strength = -0.02).contains("ridge_strength is -0.02"));
    assert!(refused(&|r, _| r.ridge_strength = f64::NAN).contains("ridge_strength is NaN"));
    assert!(refused(&|r, _| r.width = 0).contains("width is 0"));
    assert!(refused(&|r, _| r.width = 4096).contains("width is 4096, at most 1024"));
    assert!(refused(&|r, _| r.chunk = 24).contains("multiple of 16"));
    assert!(refused(&|_, c| c.cu = vec![0, 5, 4, 7]).contains("entry 2 is 4"));
    assert!(refused(&|_, c| c.cu = vec![0, 4, 8]).contains("entry 2 is 8"));
    assert!(refused(&|_, c| c.cu = vec![-1, 4, 7]).contains("entry 0 is -1"));
    assert!(refused(&|_, c| c.cu = vec![0]).contains("cu_seqlens"));
    assert!(refused(&|_, c| c.initial_state.truncate(1)).contains("initial_state has 1 elements"));
    assert!(refused(&|_, c| c.k.truncate(1)).contains("k has 1 elements, not 84 = [N, H, D]"));
    assert!(refused(&|_, c| c.initial_state[9 * 5 + 1] = 2.0).contains("head 1 of sequence 1 is not symmetric"));
    assert!(refused(&|_, c| c.initial_state[1] = f32::NAN).contains("element (1, 0)"));
    let mut reset = case.clone();
    gate(&mut reset, 7, -1e30);
    assert_eq!(ridge.check(&reset.inputs()), Ok(()));
}
