//! What the kernels of this folder need of an instruction set, so that each body is written once.
//!
//! A vector holds one 32-bit lane for each of [`Lanes::LANES`] weight rows (output columns). All
//! functions are inlined into a function that enables the instruction set.

/// An instruction set as a bundle of operations on lanes; one lane a weight row.
///
/// # Safety
/// Every function needs the processor to have the instruction set; pointers must be valid for what
/// they are read or written as, at any alignment.
pub(super) trait Lanes: Copy + 'static {
    /// 32-bit integers, one a lane: also four bytes or two halves.
    type V: Copy;
    /// f32, one a lane.
    type F: Copy;
    /// Lanes of a vector.
    const LANES: usize;

    /// All lanes `x`.
    unsafe fn splat(x: i32) -> Self::V;
    /// All lanes `x`.
    unsafe fn splat_f(x: f32) -> Self::F;
    /// Lane-wise sum.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise difference.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise product, its low 32 bits.
    unsafe fn times(a: Self::V, b: Self::V) -> Self::V;
    /// Bits in both.
    unsafe fn and(a: Self::V, b: Self::V) -> Self::V;
    /// Bits in either.
    unsafe fn or(a: Self::V, b: Self::V) -> Self::V;
    /// Bits in one of both.
    unsafe fn xor(a: Self::V, b: Self::V) -> Self::V;
    /// Bits of `a` where the mask has ones, of `b` elsewhere.
    unsafe fn select<const MASK: i32>(a: Self::V, b: Self::V) -> Self::V;
    /// Shift left.
    unsafe fn shl<const BITS: u32>(a: Self::V) -> Self::V;
    /// Shift right, zeros entering.
    unsafe fn shr<const BITS: u32>(a: Self::V) -> Self::V;
    /// Shift right, the sign entering.
    unsafe fn sar<const BITS: u32>(a: Self::V) -> Self::V;
    /// Each byte, below 16, replaced by that entry of the table.
    unsafe fn lookup(table: &[u8; 16], a: Self::V) -> Self::V;
    /// Each half replaced by the entry of the table that its lowest six bits name.
    unsafe fn lookup_halves(table: &HalfTable, a: Self::V) -> Self::V;
    /// The lowest four bits, one in bit 4 of each byte.
    unsafe fn spread_to_bit_4(a: Self::V) -> Self::V;
    /// `acc` + the sum of four products of an unsigned byte of `codes` and a signed byte of `x`, exact.
    /// `WIDE` says that codes may exceed 127.
    unsafe fn dot<const WIDE: bool>(acc: Self::V, codes: Self::V, x: i32) -> Self::V;
    /// `acc` + the sum of two products of signed halves, exact.
    unsafe fn dot_halves(acc: Self::V, w: Self::V, x: i32) -> Self::V;
    /// `acc` + a pair of bf16 products: odd halves first, then even ones, each a fused
    /// multiply-add that takes and gives denormals as zero (what `vdpbf16ps` does).
    unsafe fn dot_bf16(acc: Self::F, w: Self::V, x: i32) -> Self::F;
    /// Integers as f32.
    unsafe fn to_f(a: Self::V) -> Self::F;
    /// The same bits as f32.
    unsafe fn as_f(a: Self::V) -> Self::F;
    /// The low halves as f16, widened.
    unsafe fn low_half(a: Self::V) -> Self::F;
    /// The high halves as f16, widened.
    unsafe fn high_half(a: Self::V) -> Self::F;
    /// Low and high halves as f16, widened.
    #[inline(always)]
    unsafe fn halves(a: Self::V) -> (Self::F, Self::F) {
        // SAFETY: as the trait's functions.
        unsafe { (Self::low_half(a), Self::high_half(a)) }
    }
    /// The bits of f32.
    unsafe fn as_v(a: Self::F) -> Self::V;
    /// Product.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Loads [`Lanes::LANES`] integers.
    unsafe fn load(p: *const u8) -> Self::V;
    /// Stores all lanes.
    unsafe fn store(v: Self::V, p: *mut u8);
    /// Loads f32.
    unsafe fn load_f(p: *const u8) -> Self::F;
    /// Stores all lanes.
    unsafe fn store_f(v: Self::F, p: *mut u8);
    /// Loads the first `n` lanes, the others 0.
    unsafe fn load_part(p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n` lanes.
    unsafe fn store_part(v: Self::F, p: *mut f32, n: usize);
    /// The two bytes at each of the first [`Lanes::LANES`] pointers, moved by `at`, zero-extended.
    unsafe fn gather2(rows: &Rows, at: usize) -> Self::V;
    /// The four bytes at each row, moved by `at`.
    unsafe fn gather4(rows: &Rows, at: usize) -> Self::V;
    /// 16 bytes at each row, moved by `at`: vector `i` has bytes `4i..4i+4`.
    unsafe fn gather16(rows: &Rows, at: usize) -> [Self::V; 4];
    /// 32 bytes at each row, moved by `at`: vector `i` has bytes `4i..4i+4`.
    unsafe fn gather32(rows: &Rows, at: usize) -> [Self::V; 8];
    /// Asks for the cache line at `p`, which need not be readable, for the first cache level.
    unsafe fn prefetch_near(p: *const u8);
    /// Asks for the cache line at `p`, which need not be readable, for the second cache level.
    unsafe fn prefetch(p: *const u8);
}

/// 64 halves, also as bytes in sixteens for instruction sets that look up no more.
pub(super) struct HalfTable {
    /// The entries.
    pub halves: [u16; 64],
    /// Their low bytes.
    pub low: [[u8; 16]; 4],
    /// Their high bytes.
    pub high: [[u8; 16]; 4],
}

impl HalfTable {
    /// Of these entries.
    pub const fn new(halves: [u16; 64]) -> HalfTable {
        let (mut low, mut high) = ([[0; 16]; 4], [[0; 16]; 4]);
        let mut i = 0;
        while i < 64 {
            let [l, h] = halves[i].to_le_bytes();
            (low[i / 16][i % 16], high[i / 16][i % 16]) = (l, h);
            i += 1;
        }
        HalfTable { halves, low, high }
    }
}

/// The most lanes of any instruction set.
pub(super) const MAX_LANES: usize = 16;

/// Where the weight rows of one vector begin; rows beyond the matrix repeat its last one.
#[derive(Clone, Copy)]
pub(super) struct Rows(pub [*const u8; MAX_LANES]);

impl Rows {
    /// `lanes` rows from `base`, `stride` bytes apart, of which only the first `valid` exist.
    #[inline(always)]
    pub fn new(base: *const u8, stride: usize, lanes: usize, valid: usize) -> Rows {
        let mut rows = [base; MAX_LANES];
        for (i, row) in rows.iter_mut().enumerate().take(lanes) {
            *row = base.wrapping_add(i.min(valid - 1) * stride);
        }
        Rows(rows)
    }
}
