//! Gates of a multiply-accumulate unit: integers of 8 bits beside floats of 8 bits, at the same throughput.
//!
//! ```text
//! integers   multiplier 8 × 8, adder
//! floats     multiplier (M+1) × (M+1), adder of exponents, then
//!   fixed    a shifter and an adder as wide as the range of products: 2 (M + 2^E - 1) bits and the headroom
//!   float    difference of exponents, swap, alignment shifter, adder, leading-zero counter, normalizing shifter,
//!            correction of the exponent, rounding; significand of the accumulator and guard bits wide
//! ```
//!
//! An array multiplier of n × m has n·m cells; a barrel shifter of w bits has w · ⌈log2 w⌉ multiplexers. Every constant is a
//! field of [`Gates`], in gates of two inputs. Registers are left out: both units have those of their operands and
//! their accumulator. Clock gating, pipelining and energy per toggle are left out as well: area alone is counted.
//!
//! Source of the comparison: van Baalen et al. 2023 (arXiv 2303.17951), whose own figures came from synthesis; the structure
//! is that of textbook units.

use std::fmt;

use serde::Serialize;

/// What the parts cost, in gates of two inputs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gates {
    /// A cell of an array multiplier: an AND and a full adder.
    pub multiplier_cell: f64,
    /// A bit of an adder, its share of the carries included.
    pub adder_bit: f64,
    /// A multiplexer of two inputs.
    pub multiplexer: f64,
    /// A bit of a leading-zero counter.
    pub zero_counter_bit: f64,
    /// A bit of an incrementer, which rounds.
    pub incrementer_bit: f64,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates { multiplier_cell: 5.5, adder_bit: 6.5, multiplexer: 3.0, zero_counter_bit: 4.0, incrementer_bit: 3.0 }
    }
}

/// Bits below the significand that alignment keeps: guard, round and sticky.
const GUARD_BITS: u32 = 3;
/// Gates of the XOR of two signs.
const SIGN: f64 = 3.0;

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Operand {
    /// Integers of 8 bits.
    Int8,
    /// Floats of `exponent` and `mantissa` bits and a sign.
    Float {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
    },
}

impl Operand {
    /// INT8 and every float of eight bits with an exponent of 2 to 5 bits.
    pub const ALL: [Operand; 5] = [
        Operand::Int8,
        Operand::Float { exponent: 2, mantissa: 5 },
        Operand::Float { exponent: 3, mantissa: 4 },
        Operand::Float { exponent: 4, mantissa: 3 },
        Operand::Float { exponent: 5, mantissa: 2 },
    ];

    /// Bits between the smallest and the largest product, both included.
    pub fn product_bits(self) -> u32 {
        match self {
            Operand::Int8 => 16,
            Operand::Float { exponent, mantissa } => 2 * (mantissa + (1 << exponent) - 1),
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Int8 => f.pad("INT8"),
            Operand::Float { exponent, mantissa } => f.pad(&format!("E{exponent}M{mantissa}")),
        }
    }
}

/// What products are added in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Accumulator {
    /// Fixed point over the whole range of products, and so many bits above for sums.
    Fixed {
        /// Bits above the largest product.
        headroom: u32,
    },
    /// A float of `exponent` and `mantissa` bits and a sign.
    Float {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
    },
}

impl Accumulator {
    /// Half precision.
    pub const FP16: Accumulator = Accumulator::Float { exponent: 5, mantissa: 10 };
    /// Single precision.
    pub const FP32: Accumulator = Accumulator::Float { exponent: 8, mantissa: 23 };
    /// Fixed point with as many bits above a product as INT8 has in 32 bits.
    pub const FIXED: Accumulator = Accumulator::Fixed { headroom: 16 };
}

impl fmt::Display for Accumulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Accumulator::FP16 => f.pad("FP16"),
            Accumulator::FP32 => f.pad("FP32"),
            Accumulator::Fixed { .. } => f.pad("fixed"),
            Accumulator::Float { exponent, mantissa } => f.pad(&format!("E{exponent}M{mantissa}")),
        }
    }
}

/// One part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Part {
    /// What it does.
    pub name: &'static str,
    /// Bits that it is wide.
    pub bits: u32,
    /// Its gates.
    pub gates: f64,
}

/// A multiply-accumulate unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mac {
    /// What it multiplies.
    pub operand: Operand,
    /// What it adds in.
    pub accumulator: Accumulator,
    /// Its parts.
    pub parts: Vec<Part>,
}

/// Why there is no such unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Integers would have to become floats first.
    #[error("INT8 is added in fixed point; a float accumulator is for float operands")]
    IntegersInFloats,
    /// A cost that is no cost.
    #[error("{name} is {value}; the gates of a part are positive and finite")]
    Cost {
        /// The field of [`Gates`].
        name: &'static str,
        /// Its value, as text.
        value: String,
    },
    /// A float that is none of eight bits.
    #[error("E{exponent}M{mantissa}: 1 to 6 bits of exponent and at least 1 of mantissa are needed, and 7 in all")]
    Operand {
        /// Bits of the exponent.
        exponent: u32,
        /// Bits of the mantissa.
        mantissa: u32,
    },
    /// An accumulator that nothing fits in.
    #[error("an accumulator of {bits} bits; 1 to 128 are possible")]
    Accumulator {
        /// Its bits.
        bits: u32,
    },
}

impl Gates {
    fn check(&self) -> Result<(), MacError> {
        let costs = [
            ("multiplier_cell", self.multiplier_cell),
            ("adder_bit", self.adder_bit),
            ("multiplexer", self.multiplexer),
            ("zero_counter_bit", self.zero_counter_bit),
            ("incrementer_bit", self.incrementer_bit),
        ];
        match costs.into_iter().find(|(_, cost)| !(cost.is_finite() && *cost > 0.0)) {
            None => Ok(()),
            Some((name, value)) => Err(MacError::Cost { name, value: value.to_string() }),
        }
    }

    fn multiplier(&self, bits: u32) -> Part {
        Part { name: "multiplier", bits, gates: f64::from(bits * bits) * self.multiplier_cell }
    }

    fn adder(&self, name: &'static str, bits: u32) -> Part {
        Part { name, bits, gates: f64::from(bits) * self.adder_bit }
    }

    fn shifter(&self, name: &'static str, bits: u32) -> Part {
        let stages = bits.next_power_of_two().trailing_zeros();
        Part { name, bits, gates: f64::from(bits * stages) * self.multiplexer }
    }

    /// The unit that multiplies `operand`s and adds in `accumulator`.
    ///
    /// # Errors
    /// Costs that are not positive, a float that has not eight bits, INT8 in a float accumulator, an accumulator without bits.
    pub fn mac(&self, operand: Operand, accumulator: Accumulator) -> Result<Mac, MacError> {
        self.check()?;
        let mut parts = Vec::new();
        match operand {
            Operand::Int8 => parts.push(self.multiplier(8)),
            Operand::Float { exponent, mantissa } => {
                if !(1..=6).contains(&exponent) || exponent + mantissa != 7 {
                    return Err(MacError::Operand { exponent, mantissa });
                }
                parts.push(self.multiplier(mantissa + 1));
                parts.push(self.adder("exponents", exponent + 1));
                parts.push(Part { name: "sign", bits: 1, gates: SIGN });
            }
        }
        match (operand, accumulator) {
            (Operand::Int8, Accumulator::Float { .. }) => return Err(MacError::IntegersInFloats),
            (_, Accumulator::Fixed { headroom }) => {
                let bits = operand.product_bits().saturating_add(headroom);
                in_range(bits)?;
                if operand != Operand::Int8 {
                    parts.push(self.shifter("alignment", bits));
                }
                parts.push(self.adder("accumulator", bits));
            }
            (_, Accumulator::Float { exponent, mantissa }) => {
                in_range(exponent)?;
                in_range(mantissa)?;
                let (significand, bits) = (mantissa + 1, mantissa + 1 + GUARD_BITS);
                parts.push(self.adder("difference of exponents", exponent + 1));
                // Either operand may be the one that is shifted.
                parts.push(Part { name: "swap", bits, gates: 2.0 * f64::from(bits) * self.multiplexer });
                parts.push(self.shifter("alignment", bits));
                parts.push(self.adder("accumulator", bits));
                parts.push(Part { name: "leading zeros", bits, gates: f64::from(bits) * self.zero_counter_bit });
                parts.push(self.shifter("normalization", bits));
                parts.push(self.adder("correction of the exponent", exponent + 1));
                parts.push(Part {
                    name: "rounding",
                    bits: significand,
                    gates: f64::from(significand) * self.incrementer_bit,
                });
            }
        }
        Ok(Mac { operand, accumulator, parts })
    }
}

fn in_range(bits: u32) -> Result<(), MacError> {
    if (1..=128).contains(&bits) { Ok(()) } else { Err(MacError::Accumulator { bits }) }
}

impl Mac {
    /// Gates of all parts.
    pub fn gates(&self) -> f64 {
        self.parts.iter().map(|part| part.gates).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E4M3: Operand = Operand::Float { exponent: 4, mantissa: 3 };

    fn gates(operand: Operand, accumulator: Accumulator) -> f64 {
        Gates::default().mac(operand, accumulator).unwrap().gates()
    }

    #[test]
    fn int8_is_a_multiplier_and_an_adder_of_32_bits() {
        let mac = Gates::default().mac(Operand::Int8, Accumulator::FIXED).unwrap();
        assert_eq!(mac.parts.iter().map(|p| p.bits).collect::<Vec<_>>(), [8, 32]);
        assert_eq!(mac.gates(), 64.0 * 5.5 + 32.0 * 6.5);
    }

    #[test]
    fn floats_cost_more_the_wider_their_accumulator() {
        let int8 = gates(Operand::Int8, Accumulator::FIXED);
        let mut last = int8;
        for mantissa in 6..30 {
            let this = gates(E4M3, Accumulator::Float { exponent: 8, mantissa });
            assert!(this > last, "{mantissa} bits");
            last = this;
        }
        let (half, single) = (gates(E4M3, Accumulator::FP16) / int8, gates(E4M3, Accumulator::FP32) / int8);
        assert!((1.4..1.6).contains(&half) && (2.6..3.0).contains(&single), "{half} {single}");
    }

    #[test]
    fn products_of_many_exponent_bits_span_more_than_an_adder_should() {
        assert_eq!(Operand::ALL.map(Operand::product_bits), [16, 16, 22, 36, 66]);
        assert!(gates(Operand::ALL[4], Accumulator::FIXED) > 3.0 * gates(Operand::Int8, Accumulator::FIXED));
    }

    #[test]
    fn every_constant_moves_the_count_and_bad_ones_are_refused() {
        let plain = gates(E4M3, Accumulator::FP16);
        for (i, more) in [1.0; 5].into_iter().enumerate() {
            let mut g = Gates::default();
            let fields = [
                &mut g.multiplier_cell,
                &mut g.adder_bit,
                &mut g.multiplexer,
                &mut g.zero_counter_bit,
                &mut g.incrementer_bit,
            ];
            *fields.into_iter().nth(i).unwrap() += more;
            assert!(g.mac(E4M3, Accumulator::FP16).unwrap().gates() > plain);
        }
        let refused = |g: Gates, o, a| g.mac(o, a).unwrap_err().to_string();
        let g = Gates::default();
        assert!(refused(Gates { adder_bit: f64::NAN, ..g }, E4M3, Accumulator::FP16).contains("adder_bit is NaN"));
        assert!(refused(Gates { multiplexer: 0.0, ..g }, E4M3, Accumulator::FP16).contains("multiplexer is 0"));
        assert!(refused(g, Operand::Float { exponent: 4, mantissa: 4 }, Accumulator::FP16).contains("E4M4"));
        assert_eq!(g.mac(Operand::Int8, Accumulator::FP16), Err(MacError::IntegersInFloats));
        assert!(g.mac(E4M3, Accumulator::Fixed { headroom: 1000 }).is_err());
    }
}
