//! The numbers by which GGUF calls element types.

use crate::Dtype;

/// An element type of ggml: one that memwall computes with, or one of which it knows the size only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgmlType {
    /// A type that memwall computes with.
    Known(Dtype),
    /// Name, values in a block, bytes of a block.
    SizeOnly(&'static str, usize, usize),
}

impl GgmlType {
    /// The type of that number, or `None` for one that was withdrawn or is from the future.
    pub const fn from_id(id: u32) -> Option<GgmlType> {
        use Dtype::*;
        use GgmlType::*;
        Some(match id {
            0 => Known(F32),
            1 => Known(F16),
            2 => Known(Q4_0),
            3 => Known(Q4_1),
            6 => Known(Q5_0),
            7 => Known(Q5_1),
            8 => Known(Q8_0),
            9 => SizeOnly("Q8_1", 32, 36),
            10 => Known(Q2_K),
            11 => Known(Q3_K),
            12 => Known(Q4_K),
            13 => Known(Q5_K),
            14 => Known(Q6_K),
            15 => SizeOnly("Q8_K", 256, 292),
            16 => SizeOnly("IQ2_XXS", 256, 66),
            17 => SizeOnly("IQ2_XS", 256, 74),
            18 => SizeOnly("IQ3_XXS", 256, 98),
            19 => SizeOnly("IQ1_S", 256, 50),
            20 => Known(IQ4_NL),
            21 => SizeOnly("IQ3_S", 256, 110),
            22 => SizeOnly("IQ2_S", 256, 82),
            23 => Known(IQ4_XS),
            24 => SizeOnly("I8", 1, 1),
            25 => SizeOnly("I16", 1, 2),
            26 => Known(I32),
            27 => SizeOnly("I64", 1, 8),
            28 => Known(F64),
            29 => SizeOnly("IQ1_M", 256, 56),
            30 => Known(BF16),
            34 => Known(TQ1_0),
            35 => Known(TQ2_0),
            39 => Known(MXFP4),
            40 => Known(NVFP4),
            41 => Known(Q1_0),
            42 => Known(Q2_0),
            FP6_ID => Known(FP6),
            _ => return None,
        })
    }

    /// The name in the field's spelling.
    pub const fn name(self) -> &'static str {
        match self {
            GgmlType::Known(dtype) => dtype.name(),
            GgmlType::SizeOnly(name, ..) => name,
        }
    }

    /// Values in a block and bytes of a block.
    pub const fn block(self) -> (usize, usize) {
        match self {
            GgmlType::Known(dtype) => (dtype.block_len(), dtype.block_bytes()),
            GgmlType::SizeOnly(_, len, bytes) => (len, bytes),
        }
    }
}

/// memwall's own number, far from those of ggml, which has no such type: other programs refuse files that hold it.
const FP6_ID: u32 = 0x6d77_0006;

/// The number of a type in GGUF.
pub const fn dtype_id(dtype: Dtype) -> u32 {
    use Dtype::*;
    match dtype {
        F32 => 0,
        F16 => 1,
        Q4_0 => 2,
        Q4_1 => 3,
        Q5_0 => 6,
        Q5_1 => 7,
        Q8_0 => 8,
        Q2_K => 10,
        Q3_K => 11,
        Q4_K => 12,
        Q5_K => 13,
        Q6_K => 14,
        IQ4_NL => 20,
        IQ4_XS => 23,
        I32 => 26,
        F64 => 28,
        BF16 => 30,
        TQ1_0 => 34,
        TQ2_0 => 35,
        MXFP4 => 39,
        NVFP4 => 40,
        Q1_0 => 41,
        Q2_0 => 42,
        FP6 => FP6_ID,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_comes_back_from_its_number() {
        for dtype in Dtype::ALL {
            assert_eq!(GgmlType::from_id(dtype_id(dtype)), Some(GgmlType::Known(dtype)));
        }
    }
}
