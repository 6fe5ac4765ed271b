//! Few rows of queries against a whole tile of a cache, from where its bytes lie.
//!
//! In decoding a tile meets the query heads of one KV head only: writing it to scratch memory as f32 and reading it
//! back would take longer than its products. So 16 keys are transposed in registers and multiplied there, and values
//! are decoded as they are read. The chains are those of [`product`](super::product): one over the key width, one over
//! the keys, ascending.

/// Most rows of queries.
pub(super) const ROWS: usize = 8;

/// Elements of a row that are decoded at a time; value widths are multiples of it, and key widths of twice as many.
#[cfg(target_arch = "x86_64")]
pub(super) const ELEMENTS: usize = 32;

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::super::cache_avx512::{
        bias_of, block_to_floats, brains_to_floats, codes_to_floats, halves_to_floats, transpose_16,
    };
    use super::super::visible::TILE;
    use super::{ELEMENTS, ROWS};
    use memwall_formats::Dtype;
    use std::arch::x86_64::*;

    /// The keys, or the values, of a tile: row j is at `rows + j·stride`, of `width` elements.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Tile {
        pub dtype: Dtype,
        pub rows: *const u8,
        pub stride: usize,
        pub width: usize,
    }

    /// Calls `$f::<.., R>` for R rows.
    macro_rules! for_rows {
        ($rows:expr, $f:ident::<$format:ty>($($arg:expr),*)) => {
            match $rows {
                1 => $f::<$format, 1>($($arg),*),
                2 => $f::<$format, 2>($($arg),*),
                3 => $f::<$format, 3>($($arg),*),
                4 => $f::<$format, 4>($($arg),*),
                5 => $f::<$format, 5>($($arg),*),
                6 => $f::<$format, 6>($($arg),*),
                7 => $f::<$format, 7>($($arg),*),
                _ => $f::<$format, ROWS>($($arg),*),
            }
        };
    }

    impl Tile {
        /// Products of `rows` queries and the keys, to rows of 64.
        ///
        /// # Safety
        /// The processor has the instruction set; `rows` is 1 to 8, `width` a multiple of 64; q and scores hold `rows`.
        pub(in super::super) unsafe fn scores(self, rows: usize, q: *const f32, scores: *mut f32) {
            // SAFETY: the caller's.
            unsafe {
                match self.dtype {
                    Dtype::F32 => for_rows!(rows, scores_of::<F32>(self, q, scores)),
                    Dtype::F16 => for_rows!(rows, scores_of::<F16>(self, q, scores)),
                    Dtype::BF16 => for_rows!(rows, scores_of::<Bf16>(self, q, scores)),
                    _ => for_rows!(rows, scores_of::<Q8>(self, q, scores)),
                }
            }
        }

        /// Adds values times `rows` rows of 64 weights to rows of outputs.
        ///
        /// # Safety
        /// As for [`Tile::scores`], with weights and output in place of q and scores, and widths that are multiples of 32.
        pub(in super::super) unsafe fn values(self, rows: usize, weights: *const f32, output: *mut f32) {
            // SAFETY: the caller's.
            unsafe {
                match self.dtype {
                    Dtype::F32 => for_rows!(rows, values_of::<F32>(self, weights, output)),
                    Dtype::F16 => for_rows!(rows, values_of::<F16>(self, weights, output)),
                    Dtype::BF16 => for_rows!(rows, values_of::<Bf16>(self, weights, output)),
                    _ => for_rows!(rows, values_of::<Q8>(self, weights, output)),
                }
            }
        }
    }

    /// A format of a cache.
    trait Format {
        /// Elements of a row in one register of 16 words of 32 bits, times 16 registers: what is transposed at a time.
        const STEP: usize;
        /// Columns in one transposed register.
        const COLUMNS: usize;
        /// What decodes the registers of a block.
        type Scale: Copy;
        /// Elements `d` to `d + STEP` of 16 rows, `stride` apart, as they lie.
        ///
        /// # Safety
        /// The rows exist, and the processor has the instruction set.
        unsafe fn block(rows: *const u8, stride: usize, d: usize) -> ([__m512i; 16], Self::Scale);
        /// The columns in transposed register `i`.
        ///
        /// # Safety
        /// The processor has the instruction set.
        unsafe fn columns(i: usize, register: __m512i, scale: Self::Scale) -> [__m512; 4];
        /// Elements `d` to `d + 32` of a row.
        ///
        /// # Safety
        /// The row exists, and the processor has the instruction set.
        unsafe fn elements(row: *const u8, d: usize) -> [__m512; 2];
        /// Bytes before element `d` of a row.
        fn bytes(d: usize) -> usize;
    }

    /// Asks for some bytes of the tile that follows: rows of a head lie too far apart for the processor to foresee.
    #[inline(always)]
    fn ask_for(row: *const u8, behind: usize, bytes: usize) {
        for line in (0..bytes).step_by(64) {
            // SAFETY: any address may be asked for.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(row.wrapping_add(behind + line).cast()) };
        }
    }

    /// # Safety
    /// As for [`Tile::scores`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn scores_of<F: Format, const R: usize>(t: Tile, q: *const f32, scores: *mut f32) {
        for j in (0..TILE).step_by(16) {
            let mut sums = [_mm512_setzero_ps(); R];
            for d in (0..t.width).step_by(F::STEP) {
                // SAFETY: the caller's.
                unsafe {
                    let rows = t.rows.add(j * t.stride);
                    let (block, scale) = F::block(rows, t.stride, d);
                    for row in 0..16 {
                        ask_for(rows, (TILE + row) * t.stride + F::bytes(d), F::bytes(F::STEP));
                    }
                    for (i, &register) in transpose_16(block).iter().enumerate() {
                        let columns = F::columns(i, register, scale);
                        for (c, &keys) in columns.iter().enumerate().take(F::COLUMNS) {
                            let q = q.add(d + i * F::COLUMNS + c);
                            for (r, sum) in sums.iter_mut().enumerate() {
                                *sum = _mm512_fmadd_ps(_mm512_set1_ps(*q.add(r * t.width)), keys, *sum);
                            }
                        }
                    }
                }
            }
            for (r, &sum) in sums.iter().enumerate() {
                // SAFETY: scores are rows of 64.
                unsafe { _mm512_storeu_ps(scores.add(r * TILE + j), sum) };
            }
        }
    }

    /// # Safety
    /// As for [`Tile::values`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn values_of<F: Format, const R: usize>(t: Tile, weights: *const f32, output: *mut f32) {
        for d in (0..t.width).step_by(ELEMENTS) {
            let mut sums = [[_mm512_setzero_ps(); 2]; R];
            // SAFETY: the caller's.
            unsafe {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let output = output.add(r * t.width + d);
                    *sums = [_mm512_loadu_ps(output), _mm512_loadu_ps(output.add(16))];
                }
                for j in 0..TILE {
                    let row = t.rows.add(j * t.stride);
                    let [low, high] = F::elements(row, d);
                    ask_for(row, TILE * t.stride + F::bytes(d), F::bytes(ELEMENTS));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let weight = _mm512_set1_ps(*weights.add(r * TILE + j));
                        sums[0] = _mm512_fmadd_ps(weight, low, sums[0]);
                        sums[1] = _mm512_fmadd_ps(weight, high, sums[1]);
                    }
                }
                for (r, sums) in sums.iter().enumerate() {
                    let output = output.add(r * t.width + d);
                    _mm512_storeu_ps(output, sums[0]);
                    _mm512_storeu_ps(output.add(16), sums[1]);
                }
            }
        }
    }

    struct F32;
    struct F16;
    struct Bf16;
    struct Q8;

    /// 64 bytes at `at` of each of 16 rows.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words(at: *const u8, stride: usize) -> [__m512i; 16] {
        let mut block = [_mm512_setzero_si512(); 16];
        for (j, row) in block.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *row = unsafe { _mm512_loadu_si512(at.add(j * stride).cast()) };
        }
        block
    }

    impl Format for F32 {
        const STEP: usize = 16;
        const COLUMNS: usize = 1;
        type Scale = ();
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn block(rows: *const u8, stride: usize, d: usize) -> ([__m512i; 16], ()) {
            // SAFETY: the caller's.
            (unsafe { words(rows.add(4 * d), stride) }, ())
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn columns(_: usize, register: __m512i, (): ()) -> [__m512; 4] {
            [_mm512_castsi512_ps(register); 4]
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn elements(row: *const u8, d: usize) -> [__m512; 2] {
            // SAFETY: the caller's.
            unsafe { [_mm512_loadu_ps(row.add(4 * d).cast()), _mm512_loadu_ps(row.add(4 * d + 64).cast())] }
        }
        fn bytes(d: usize) -> usize {
            4 * d
        }
    }

    impl Format for F16 {
        const STEP: usize = 32;
        const COLUMNS: usize = 2;
        type Scale = ();
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn block(rows: *const u8, stride: usize, d: usize) -> ([__m512i; 16], ()) {
            // SAFETY: the caller's.
            (unsafe { words(rows.add(2 * d), stride) }, ())
        }
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn columns(_: usize, register: __m512i, (): ()) -> [__m512; 4] {
            let [low, high] = halves_to_floats(register);
            [low, high, low, high]
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn elements(row: *const u8, d: usize) -> [__m512; 2] {
            // SAFETY: the caller's.
            unsafe {
                let at = row.add(2 * d);
                [_mm512_cvtph_ps(_mm256_loadu_si256(at.cast())), _mm512_cvtph_ps(_mm256_loadu_si256(at.add(32).cast()))]
            }
        }
        fn bytes(d: usize) -> usize {
            2 * d
        }
    }

    impl Format for Bf16 {
        const STEP: usize = 32;
        const COLUMNS: usize = 2;
        type Scale = ();
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn block(rows: *const u8, stride: usize, d: usize) -> ([__m512i; 16], ()) {
            // SAFETY: the caller's.
            (unsafe { words(rows.add(2 * d), stride) }, ())
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn columns(_: usize, register: __m512i, (): ()) -> [__m512; 4] {
            let [low, high] = brains_to_floats(register);
            [low, high, low, high]
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn elements(row: *const u8, d: usize) -> [__m512; 2] {
            // SAFETY: the caller's.
            let [low, high] = unsafe {
                let at = row.add(2 * d);
                [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())]
            };
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(low))),
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high))),
            ]
        }
        fn bytes(d: usize) -> usize {
            2 * d
        }
    }

    impl Format for Q8 {
        const STEP: usize = 64;
        const COLUMNS: usize = 4;
        /// Of both blocks: the scale, and what takes the bias of its codes off.
        type Scale = [[__m512; 2]; 2];
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn block(rows: *const u8, stride: usize, d: usize) -> ([__m512i; 16], Self::Scale) {
            let mut codes = [_mm512_setzero_si512(); 16];
            let mut scales = [[0u16; 16]; 2];
            for j in 0..16 {
                // SAFETY: the caller's: two blocks of 34 bytes hold these 64 elements.
                unsafe {
                    let block = rows.add(j * stride + d / 32 * 34);
                    scales[0][j] = block.cast::<u16>().read_unaligned();
                    scales[1][j] = block.add(34).cast::<u16>().read_unaligned();
                    let low = _mm512_castsi256_si512(_mm256_loadu_si256(block.add(2).cast()));
                    codes[j] = _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(block.add(36).cast()));
                }
            }
            // SAFETY: 16 of each.
            let [low, high] = unsafe {
                [
                    _mm512_cvtph_ps(_mm256_loadu_si256(scales[0].as_ptr().cast())),
                    _mm512_cvtph_ps(_mm256_loadu_si256(scales[1].as_ptr().cast())),
                ]
            };
            (codes, [[low, bias_of(low)], [high, bias_of(high)]])
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn columns(i: usize, register: __m512i, scale: Self::Scale) -> [__m512; 4] {
            let [scale, bias] = scale[i / 8];
            codes_to_floats(register, scale, bias)
        }
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
        unsafe fn elements(row: *const u8, d: usize) -> [__m512; 2] {
            // SAFETY: the caller's.
            unsafe { block_to_floats(row.add(d / 32 * 34)) }
        }
        fn bytes(d: usize) -> usize {
            d / 32 * 34
        }
    }
}
