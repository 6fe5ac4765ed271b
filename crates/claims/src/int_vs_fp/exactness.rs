//! What holds to the bit: integers come back as they went, signs change nothing, and what cannot be stored is refused.

use memwall_formats::FormatError;
use memwall_formats::scaled;
use memwall_kernels::hadamard::Hadamard;
use memwall_tasks::Philox;

use super::stored::{Kind, MX_BLOCK, back};
use crate::{Error, random::normal};

const INTEGERS: [Kind; 4] = [Kind::MxInt(8), Kind::MxInt(6), Kind::MxInt(4), Kind::NvInt4];

fn values(seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 350);
    (0..256 * MX_BLOCK).map(|i| (normal(&mut rng) * (i as f64 / 500.0 - 8.0).exp2()) as f32).collect()
}

/// The largest change of a value that is stored a second time; under the tensor's scale of the first time.
pub(super) fn stored_twice(seed: u64) -> Result<f64, Error> {
    let x = values(seed);
    let mut most = 0.0f64;
    for kind in INTEGERS {
        let format = kind.format(super::stored::largest_magnitude(&x))?;
        let once = back(&*format, MX_BLOCK, &x).map_err(Error::experiment)?;
        let twice = back(&*format, MX_BLOCK, &once).map_err(Error::experiment)?;
        most = once.iter().zip(&twice).fold(most, |m, (a, b)| m.max(f64::from((a - b).abs())));
    }
    Ok(most)
}

/// The largest difference between `q(-x)` and `-q(x)`.
pub(super) fn of_negatives(seed: u64) -> Result<f64, Error> {
    let x = values(seed);
    let negative: Vec<f32> = x.iter().map(|x| -x).collect();
    let mut most = 0.0f64;
    for kind in INTEGERS {
        let format = kind.format(super::stored::largest_magnitude(&x))?;
        let [y, z] = [&x, &negative].map(|x| back(&*format, MX_BLOCK, x).map_err(Error::experiment));
        most = y?.iter().zip(&z?).fold(most, |m, (a, b)| m.max(f64::from((a + b).abs())));
    }
    Ok(most)
}

/// How many inputs that must be refused are not: rows that blocks do not divide, NaN and infinity, rotations of no power of two
/// or of no whole blocks, integers of one bit.
pub(super) fn not_refused() -> Result<f64, Error> {
    let mut accepted = 0;
    for kind in [Kind::MxInt(8), Kind::MxInt(4), Kind::MxFp8, Kind::MxFp6, Kind::MxFp4, Kind::NvInt4, Kind::NvFp4] {
        let format = kind.format(1.0)?;
        let ragged = back(&*format, MX_BLOCK + 1, &[0.5; MX_BLOCK + 1]);
        accepted += usize::from(!matches!(ragged, Err(FormatError::RaggedRow { cols: 33, .. })));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = [0.5; 2 * MX_BLOCK];
            x[MX_BLOCK + 3] = bad;
            let stored = back(&*format, MX_BLOCK, &x);
            accepted += usize::from(!matches!(stored, Err(FormatError::NotFinite { row: 1, col: 3, .. })));
        }
    }
    accepted +=
        [(96, 24), (96, 0), (96, 64)].iter().filter(|(width, block)| Hadamard::new(*width, *block, 1).is_ok()).count();
    accepted += [0, 1, 9].iter().filter(|bits| scaled::mxint(**bits).is_ok()).count();
    Ok(accepted as f64)
}
