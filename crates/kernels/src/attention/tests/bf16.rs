use super::*;
use half::bf16;

fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect()
}

fn bf16_kinds() -> Vec<(&'static str, Attention)> {
    let odd = ("odd widths", Attention { causal: true, ..attention(5, 1, 59) });
    let kinds = kinds().into_iter().chain([odd]);
    kinds.map(|(name, a)| (name, Attention { compute: Compute::Bf16, ..a })).collect()
}

#[test]
fn bf16_operands_stay_within_their_rounding_and_are_not_f32() {
    for (name, a) in kinds() {
        let mut case = Case::new(a, &[(130, 200), (65, 65)]);
        let ((o, lse), exact) = (case.forward::<f32>(1), case.backward::<f32>(1));
        case.a.compute = Compute::Bf16;
        let ((o2, lse2), rounded) = (case.forward::<f32>(2), case.backward::<f32>(2));
        assert!(bits(&o) != bits(&o2) && bits(&lse) != bits(&lse2), "{name}: operands are rounded");
        // Scores are up to 10, products up to 100, of numbers with 8 bits.
        assert!(difference(&lse, &lse2) < 0.05, "{name}: L moves by {}", difference(&lse, &lse2));
        for (what, x, y) in [
            ("o", &o, &o2),
            ("dq", &exact[0], &rounded[0]),
            ("dk", &exact[1], &rounded[1]),
            ("dv", &exact[2], &rounded[2]),
        ] {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let error = norm(&mut x.iter().zip(y).map(|(x, y)| x - y)) / norm(&mut x.iter().copied());
            assert!(error > 0.0 && error < 0.02, "{name}: {what} moves by {error} of itself");
        }
    }
}

/// With one key a tile there is nothing to round but the operands: weights of 1 are exact, and so are products.
#[test]
fn bf16_is_the_f32_form_of_rounded_operands_where_weights_are_exact() {
    for width in [32, 59, 64] {
        let a = Attention { compute: Compute::Bf16, ..attention(2, 1, width) };
        let case = Case::new(a, &[(70, 1), (3, 1)]);
        let (o, lse) = case.forward::<f32>(1);
        for (row, o) in o.chunks(2 * width).enumerate() {
            let v = rounded(&case.v[usize::from(row >= 70) * width..][..width]);
            assert_eq!(bits(o), bits(&[&v[..], &v].concat()), "width {width}, row {row}");
        }
        let mut same = case.clone();
        (same.a.compute, same.q, same.k) = (Compute::F32, rounded(&case.q), rounded(&case.k));
        let (_, lse2) = same.forward::<f32>(1);
        assert!(difference(&lse, &lse2) < 4e-6, "width {width}: scores differ by {}", difference(&lse, &lse2));
    }
}

#[test]
fn bf16_has_the_same_bits_for_any_number_of_threads_alone_and_packed() {
    for (name, a) in bf16_kinds() {
        let case = Case::new(a, &[(300, 300), (65, 129)]);
        let ((o, lse), gradients) = (case.forward::<f32>(1), case.backward::<f32>(1));
        let ((o2, lse2), gradients2) = (case.forward::<f32>(3), case.backward::<f32>(3));
        assert!(bits(&o) == bits(&o2) && bits(&lse) == bits(&lse2), "{name}: outputs");
        assert!(gradients.iter().zip(&gradients2).all(|(x, y)| bits(x) == bits(y)), "{name}: gradients");
        if a.dropout > 0.0 {
            continue;
        }
        let mut one = Case::new(a, &[(65, 129)]);
        let tail = |x: &[f32], n: usize| x[x.len() - n..].to_vec();
        (one.q, one.d_o) = (tail(&case.q, one.q.len()), tail(&case.d_o, one.d_o.len()));
        (one.k, one.v) = (tail(&case.k, one.k.len()), tail(&case.v, one.v.len()));
        let ((o1, _), gradients1) = (one.forward::<f32>(1), one.backward::<f32>(1));
        assert_eq!(bits(&o1), bits(&tail(&o, o1.len())), "{name}: outputs alone");
        for (x, y) in gradients1.iter().zip(&gradients) {
            assert_eq!(bits(x), bits(&tail(y, x.len())), "{name}: gradients alone");
        }
    }
}

/// Masks cut pairs of keys in the middle: a row's bits depend on what it sees, not on what its neighbours see.
#[test]
fn a_pair_of_keys_of_which_a_row_sees_one_adds_that_one() {
    let a = Attention { compute: Compute::Bf16, ..attention(2, 1, 32) };
    let mut case = Case::new(a, &[(96, 130)]);
    // Row i sees key j if bit j % 8 of this number is set.
    let pattern = |i: usize| 0b1011_0001_usize.rotate_left(i as u32 % 8) | (i & 0xff);
    case.mask = Some(BlockMask::new((1, 96), (1, 130), |i, j| pattern(i) >> (j % 8) & 1 == 1));
    let (o, lse) = case.forward::<f32>(2);
    for i in (0..96).step_by(7) {
        let mut one = case.clone();
        let width = a.heads * 32;
        (one.q, one.d_o) = (case.q[i * width..][..width].to_vec(), vec![0.0; width]);
        one.cu_q = vec![0, 1];
        one.mask = Some(BlockMask::new((1, 1), (1, 130), |_, j| pattern(i) >> (j % 8) & 1 == 1));
        let (o1, lse1) = one.forward::<f32>(1);
        assert_eq!(bits(&o1), bits(&o[i * width..][..width]), "row {i}");
        assert_eq!(lse1[1].to_bits(), lse[96 + i].to_bits(), "row {i}");
    }
    let exact = case.naive::<f32, _>(|x| x.forward()).0;
    assert!(difference(&o, &exact) < 0.1, "{}", difference(&o, &exact));
}
