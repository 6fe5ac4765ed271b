//! What the values of a block are divided by: the rule, how it is stored, what it reaches, what it errs by.

use half::f16;

use crate::element::{E8M0, Element, Rounding, UE4M3};

/// How a power of two is chosen for a block, `max` being the element's largest value and `emax` the floor of its log2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PowerRule {
    /// `2^(floor(log2 amax) - emax)`: OCP's. Clips where `amax / 2^e` is above the element's largest value.
    Floor,
    /// `2^ceil(log2(amax / max))`: never clips; a binade coarser for about half of the blocks.
    Ceil,
    /// OCP's of amax rounded to the element's mantissa: coarser only where the largest value would round beyond its binade.
    Even,
}

/// The scale of a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// One for the whole tensor, not stored.
    Tensor(f32),
    /// A power of two, one byte (E8M0).
    Power(PowerRule),
    /// E4M3 without sign, one byte, relative to a scale of the tensor that is not stored: `UE4M3(amax / (max · tensor))`.
    UE4M3 {
        /// The scale of the tensor.
        tensor: f32,
    },
    /// Half precision, two bytes: `amax / max`, rounded.
    Half,
    /// Single precision, four bytes: `amax / max`.
    Single,
    /// Single precision, four bytes: the mean magnitude, at least 1e-5, as BitNet b1.58 has it for ternary weights.
    Mean,
    /// Half precision, two bytes: the mean magnitude, rounded, at least 1e-5.
    MeanHalf,
    /// The mean magnitude of the whole tensor, not stored.
    MeanOfTensor(f32),
    /// Single precision and a zero point, five bytes: `(max - min) / largest code` over the values and zero.
    Affine,
}

/// The power of two at or below the largest value of an element.
fn top<E: Element>(element: &E) -> f32 {
    E8M0.decode(E8M0::floor(element.max()))
}

/// The smallest mean magnitude that is a scale.
pub(crate) const LEAST_MEAN: f32 = 1e-5;

/// The mean magnitude of values, at least 1e-5.
pub(crate) fn mean_magnitude(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|v| f64::from(v.abs())).sum();
    ((sum / values.len().max(1) as f64) as f32).max(LEAST_MEAN)
}

impl Scale {
    /// Bytes in a block.
    pub fn bytes(self) -> usize {
        match self {
            Scale::Tensor(_) | Scale::MeanOfTensor(_) => 0,
            Scale::Power(_) | Scale::UE4M3 { .. } => 1,
            Scale::Half | Scale::MeanHalf => 2,
            Scale::Single | Scale::Mean => 4,
            Scale::Affine => 5,
        }
    }

    /// The scale of the tensor, if there is one.
    pub(super) fn of_tensor(self) -> Option<f32> {
        match self {
            Scale::Tensor(s) | Scale::UE4M3 { tensor: s } | Scale::MeanOfTensor(s) => Some(s),
            _ => None,
        }
    }

    /// The largest magnitude of a block.
    pub(super) fn reach<E: Element>(self, element: &E) -> f32 {
        let most = match self {
            Scale::Tensor(scale) => scale,
            // What lies above the largest value clips in every binade; the last is no exception.
            Scale::Power(PowerRule::Floor) => {
                return (2.0 * f64::from(top(element)) * f64::from(E8M0.max())).min(f64::from(f32::MAX)) as f32;
            }
            Scale::Power(_) => E8M0.max(),
            Scale::UE4M3 { tensor } => UE4M3.max() * tensor,
            Scale::Half => f16::MAX.to_f32(),
            // Larger values than the scale clip: only the mean must have a code.
            Scale::MeanHalf => return f16::MAX.to_f32(),
            Scale::Mean | Scale::MeanOfTensor(_) => return f32::MAX,
            // The distance from the smallest to the largest is finite.
            Scale::Single | Scale::Affine => return f32::MAX / 2.0,
        };
        // The scale of a tensor was rounded, and its largest value must not be out of reach for that.
        (most * element.max() * (1.0 + 4.0 * f32::EPSILON)).min(f32::MAX)
    }

    /// Chooses the scale of a block, writes it to `head` and returns what is divided by, and the zero point.
    pub(super) fn choose<E: Element>(self, element: &E, x: &[f32], amax: f32, head: &mut [u8]) -> (f32, f32) {
        let ideal = amax / element.max();
        match self {
            Scale::Tensor(_) | Scale::MeanOfTensor(_) => {}
            Scale::Mean => head.copy_from_slice(&mean_magnitude(x).to_le_bytes()),
            Scale::MeanHalf => head.copy_from_slice(&f16::from_f32_const(mean_magnitude(x)).to_le_bytes()),
            Scale::Power(rule) => head[0] = power(rule, element, amax),
            Scale::UE4M3 { tensor } => head[0] = UE4M3.encode(ideal / tensor, Rounding::HalfEven, true),
            Scale::Half => head.copy_from_slice(&f16::from_f32_const(ideal).to_le_bytes()),
            Scale::Single => head.copy_from_slice(&ideal.to_le_bytes()),
            Scale::Affine => {
                let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
                let scale = (high - low) / element.max();
                let zero = if scale > 0.0 { (-low / scale).round_ties_even().min(element.max()) } else { 0.0 };
                head[..4].copy_from_slice(&scale.to_le_bytes());
                head[4] = zero as u8;
            }
        }
        self.read(head)
    }

    /// The scale and the zero point of a stored block.
    pub(super) fn read(self, head: &[u8]) -> (f32, f32) {
        match (self, head) {
            (Scale::Tensor(scale) | Scale::MeanOfTensor(scale), _) => (scale, 0.0),
            (Scale::Power(_), &[code]) => (E8M0.decode(code), 0.0),
            (Scale::UE4M3 { tensor }, &[code]) => (UE4M3.decode(code) * tensor, 0.0),
            (Scale::Half | Scale::MeanHalf, &[a, b]) => (f16::from_le_bytes([a, b]).to_f32(), 0.0),
            (Scale::Single | Scale::Mean, &[a, b, c, d]) => (f32::from_le_bytes([a, b, c, d]), 0.0),
            (Scale::Affine, &[a, b, c, d, zero]) => (f32::from_le_bytes([a, b, c, d]), f32::from(zero)),
            _ => unreachable!("a head has `bytes()` bytes"),
        }
    }

    /// A value divided by the scale; of a mean magnitude, multiplied by its inverse, which is how BitNet rounds. A scale of
    /// zero leaves nothing to divide by: all is zero.
    #[inline]
    pub(super) fn quotient(self, value: f32, scale: f32) -> f32 {
        match self {
            Scale::Mean | Scale::MeanHalf | Scale::MeanOfTensor(_) => value * (1.0 / scale),
            _ if scale > 0.0 => value / scale,
            _ => 0.0,
        }
    }

    /// The code of a value that was divided by the scale.
    pub(super) fn code<E: Element>(self, element: &E, quotient: f32, zero: f32, rounding: Rounding) -> u8 {
        if self != Scale::Affine {
            return element.encode(quotient, rounding, true);
        }
        // The quotient is rounded, then moved: its own middle between two codes decides.
        let magnitude = f32::from(element.encode(quotient.abs(), rounding, true));
        element.encode((zero + magnitude.copysign(quotient)).max(0.0), rounding, true)
    }

    /// `a` and `b` of the bound `a · amax + b` of the error of a value in a block.
    pub(super) fn error_bound<E: Element>(self, element: &E) -> (f32, f32) {
        let (max, top) = (element.max(), top(element));
        let step = element.largest_step(max);
        // The largest value of a block is in top..2 top steps of the scale, or rounded into them.
        let clipped = |reaches: f32| 1.0 - max / reaches;
        let relative = |unit: f32| unit + (1.0 + unit) * step / (2.0 * max);
        match self {
            Scale::Tensor(scale) => (0.0, scale * step / 2.0),
            Scale::Power(rule) => {
                let relative = match rule {
                    PowerRule::Floor => clipped(2.0 * top).max(step / 2.0 / top),
                    PowerRule::Ceil => (step / 2.0 / top).max(element.largest_step(max / 2.0) / max),
                    PowerRule::Even => clipped(2.0 * top - step / 2.0).max(step / 2.0 / (top - step / 4.0)),
                };
                (relative, E8M0.decode(0) * step / 2.0)
            }
            // A subnormal scale errs by half of 2^-9 of the tensor's, times the largest element.
            Scale::UE4M3 { tensor } => (relative(1.0 / 16.0), tensor * max / 1024.0),
            Scale::Half => (relative(1.0 / 2048.0), max / (1u32 << 25) as f32),
            Scale::Single => (relative(f32::EPSILON), max * f32::from_bits(1)),
            // No value errs by more than itself, but for what the mean's rounding adds to those next to it.
            Scale::Mean => (1.0 + 4.0 * f32::EPSILON, 0.0),
            Scale::MeanHalf => (1.0 + 1.0 / 1024.0, 0.0),
            Scale::MeanOfTensor(scale) => (1.0, scale * step / 2.0),
            // Half a step, and half a step of the zero point where it clips.
            Scale::Affine => (2.0 / max * (1.0 + 4.0 * f32::EPSILON), max * f32::from_bits(1)),
        }
    }
}

/// The code of a block's power of two.
fn power<E: Element>(rule: PowerRule, element: &E, amax: f32) -> u8 {
    if amax == 0.0 {
        return 0;
    }
    let (max, top) = (element.max(), top(element));
    match rule {
        PowerRule::Ceil => E8M0::ceil(amax / max),
        // Dividing by a power of two is exact, but where the quotient is subnormal the scale is the smallest in any case.
        PowerRule::Floor => E8M0::floor(amax / top),
        PowerRule::Even => {
            let floor = E8M0::floor(amax / top);
            let rounds_up = amax / E8M0.decode(floor) + element.largest_step(max) / 2.0 >= 2.0 * top;
            floor + u8::from(rounds_up && floor < 254)
        }
    }
}
