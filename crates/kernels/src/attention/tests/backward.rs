use super::*;

/// Kinds that a gradient check covers, smaller than those of the forward pass.
fn small_kinds() -> Vec<(&'static str, Attention)> {
    kinds().into_iter().map(|(name, a)| (name, Attention { key_width: 6, value_width: 5, ..a })).collect()
}

#[test]
fn the_dense_backward_pass_equals_finite_differences() {
    for (name, a) in small_kinds() {
        let case = Case::new(a, &[(5, 9), (7, 4)]);
        let d_o: Vec<f64> = cast(&case.d_o);
        let gradients = case.naive::<f64, _>(|x| x.backward(&d_o));
        let gradients = [gradients.0, gradients.1, gradients.2];
        let loss = |case: &[Vec<f64>; 3], x: Inputs<f64>| {
            let (o, _) = Inputs { q: &case[0], k: &case[1], v: &case[2], ..x }.forward();
            o.iter().zip(&d_o).map(|(o, d)| o * d).sum::<f64>()
        };
        let tensors = [cast(&case.q), cast(&case.k), cast(&case.v)];
        for (which, gradient) in gradients.iter().enumerate() {
            for at in (0..gradient.len()).step_by(13) {
                let slope = case.naive::<f64, _>(|x| {
                    let mut moved = tensors.clone();
                    moved[which][at] += 1e-5;
                    let up = loss(&moved, x);
                    moved[which][at] -= 2e-5;
                    (up - loss(&moved, x)) / 2e-5
                });
                let error = (slope - gradient[at]).abs();
                assert!(
                    error < 1e-8 * (1.0 + slope.abs()),
                    "{name}: d{} {at}: {slope}, {}",
                    ["q", "k", "v"][which],
                    gradient[at]
                );
            }
        }
    }
}
