use super::*;
use crate::laws::values;
use half::bf16;

fn run<T: Real>(threads: usize, g: Gemm, a: &[T], b: &[T], c: &mut [T]) {
    let mut scratch = vec![0xa5; gemm_scratch(&g, size_of::<T>(), threads)];
    gemm(&Pool::new(threads), g, a, b, c, &mut scratch);
}

/// The definition of the row law: one chain a element.
fn chains<T: Real>(g: Gemm, a: &[T], b: &[T], c: &mut [T]) {
    for i in 0..g.m {
        for j in 0..g.n {
            let mut sum = T::ZERO;
            for k in 0..g.k {
                let x = if g.a_trans { a[k * g.m + i] } else { a[i * g.k + k] };
                let y = if g.b_trans { b[j * g.k + k] } else { b[k * g.n + j] };
                sum = x.mul_add(y, sum);
            }
            c[i * g.n + j] = if g.accumulate { c[i * g.n + j] + sum } else { sum };
        }
    }
}

fn shapes() -> Vec<(usize, usize, usize)> {
    let mut shapes = vec![(0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (96, 33, 257), (97, 31, 513), (13, 1100, 300)];
    shapes.extend([(1, 513, 1027), (2, 32, 64), (5, 129, 7), (130, 70, 600), (300, 257, 260), (192, 64, 64)]);
    shapes
}

fn every<T: Real>(threads: &[usize]) {
    for (m, n, k) in shapes() {
        let (a, b, before) = (values::<T>(m * k, 1), values::<T>(k * n, 2), values::<T>(m * n, 3));
        for variant in 0..8 {
            let g = Gemm {
                m,
                n,
                k,
                a_trans: variant & 1 != 0,
                b_trans: variant & 2 != 0,
                accumulate: variant & 4 != 0,
                compute: Compute::F32,
            };
            let mut expected = before.clone();
            chains(g, &a, &b, &mut expected);
            for &threads in threads {
                let mut c = before.clone();
                run(threads, g, &a, &b, &mut c);
                assert!(c == expected, "{g:?} with {threads} threads");
            }
        }
    }
}

#[test]
fn each_element_is_one_chain_of_fused_multiply_adds() {
    every::<f32>(&[1, 2, 3]);
    every::<f64>(&[1, 3]);
}

#[test]
fn rows_alone_are_rows_of_the_whole() {
    for compute in [Compute::F32, Compute::Bf16] {
        let g = Gemm { m: 512, n: 200, k: 300, a_trans: false, b_trans: true, accumulate: false, compute };
        let (a, b) = (values::<f32>(g.m * g.k, 4), values::<f32>(g.n * g.k, 5));
        let mut whole = vec![0.0; g.m * g.n];
        run(2, g, &a, &b, &mut whole);
        for i in 0..g.m {
            let mut row = vec![0.0; g.n];
            run(1, Gemm { m: 1, ..g }, &a[i * g.k..][..g.k], &b, &mut row);
            assert!(row == whole[i * g.n..][..g.n], "{compute:?}, row {i}");
        }
    }
}

#[test]
fn columns_alone_are_columns_of_the_whole() {
    for compute in [Compute::F32, Compute::Bf16] {
        let g = Gemm { m: 150, n: 200, k: 700, a_trans: true, b_trans: true, accumulate: true, compute };
        let (a, b, before) = (values::<f32>(g.m * g.k, 6), values::<f32>(g.n * g.k, 7), values::<f32>(g.m * g.n, 8));
        let mut whole = before.clone();
        run(3, g, &a, &b, &mut whole);
        for columns in [0..1, 3..20, 17..150, 31..200] {
            let n = columns.len();
            let take =
                |x: &[f32]| -> Vec<f32> { x.chunks(g.n).flat_map(|row| row[columns.clone()].to_vec()).collect() };
            let mut part = take(&before);
            run(1, Gemm { n, ..g }, &a, &b[columns.start * g.k..columns.end * g.k], &mut part);
            assert!(part == take(&whole), "{compute:?}, columns {columns:?}");
        }
    }
}

#[test]
fn bf16_products_are_those_of_rounded_operands() {
    for (m, n, k) in shapes() {
        let (a, b) = (values::<f32>(m * k, 9), values::<f32>(k * n, 10));
        let round = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect() };
        for variant in 0..4 {
            let (a_trans, b_trans) = (variant & 1 != 0, variant & 2 != 0);
            let g = Gemm { m, n, k, a_trans, b_trans, accumulate: false, compute: Compute::Bf16 };
            let mut expected = vec![0.0; m * n];
            chains(g, &round(&a), &round(&b), &mut expected);
            let mut first: Option<Vec<f32>> = None;
            for threads in 1..=3 {
                let mut c = vec![7.0; m * n];
                run(threads, g, &a, &b, &mut c);
                for (&c, &e) in c.iter().zip(&expected) {
                    assert!((c as f64 - e).abs() <= 2e-6 * (k as f64).sqrt() * 4.0, "{g:?}: {c}, not {e}");
                }
                assert!(first.get_or_insert(c.clone()) == &c, "{g:?} with {threads} threads");
            }
            let wide: Vec<f64> = a.iter().map(|&x| x as f64).collect();
            let wide_b: Vec<f64> = b.iter().map(|&x| x as f64).collect();
            let mut c = vec![7.0; m * n];
            run(2, g, &wide, &wide_b, &mut c);
            for (&c, &e) in c.iter().zip(&expected) {
                assert!((c - e).abs() <= 1e-11, "{g:?} in f64: {c}, not {e}");
            }
        }
    }
}

#[test]
fn strided_matrices_leave_what_lies_between_their_rows() {
    let g = Gemm { m: 70, n: 45, k: 300, a_trans: false, b_trans: false, accumulate: true, compute: Compute::F32 };
    let (lda, ldb, ldc) = (311, 60, 47);
    let (a, b) = (values::<f32>(g.m * lda, 11), values::<f32>(g.k * ldb, 12));
    let mut c = values::<f32>(g.m * ldc, 13);
    let before = c.clone();
    let pool = Pool::new(2);
    let mut scratch = vec![0; gemm_scratch(&g, 4, 2)];
    gemm_strided(&pool, g, &a, lda, &b, ldb, &mut c, ldc, &mut scratch);
    for i in 0..g.m {
        for j in 0..ldc {
            let sum = (0..g.k).fold(0.0f32, |sum, k| a[i * lda + k].mul_add(b[k * ldb + j.min(44)], sum));
            let expected = if j < g.n { before[i * ldc + j] + sum } else { before[i * ldc + j] };
            assert_eq!(c[i * ldc + j], expected, "{i} {j}");
        }
    }
}

#[test]
fn blocks_inside_a_task_keep_the_chains() {
    for (m, n, k) in [(1, 1, 1), (64, 64, 64), (33, 70, 19), (7, 128, 130)] {
        for compute in [Compute::F32, Compute::Bf16] {
            let g = Gemm { m, n, k, a_trans: false, b_trans: true, accumulate: false, compute };
            let (a, b) = (values::<f32>(m * k, 14), values::<f32>(n * k, 15));
            let mut whole = vec![0.0; m * n];
            run(2, g, &a, &b, &mut whole);
            let block = PackedBlock { m, n, k, compute, start: Start::Zero };
            let mut c = vec![0.0; m * n];
            let mut scratch = vec![0; gemm_block_scratch::<f32>(&block)];
            gemm_block(&block, (&a, k, false), (&b, k, true), &mut c, n, &mut scratch);
            assert!(c == whole, "{block:?}");
            if k % 2 == 0 {
                // The chain in two slices.
                let (first, rest) = (k / 2 / 2 * 2, k - k / 2 / 2 * 2);
                let mut c = vec![0.0; m * n];
                for (start, from, k_part) in [(Start::Zero, 0, first), (Start::Continue, first, rest)] {
                    let block = PackedBlock { m, n, k: k_part, compute, start };
                    let mut scratch = vec![0; gemm_block_scratch::<f32>(&block)];
                    gemm_block(&block, (&a[from..], k, false), (&b[from..], k, true), &mut c, n, &mut scratch);
                }
                assert!(c == whole, "{block:?} in two slices");
            }
        }
    }
}

#[test]
fn scratch_planned_for_the_most_rows_and_the_longest_sum_is_enough_for_fewer() {
    const SIZES: [usize; 10] = [1, 5, 95, 96, 97, 128, 240, 1000, 2048, 6000];
    let (tile_rows, tile_columns) = tile_shape(4);
    let pairs = || SIZES.into_iter().flat_map(|m| SIZES.map(|k| (m, k)));
    for (n, (m, k)) in SIZES.into_iter().flat_map(|n| pairs().map(move |pair| (n, pair))) {
        for (compute, accumulate) in [(Compute::F32, false), (Compute::F32, true), (Compute::Bf16, true)] {
            let most = Gemm { m, n, k, a_trans: false, b_trans: false, accumulate, compute };
            let planned = gemm_scratch(&most, 4, 2);
            for (m, k) in pairs().filter(|&(m, k)| m <= most.m && k <= most.k) {
                let g = Gemm { m, k, ..most };
                let needed = ALIGN + g.cut(tile_rows, tile_columns, 4).scratch(&g, 4, 2);
                assert!(needed <= planned, "{needed} bytes for {g:?}, {planned} planned for {most:?}");
            }
        }
    }
}
