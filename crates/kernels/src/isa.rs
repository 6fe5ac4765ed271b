//! Which instruction set the kernels use: found at run time, forcible by `MEMWALL_ISA`.

use std::sync::OnceLock;

/// Instruction sets with kernels of their own, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: the oracle of the others.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VNNI and BF16.
    Avx512,
}

impl Isa {
    /// The name that `MEMWALL_ISA` takes: `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The strongest instruction set of this processor that has kernels.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16")
            {
                return Isa::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }
}

/// The instruction set in use: the weaker of what the processor has and what `MEMWALL_ISA` asks for.
///
/// # Panics
/// If `MEMWALL_ISA` is set to an unknown name; the command checks it first.
pub fn isa() -> Isa {
    static ISA: OnceLock<Isa> = OnceLock::new();
    *ISA.get_or_init(|| {
        let found = Isa::detect();
        match std::env::var("MEMWALL_ISA").as_deref() {
            Err(_) | Ok("") => found,
            Ok("portable") => Isa::Portable,
            Ok("avx2") => found.min(Isa::Avx2),
            Ok("avx512") => found,
            Ok(other) => panic!("MEMWALL_ISA={other}: use portable, avx2 or avx512"),
        }
    })
}
