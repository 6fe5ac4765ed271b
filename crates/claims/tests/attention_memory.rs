//! What attention allocates beside its inputs and outputs, by an allocator that counts.

use memwall_kernels::Pool;
use memwall_kernels::attention::{
    Attention, attention_backward, attention_backward_scratch, attention_forward, attention_scratch, materialized,
};
use memwall_store::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

fn heads(heads: usize) -> Attention {
    let width = 16;
    Attention { heads, kv_heads: heads, key_width: width, value_width: width, causal: true, ..Attention::default() }
}

/// The most bytes live at once while `f` runs, above those live before.
fn peak(f: impl FnOnce()) -> usize {
    let before = ALLOCATOR.live_bytes();
    ALLOCATOR.reset_peak();
    f();
    ALLOCATOR.peak_bytes() - before
}

/// Log-sum-exp and scratch of a forward and a backward pass.
fn tiled(a: &Attention, n: usize) -> usize {
    let len = n * a.heads * a.key_width;
    let (x, cu, pool) = (vec![0.25f32; len], [0, n as i32], Pool::new(2));
    let (mut o, mut dq, mut dk, mut dv) = (vec![0.0; len], vec![0.0; len], vec![0.0; len], vec![0.0; len]);
    peak(|| {
        let mut lse = vec![0.0; n * a.heads];
        let mut scratch = vec![0; attention_scratch::<f32>(a, 1, 2)];
        attention_forward(&pool, a, &x, &x, &x, &cu, &cu, None, None, &mut o, &mut lse, &mut scratch);
        drop(scratch);
        let mut scratch = vec![0; attention_backward_scratch::<f32>(a, n, 2)];
        let grads = (&mut dq[..], &mut dk[..], &mut dv[..]);
        attention_backward(
            &pool,
            a,
            &x,
            &x,
            &x,
            &cu,
            &cu,
            None,
            None,
            &o,
            &lse,
            &x,
            grads.0,
            grads.1,
            grads.2,
            &mut scratch,
        );
    })
}

/// Weights and scratch of a forward pass that keeps them.
fn dense(a: &Attention, n: usize) -> usize {
    let len = n * a.heads * a.key_width;
    let (x, mut o, pool) = (vec![0.25f32; len], vec![0.0; len], Pool::new(2));
    peak(|| {
        let mut p = vec![0.0; a.heads * n * n];
        let mut scratch = vec![0; materialized::scratch::<f32>(a, n, n, 2)];
        materialized::forward(&pool, a, (n, n), &x, &x, &x, &mut p, &mut o, &mut scratch);
    })
}

#[test]
fn memory_of_tiles_grows_with_the_length_and_that_of_scores_with_its_square() {
    let scores = 4 * 8 * 8192 * 8192;
    let [half, whole] = [4096, 8192].map(|n| tiled(&heads(8), n));
    assert!(whole * 20 <= scores, "{whole} bytes beside inputs and outputs at 8192 tokens, scores take {scores}");
    assert!(whole <= 2 * half, "{half} bytes at 4096 tokens, {whole} at 8192");
    assert!(whole >= 2 * 4 * 8 * 8192, "L and D are counted: {whole}");
    let [half, whole] = [512, 1024].map(|n| dense(&heads(8), n));
    assert!(whole >= 4 * 8 * 1024 * 1024 && whole * 10 >= half * 35, "{half} bytes at 512 tokens, {whole} at 1024");
}
