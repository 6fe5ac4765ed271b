//! Scalar formats: one value, one code. One file a format.

/// The code of a scalar is all its bits.
macro_rules! scalar_codes {
    ($bits:ty) => {
        fn code(&self, block: &[u8], _index: usize) -> u64 {
            u64::from(bytemuck::pod_read_unaligned::<$bits>(block))
        }

        fn set_code(&self, block: &mut [u8], _index: usize, code: u64) {
            block.copy_from_slice(&(code as $bits).to_le_bytes());
        }

        fn largest_code(&self) -> u64 {
            u64::from(<$bits>::MAX)
        }
    };
}

mod bf16;
mod f16;
mod f32;
mod f64;
mod i32;

pub use bf16::BF16;
pub use f16::F16;
pub use f32::F32;
pub use f64::F64;
pub use i32::I32;

#[cfg(target_endian = "big")]
compile_error!(
    "tensors are little-endian in files and are used where they lie, so memwall needs a little-endian machine"
);
