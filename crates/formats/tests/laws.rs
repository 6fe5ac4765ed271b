//! Every format keeps the laws, and every law catches a format that breaks it.

use memwall_formats::laws::{self, Law};
use memwall_formats::{Dtype, Format, FormatError, Layout, format};

#[test]
fn every_format_keeps_the_laws() {
    for dtype in Dtype::ALL {
        let tally = laws::check(format(dtype)).unwrap_or_else(|broken| panic!("{dtype}: {broken}"));
        println!("{dtype}: {tally:?}");
        assert!(tally.codes > 0 && tally.refusals > 0, "{dtype}: {tally:?}");
    }
}

/// A format with one fault.
struct Faulty {
    sound: &'static dyn Format,
    fault: Fault,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    TruncatesToBf16,
    FlushesTheSignOfZero,
    MakesNanInfinite,
    AcceptsAnyLength,
    AcceptsRaggedRows,
    SwapsNibblesOnDecode,
    CodesShareABit,
    DecodesTwoCodesAlike,
    TruncatesCodes,
    ScaleTooSmall,
    AcceptsNan,
    NamesTheWrongColumn,
    ZerosBecomeSmall,
    CarriesStateAcrossRows,
    CannotHoldOdd,
    BoundTooTight,
}

impl Format for Faulty {
    fn layout(&self) -> Layout {
        self.sound.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let mut x = values.to_vec();
        match self.fault {
            Fault::TruncatesToBf16 => x.iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits() & 0xffff_0000)),
            Fault::FlushesTheSignOfZero => x.iter_mut().for_each(|v| *v = if *v == 0.0 { 0.0 } else { *v }),
            Fault::MakesNanInfinite => x.iter_mut().for_each(|v| *v = if v.is_nan() { f32::INFINITY } else { *v }),
            Fault::AcceptsNan => x.iter_mut().for_each(|v| *v = if v.is_nan() { 0.0 } else { *v }),
            Fault::ScaleTooSmall => x.iter_mut().for_each(|v| *v *= 0.9),
            Fault::AcceptsRaggedRows if self.layout().row_bytes(values.len()).is_some() => {
                return self.sound.encode(values.len(), values, bytes);
            }
            Fault::AcceptsAnyLength => return self.sound.encode(cols, values, bytes).or(Ok(())),
            Fault::CannotHoldOdd if !values.is_empty() && values.iter().all(|v| v % 2.0 == 1.0) => {
                x.iter_mut().for_each(|v| *v -= 1.0);
            }
            Fault::CarriesStateAcrossRows if values.len() > 2 * cols => x[cols] = 0.1,
            _ => {}
        }
        let result = self.sound.encode(cols, &x, bytes);
        if let (Fault::TruncatesCodes, Ok(())) = (self.fault, &result) {
            let (len, size) = (self.layout().block_len, self.layout().block_bytes);
            for block in bytes.chunks_exact_mut(size) {
                for i in 0..len {
                    let code = self.sound.code(block, i);
                    self.sound.set_code(block, i, code & !3);
                }
            }
        }
        match (self.fault, result) {
            (Fault::NamesTheWrongColumn, Err(FormatError::NotFinite { format, row, col, value })) => {
                Err(FormatError::NotFinite { format, row, col: col + 1, value })
            }
            (_, result) => result,
        }
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        let result = match self.fault {
            Fault::AcceptsAnyLength => return self.sound.decode(cols, bytes, values).or(Ok(())),
            Fault::AcceptsRaggedRows if self.layout().row_bytes(values.len()).is_some() => {
                self.sound.decode(values.len(), bytes, values)
            }
            _ => self.sound.decode(cols, bytes, values),
        };
        match self.fault {
            Fault::SwapsNibblesOnDecode => values.chunks_mut(32).filter(|c| c.len() == 32).for_each(|c| c.swap(3, 19)),
            Fault::ZerosBecomeSmall => values.iter_mut().for_each(|v| *v = if *v == 0.0 { 1e-30 } else { *v }),
            Fault::DecodesTwoCodesAlike => {
                let alike = |block: &[u8], i| self.sound.code(block, i) == 1;
                let (len, size) = (self.layout().block_len, self.layout().block_bytes);
                for (block, y) in bytes.chunks_exact(size).zip(values.chunks_mut(len)) {
                    let mut other = block.to_vec();
                    for i in (0..y.len()).filter(|&i| alike(block, i)) {
                        self.sound.set_code(&mut other, i, 2);
                        let mut z = vec![0f32; len];
                        self.sound.decode(len, &other, &mut z)?;
                        y[i] = z[i];
                    }
                }
            }
            _ => {}
        }
        result
    }

    fn code(&self, block: &[u8], index: usize) -> u64 {
        self.sound.code(block, index)
    }

    fn set_code(&self, block: &mut [u8], index: usize, code: u64) {
        self.sound.set_code(block, index, code);
        if let (Fault::CodesShareABit, true) = (self.fault, index + 1 < self.layout().block_len) {
            let next = self.sound.code(block, index + 1);
            self.sound.set_code(block, index + 1, next & !1 | code & 1);
        }
    }

    fn largest_code(&self) -> u64 {
        self.sound.largest_code()
    }

    fn error_bound(&self, amax: f32) -> f32 {
        match self.fault {
            Fault::BoundTooTight => self.sound.error_bound(amax) * 0.5,
            _ => self.sound.error_bound(amax),
        }
    }
}

#[test]
fn every_law_catches_a_format_that_breaks_it() {
    use Dtype::*;
    let cases: [(Dtype, Fault, Law); 21] = [
        (BF16, Fault::TruncatesToBf16, laws::every_midpoint_rounds_to_even),
        (BF16, Fault::FlushesTheSignOfZero, laws::special_values_are_kept),
        (F16, Fault::MakesNanInfinite, laws::special_values_are_kept),
        (F16, Fault::MakesNanInfinite, laws::every_code_comes_back),
        (F16, Fault::FlushesTheSignOfZero, laws::every_code_comes_back),
        (F16, Fault::TruncatesToBf16, laws::scalars_come_back),
        (F32, Fault::TruncatesToBf16, laws::scalars_come_back),
        (I32, Fault::CannotHoldOdd, laws::scalars_come_back),
        (F16, Fault::AcceptsAnyLength, laws::sizes_are_exact),
        (Q8_0, Fault::AcceptsAnyLength, laws::sizes_are_exact),
        (Q4_0, Fault::AcceptsRaggedRows, laws::sizes_are_exact),
        (Q4_0, Fault::CodesShareABit, laws::codes_are_independent),
        (Q4_K, Fault::CodesShareABit, laws::codes_are_independent),
        (Q4_K, Fault::SwapsNibblesOnDecode, laws::codes_are_independent),
        (Q3_K, Fault::DecodesTwoCodesAlike, laws::codes_decode_to_distinct_values),
        (Q6_K, Fault::TruncatesCodes, laws::each_value_is_the_nearest_under_its_scale),
        (Q8_0, Fault::ScaleTooSmall, laws::errors_stay_within_the_bound),
        (Q4_0, Fault::BoundTooTight, laws::errors_stay_within_the_bound),
        (Q5_K, Fault::AcceptsNan, laws::blocks_refuse_what_they_cannot_hold),
        (Q5_1, Fault::ZerosBecomeSmall, laws::zeros_stay_zeros),
        (Q4_1, Fault::CarriesStateAcrossRows, laws::rows_are_independent),
    ];
    for (dtype, fault, law) in cases {
        law(format(dtype)).unwrap_or_else(|b| panic!("the sound {dtype} breaks a law: {b}"));
        let broken = law(&Faulty { sound: format(dtype), fault }).err();
        assert!(broken.is_some(), "{dtype} with {fault:?} passes");
        assert_eq!(laws::check(&Faulty { sound: format(dtype), fault }).is_err(), broken.is_some());
    }
    let misnamed = Faulty { sound: format(Q4_1), fault: Fault::NamesTheWrongColumn };
    assert!(laws::blocks_refuse_what_they_cannot_hold(&misnamed).is_err());
}
