use super::*;
use half::{bf16, f16};
use memwall_formats::Dtype;

/// Queries, keys and values of a few sequences, and their cache as bytes.
struct Cached {
    a: Attention,
    /// Keys of each sequence.
    lengths: Vec<usize>,
    dtypes: [Dtype; 2],
    capacity: usize,
    q: Vec<Vec<f32>>,
    /// Decoded, `[position, G·width]`.
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    bytes: [Vec<u8>; 2],
    strides: [(usize, usize); 2],
    slopes: Option<Vec<f32>>,
}

/// A row of values as bytes of a format, and what they decode to.
fn encode(dtype: Dtype, row: &[f32]) -> (Vec<u8>, Vec<f32>) {
    match dtype {
        Dtype::F32 => (row.iter().flat_map(|x| x.to_le_bytes()).collect(), row.to_vec()),
        Dtype::F16 => {
            let x: Vec<f16> = row.iter().map(|&x| f16::from_f32(x)).collect();
            (x.iter().flat_map(|x| x.to_le_bytes()).collect(), x.iter().map(|x| x.to_f32()).collect())
        }
        Dtype::BF16 => {
            let x: Vec<bf16> = row.iter().map(|&x| bf16::from_f32(x)).collect();
            (x.iter().flat_map(|x| x.to_le_bytes()).collect(), x.iter().map(|x| x.to_f32()).collect())
        }
        _ => {
            let (mut bytes, mut decoded) = (vec![], vec![]);
            for block in row.chunks(32) {
                let top = block.iter().fold(0.0f32, |top, x| top.max(x.abs()));
                let scale = f16::from_f32(top / 127.0);
                bytes.extend(scale.to_le_bytes());
                for x in block {
                    let code = (x / scale.to_f32()).round().clamp(-127.0, 127.0) as i8;
                    bytes.push(code as u8);
                    decoded.push(scale.to_f32() * f32::from(code));
                }
            }
            (bytes, decoded)
        }
    }
}

impl Cached {
    /// A cache with `capacity` slots a sequence; older keys of a ring are overwritten by newer ones.
    fn new(a: Attention, lengths: &[usize], dtypes: [Dtype; 2], capacity: usize) -> Cached {
        let rows = [a.kv_heads * a.key_width, a.kv_heads * a.value_width];
        // Rows and sequences are further apart than they need to be.
        let strides = [0, 1].map(|i| {
            let row = dtypes[i].row_bytes(rows[i]).expect("whole blocks") + 8;
            (row, capacity * row + 64)
        });
        let mut c = Cached {
            a,
            lengths: lengths.to_vec(),
            dtypes,
            capacity,
            q: vec![],
            k: vec![],
            v: vec![],
            bytes: strides.map(|s| vec![0xff; s.1 * lengths.len()]),
            strides,
            slopes: a.alibi.then(|| (0..a.heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect()),
        };
        for (b, &n) in lengths.iter().enumerate() {
            c.q.push(numbers(10 + b as u64, n * a.heads * a.key_width));
            for i in 0..2 {
                let values: Vec<f32> = numbers(20 + 10 * i as u64 + b as u64, n * rows[i]);
                let mut decoded = vec![];
                for (position, row) in values.chunks(rows[i]).enumerate() {
                    let (bytes, row) = encode(dtypes[i], row);
                    decoded.extend(row);
                    let at = b * c.strides[i].1 + position % capacity * c.strides[i].0;
                    c.bytes[i][at..at + bytes.len()].copy_from_slice(&bytes);
                }
                if i == 0 { c.k.push(decoded) } else { c.v.push(decoded) }
            }
        }
        c
    }

    fn view(&self, i: usize) -> CacheView<'_> {
        CacheView {
            dtype: self.dtypes[i],
            bytes: &self.bytes[i],
            seq_stride_bytes: self.strides[i].1,
            row_stride_bytes: self.strides[i].0,
            capacity: self.capacity,
        }
    }

    /// O (`[row][H·V]`) and L (`[row][H]`) of these rows in one call.
    fn attend(&self, rows: &[CacheRow], threads: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let a = &self.a;
        let width = a.heads * a.key_width;
        let q: Vec<f32> =
            rows.iter().flat_map(|r| &self.q[r.sequence][r.position * width..][..width]).copied().collect();
        let mut o = vec![7.0; rows.len() * a.heads * a.value_width];
        let mut lse = vec![7.0; rows.len() * a.heads];
        let context = self.lengths.iter().copied().max().unwrap_or(0);
        let mut scratch = vec![0xff; attention_cached_scratch(a, rows.len(), context, threads)];
        let (pool, slopes) = (Pool::new(threads), self.slopes.as_deref());
        attention_cached(&pool, a, &q, rows, self.view(0), self.view(1), slopes, &mut o, &mut lse, &mut scratch);
        let lse_of = |i: usize| (0..a.heads).map(|h| lse[h * rows.len() + i]).collect();
        o.chunks(a.heads * a.value_width).enumerate().map(|(i, o)| (o.to_vec(), lse_of(i))).collect()
    }

    /// The same by attention over packed tokens, of the decoded keys and values.
    fn packed(&self) -> Vec<Vec<(Vec<f32>, Vec<f32>)>> {
        let a = &self.a;
        let lengths: Vec<_> = self.lengths.iter().map(|&n| (n, n)).collect();
        let mut case = Case::new(*a, &lengths);
        (case.q, case.k, case.v) = (self.q.concat(), self.k.concat(), self.v.concat());
        let (o, lse) = case.forward::<f32>(2);
        let of = |row: usize| {
            let width = a.heads * a.value_width;
            (o[row * width..][..width].to_vec(), (0..a.heads).map(|h| lse[h * case.nq() + row]).collect())
        };
        case.cu_q.windows(2).map(|cu| (cu[0] as usize..cu[1] as usize).map(of).collect()).collect()
    }
}

fn all_bits(rows: &[(Vec<f32>, Vec<f32>)]) -> Vec<u32> {
    rows.iter().flat_map(|(o, lse)| o.iter().chain(lse)).map(|x| x.to_bits()).collect()
}

fn causal_kinds() -> Vec<(&'static str, Attention)> {
    let wide = Attention { key_width: 64, value_width: 64, causal: true, ..attention(8, 2, 64) };
    let mut kinds: Vec<_> = kinds().into_iter().filter(|(_, a)| a.causal && a.dropout == 0.0).collect();
    kinds.push(("width 64", wide));
    kinds
}

#[test]
fn a_cache_has_the_bits_of_packed_attention_however_it_is_cut_and_batched() {
    for (name, a) in causal_kinds() {
        let lengths = [700, 64, 1, 130, 515];
        let cached = Cached::new(a, &lengths, [Dtype::F32; 2], 700);
        let packed = cached.packed();
        for threads in [1, 2] {
            for (sequence, &n) in lengths.iter().enumerate() {
                for chunk in [1, 7, 64, 512] {
                    // One row at a time is slow: the first and last rows stand for all.
                    let starts = (0..n).step_by(chunk).filter(|&p| chunk > 1 || p % 97 < 2 || p + 2 > n);
                    for p in starts {
                        let rows: Vec<_> =
                            (p..(p + chunk).min(n)).map(|position| CacheRow { sequence, position }).collect();
                        let o = cached.attend(&rows, threads);
                        let expected = &packed[sequence][p..p + rows.len()];
                        assert!(all_bits(&o) == all_bits(expected), "{name}, {threads} threads, chunk {chunk} at {p}");
                    }
                }
            }
            // A batch of all: the last row of each, and a mixture of pieces.
            let mut rows: Vec<_> =
                lengths.iter().enumerate().map(|(sequence, n)| CacheRow { sequence, position: n - 1 }).collect();
            for pass in 0..2 {
                let o = cached.attend(&rows, threads);
                for (row, o) in rows.iter().zip(&o) {
                    let expected = &packed[row.sequence][row.position];
                    assert!(
                        all_bits(std::slice::from_ref(o)) == all_bits(std::slice::from_ref(expected)),
                        "{name}, {pass}"
                    );
                }
                rows.extend((300..340).map(|position| CacheRow { sequence: 0, position }));
                rows.extend((0..64).map(|position| CacheRow { sequence: 1, position }));
                rows.push(CacheRow { sequence: 4, position: 3 });
            }
        }
    }
}

#[test]
fn every_cache_format_has_the_bits_of_its_decoded_values() {
    for dtypes in
        [[Dtype::F16; 2], [Dtype::BF16; 2], [Dtype::Q8_0; 2], [Dtype::F16, Dtype::Q8_0], [Dtype::Q8_0, Dtype::BF16]]
    {
        // Of 40 and 59 only some heads begin at a block of Q8_0, or a word; 96 values are three blocks.
        for (k, v) in [(64, 64), (96, 96), (40, 48), (59, 59), (128, 32)] {
            let quantized = dtypes.contains(&Dtype::Q8_0);
            let kv_heads = if quantized { 32 } else { 3 };
            if quantized && k == 128 {
                continue;
            }
            let a = Attention { causal: true, key_width: k, value_width: v, ..attention(2 * kv_heads, kv_heads, k) };
            let cached = Cached::new(a, &[70, 100], dtypes, 128);
            let packed = cached.packed();
            for (sequence, position) in [(0, 0), (0, 69), (1, 17), (1, 63), (1, 99)] {
                let o = cached.attend(&[CacheRow { sequence, position }], 2);
                let expected = std::slice::from_ref(&packed[sequence][position]);
                assert!(all_bits(&o) == all_bits(expected), "{dtypes:?}, {k}, {v}: {sequence}, {position}");
            }
        }
    }
}

#[test]
fn few_rows_have_the_bits_of_packed_attention_for_every_group() {
    for group in 1..=9 {
        for (i, dtype) in CacheView::DTYPES.into_iter().enumerate() {
            let (k, v) = [(64, 64), (128, 32), (64, 96)][(group + i) % 3];
            let a = Attention { causal: true, key_width: k, value_width: v, ..attention(2 * group, 2, k) };
            // Whole tiles and part of one, more than a group of tiles, and a ring that wraps inside a tile.
            for (length, left, capacity) in [(645, None, 700), (645, Some(200), 233)] {
                let a = Attention { window: (left, None), ..a };
                let cached = Cached::new(a, &[length], [dtype; 2], capacity);
                let packed = cached.packed();
                for position in [length - 1, length - 6] {
                    let o = cached.attend(&[CacheRow { sequence: 0, position }], 1 + group % 2);
                    let expected = std::slice::from_ref(&packed[0][position]);
                    assert!(all_bits(&o) == all_bits(expected), "{dtype}, group {group}, {k}, {v}: {position}");
                }
            }
        }
    }
}

#[test]
fn a_ring_has_the_bits_of_a_cache_that_holds_everything() {
    for (left, capacity) in [(69, 100), (99, 100), (300, 333), (5, 6), (1000, 1024)] {
        for dtype in [Dtype::F32, Dtype::F16] {
            let a = Attention { causal: true, window: (Some(left), None), ..attention(4, 2, 32) };
            let full = Cached::new(a, &[900, 650], [dtype; 2], 1500);
            let ring = Cached::new(a, &[900, 650], [dtype; 2], capacity);
            for (sequence, last) in [(0, 899), (1, 649)] {
                // As many rows as the ring still has all keys of.
                let rows = (capacity - left).min(40);
                let rows: Vec<_> = (last + 1 - rows..=last).map(|position| CacheRow { sequence, position }).collect();
                for threads in [1, 2] {
                    let (x, y) = (full.attend(&rows, threads), ring.attend(&rows, threads));
                    assert!(all_bits(&x) == all_bits(&y), "left {left}, capacity {capacity}, {threads} threads");
                    let (x, y) = (full.attend(&rows[..1], threads), ring.attend(&rows[..1], threads));
                    assert!(all_bits(&x) == all_bits(&y), "left {left}, capacity {capacity}, one row");
                }
            }
        }
    }
}

#[test]
fn what_a_cache_holds_behind_a_row_does_not_matter() {
    let a = Attention { causal: true, ..attention(4, 2, 32) };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8_0] {
        let mut cached = Cached::new(a, &[600], [dtype; 2], 600);
        let row = [CacheRow { sequence: 0, position: 299 }];
        let clean = cached.attend(&row, 2);
        for i in 0..2 {
            let stride = cached.strides[i].0;
            // All bits set are NaN in every float format.
            cached.bytes[i][300 * stride..].fill(0xff);
        }
        assert!(all_bits(&clean) == all_bits(&cached.attend(&row, 2)), "{dtype}");
        assert!(clean[0].0.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn merging_any_partition_of_the_keys_equals_the_whole() {
    let a = Attention { alibi: true, ..attention(4, 2, 32) };
    let case = Case::new(a, &[(33, 200)]);
    let (o, lse) = case.forward::<f32>(1);
    for cuts in [vec![100], vec![0, 1, 2, 3], vec![64, 128], vec![7, 7, 90, 150, 199], vec![200]] {
        let mut parts = vec![];
        let bounds: Vec<usize> = [0].into_iter().chain(cuts.clone()).chain([200]).collect();
        for pair in bounds.windows(2) {
            // A block mask of single columns shows only this part of the keys.
            let mut part = case.clone();
            part.mask = Some(BlockMask::new((33, 1), (1, 200), |_, j| (pair[0]..pair[1]).contains(&j)));
            parts.push(part.forward::<f32>(1));
        }
        let (mut o2, mut lse2) = (vec![7.0; o.len()], vec![7.0; lse.len()]);
        let os: Vec<&[f32]> = parts.iter().map(|p| &p.0[..]).collect();
        let lses: Vec<&[f32]> = parts.iter().map(|p| &p.1[..]).collect();
        merge(a.heads, a.value_width, &os, &lses, &mut o2, &mut lse2);
        assert!(difference(&o, &o2) < 1e-6, "{cuts:?}: {}", difference(&o, &o2));
        assert!(difference(&lse, &lse2) < 2e-6, "{cuts:?}: {}", difference(&lse, &lse2));
    }
}

#[test]
fn merging_nothing_is_nothing() {
    let (mut o, mut lse) = (vec![7.0f32; 4], vec![7.0f32; 2]);
    let none = [f32::NEG_INFINITY; 2];
    merge(2, 2, &[&[0.0; 4], &[0.0; 4]], &[&none, &none], &mut o, &mut lse);
    assert_eq!((o, lse), (vec![0.0; 4], none.to_vec()));
}
