//! What cannot be computed is refused by name.

use super::case::*;
use crate::delta::*;

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let delta = small(4, 2, 3, 5);
    let case = Case::<f32>::new(delta, GateKind::Channel, &[4, 3], Strength::Tau(1.0), 2.0);
    assert_eq!(delta.check(&case.inputs()), Ok(()));
    let refused = |change: &dyn Fn(&mut Delta, &mut Case<f32>)| {
        let (mut delta, mut case) = (delta, case.clone());
        change(&mut delta, &mut case);
        delta.check(&case.inputs()).expect_err("refused").to_string()
    };
    assert!(refused(&|_, c| c.g[13] = 0.5).contains("g: log-gate 13 (token 1) is 0.5"));
    assert!(refused(&|_, c| c.g[7] = f32::NAN).contains("g: log-gate 7 (token 0) is NaN"));
    assert!(refused(&|_, c| c.g[0] = f32::NEG_INFINITY).contains("must be finite"));
    assert!(refused(&|_, c| c.beta[5] = 2.5).contains("beta: element 5 (token 1) is 2.5: it must be from 0 to 2"));
    assert!(refused(&|_, c| c.beta[5] = -0.1).contains("beta: element 5"));
    assert!(refused(&|_, c| c.beta[5] = f32::NAN).contains("beta: element 5 (token 1) is NaN"));
    assert!(refused(&|d, _| d.key_heads = 3).contains("4 heads cannot share 3 key heads"));
    assert!(refused(&|d, _| d.key_width = 0).contains("key_width is 0"));
    assert!(refused(&|d, _| d.key_width = 4096).contains("key_width is 4096, at most 1024"));
    assert!(refused(&|d, _| d.chunk = 24).contains("multiple of 16"));
    assert!(refused(&|d, _| d.scale = f64::NAN).contains("scale"));
    assert!(refused(&|_, c| c.cu = vec![0, 5, 4, 7]).contains("entry 2 is 4"));
    assert!(refused(&|_, c| c.cu = vec![0, 4, 8]).contains("entry 2 is 8"));
    assert!(refused(&|_, c| c.cu = vec![-1, 4, 7]).contains("entry 0 is -1"));
    assert!(refused(&|_, c| c.cu = vec![0]).contains("cu_seqlens"));
    assert!(refused(&|_, c| c.initial_state.truncate(1)).contains("initial_state has 1 elements"));
    assert!(refused(&|_, c| c.k.truncate(1)).contains("k has 1 elements, not 42 = [N, Hk, K]"));
    assert!(refused(&|_, c| c.beta.truncate(1)).contains("beta has 1 elements, not 28 = [N, H]"));
    let mut reset = case.clone();
    reset.g[7] = -1e30;
    assert_eq!(delta.check(&reset.inputs()), Ok(()));
}
