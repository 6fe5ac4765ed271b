//! Elements equal `ml_dtypes` where it has them, and the definition by search where it has not.
//!
//! `golden/elements.tsv` comes from `golden/make_elements.py`, which describes it; the inputs are computed here as there.

use memwall_formats::element::{
    E2M1, E2M2, E2M3, E3M0, E3M2, E3M4, E4M3, E4M3_FN, E4M3_FNUZ, E5M2, E5M2_FNUZ, E8M0, Element, Float, Integer,
    Range, Rounding, UE4M3,
};

const FLOATS: [Float; 12] = [E5M2, E4M3_FN, E4M3, E3M4, E4M3_FNUZ, E5M2_FNUZ, E3M2, E2M3, E2M2, E2M1, E3M0, UE4M3];

fn integers() -> impl Iterator<Item = Integer> {
    let ranges = [Range::Symmetric, Range::Full, Range::Unsigned];
    let plain = (2..=8).flat_map(move |bits| ranges.map(|range| Integer::new(bits, range)));
    plain.chain((2..=8).map(Integer::mx))
}

fn papers() -> impl Iterator<Item = Float> {
    (1..=6).map(|mantissa| Float::paper(7 - mantissa, mantissa))
}

fn codes(element: &impl Element) -> std::ops::RangeInclusive<u8> {
    0..=0xffu8 >> (8 - element.bits())
}

/// Finite values and codes in ascending order, one of equal values (the +0).
fn finite(element: &impl Element) -> Vec<(f32, u8)> {
    let mut all: Vec<(f32, u8)> =
        codes(element).map(|c| (element.decode(c), c)).filter(|(v, _)| v.is_finite()).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.retain(|(v, _)| *v != 0.0 || v.is_sign_positive());
    all
}

fn edges(element: &impl Element) -> Vec<f32> {
    let values: Vec<f32> = finite(element).iter().map(|(v, _)| *v).collect();
    let mut points = Vec::new();
    for w in values.windows(2) {
        let middle = ((f64::from(w[0]) + f64::from(w[1])) / 2.0) as f32;
        points.extend([w[0], w[0].next_up(), middle.next_down(), middle, middle.next_up(), w[1].next_down()]);
    }
    let [.., below, top] = values[..] else { panic!("several values") };
    let beyond = (f64::from(top) + (f64::from(top) - f64::from(below)) / 2.0) as f32;
    let ends = [top, top.next_up(), beyond.next_down(), beyond, beyond.next_up(), 2.0 * top];
    points.extend(ends);
    points.extend(ends.map(|v| -v));
    let special = [
        0u32,
        0x8000_0000,
        1,
        0x8000_0001,
        0x7f_ffff,
        0x807f_ffff,
        0x80_0000,
        0x8080_0000,
        0x7f7f_ffff,
        0xff7f_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0xffc0_0000,
    ];
    points.extend(special.map(f32::from_bits));
    points
}

fn patterns() -> impl Iterator<Item = f32> {
    (0..=u16::MAX).flat_map(|high| [0, 1, 0x8000, 0xffff].map(|low| f32::from_bits(u32::from(high) << 16 | low)))
}

fn compare(element: &impl Element, table: &str, codes_of_edges: &str, hash: &str) -> usize {
    let name = element.name();
    let bits = |code: u8| {
        let v = element.decode(code);
        if v.is_nan() { 0x7fc0_0000 } else { v.to_bits() }
    };
    let ours: String = codes(element).map(|c| format!("{:08x}", bits(c))).collect();
    assert_eq!(ours, table, "{name}: values");
    // Of subnormal floats ml_dtypes does not give the nearest power of two.
    let kept = |x: &f32| name != E8M0.name() || !x.is_subnormal();
    let points: Vec<f32> = edges(element).into_iter().filter(kept).collect();
    assert_eq!(points.len() * 2, codes_of_edges.len(), "{name}: points");
    for (i, x) in points.iter().enumerate() {
        let ours = format!("{:02x}", element.encode(*x, Rounding::HalfEven, false));
        assert_eq!(ours, codes_of_edges[2 * i..2 * i + 2], "{name} of {x} ({:#010x})", x.to_bits());
    }
    let fnv = patterns().filter(kept).fold(14_695_981_039_346_656_037u64, |h, x| {
        (h ^ u64::from(element.encode(x, Rounding::HalfEven, false))).wrapping_mul(1_099_511_628_211)
    });
    assert_eq!(format!("{fnv:016x}"), hash, "{name}: codes of every upper half");
    codes(element).count() + points.len() + (1 << 18)
}

#[test]
fn every_code_and_every_edge_equal_ml_dtypes() {
    let mut compared = 0;
    for line in include_str!("golden/elements.tsv").lines() {
        let [name, table, edges, hash] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("four fields") };
        compared += match FLOATS.iter().find(|f| f.name() == name) {
            Some(float) => compare(float, table, edges, hash),
            None if name == E8M0.name() => compare(&E8M0, table, edges, hash),
            None => panic!("elements.tsv names an unknown element {name}"),
        };
    }
    println!("{compared} values and codes compared");
    assert!(compared > 2_600_000, "{compared}");
}

/// Values of the sheets, for what `ml_dtypes` lacks.
#[test]
fn published_values_are_the_values() {
    let values = |element: &dyn Fn(u8) -> f32, n: u8| (0..n).map(element).collect::<Vec<f32>>();
    assert_eq!(values(&|c| E3M0.decode(c), 8), [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]);
    assert_eq!(values(&|c| E2M1.decode(c), 8), [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
    assert_eq!(E2M2.decode(0x0f), 7.0);
    assert_eq!((E2M2.decode(1), E2M2.decode(4), E2M2.decode(0x1f)), (0.25, 1.0, -7.0));
    for code in 0..0x7f {
        assert_eq!(UE4M3.decode(code), E4M3_FN.decode(code));
        assert_eq!(UE4M3.decode(code | 0x80), E4M3_FN.decode(code), "the sign bit is unused");
    }
    assert_eq!(UE4M3.encode(-1.0, Rounding::HalfEven, true), 0);
    assert_eq!(Integer::mx(8).max(), 127.0 / 64.0);
    assert_eq!((Integer::mx(4).max(), Integer::mx(2).max()), (7.0 / 4.0, 1.0));
    assert_eq!(Integer::new(4, Range::Symmetric).limits(), (-7, 7));
    assert_eq!(Integer::new(8, Range::Full).limits(), (-128, 127));
    assert_eq!(Integer::new(8, Range::Unsigned).limits(), (0, 255));
}

/// All codes are numbers on the paper's grid: 2^8 - 1 values, and for a largest of 480 every finite E4M3 is among them.
#[test]
fn the_papers_grid_has_every_code_a_number() {
    for float in papers() {
        assert_eq!(finite(&float).len(), 255, "{}", float.name());
    }
    let paper = Float::paper(4, 3);
    // The bias is 8 there: its largest is 240, and twice that with the scale of 2.
    let grid: Vec<f32> = finite(&paper).iter().map(|(v, _)| v * (480.0 / paper.max())).collect();
    assert_eq!(grid.last(), Some(&480.0));
    assert!(finite(&E4M3_FN).iter().all(|(v, _)| grid.contains(v)));
    assert!(!finite(&E4M3_FN).iter().any(|(v, _)| *v == 480.0));
}

fn hold_to_the_definition(element: &impl Element) -> usize {
    let name = element.name();
    let mut table = finite(element);
    // Symmetric integers decode one negative number that they do not encode.
    let least = element.decode(element.encode(f32::MIN, Rounding::HalfEven, true));
    table.retain(|(v, _)| *v >= least);
    let (low, high) = (table[0], table[table.len() - 1]);
    assert_eq!((low.0, high.0), (least, element.max()), "{name}: ends");
    let mut compared = 0;
    for &(v, code) in &table {
        for rounding in [Rounding::HalfEven, Rounding::HalfAway, Rounding::Stochastic { seed: 1, position: 2 }] {
            for saturate in [false, true] {
                assert_eq!(element.encode(v, rounding, saturate), code, "{name}: {v}");
                compared += 1;
            }
        }
    }
    for x in edges(element).into_iter().chain(patterns().step_by(7)).filter(|x| x.is_finite()) {
        if x < low.0 || x > high.0 {
            let y = element.decode(element.encode(x, Rounding::HalfAway, true));
            assert_eq!(y, if x > high.0 { high.0 } else { low.0 }, "{name}: {x} beyond the largest");
            continue;
        }
        let above = table.partition_point(|(v, _)| *v < x).min(table.len() - 1);
        let (b, a) = (table[above], table[above.saturating_sub(1)]);
        let (down, up) = (f64::from(x) - f64::from(a.0), f64::from(b.0) - f64::from(x));
        let away = if x < 0.0 { a } else { b };
        let nearest = if down < up {
            a
        } else if up < down {
            b
        } else {
            away
        };
        let code = element.encode(x, Rounding::HalfAway, true);
        assert_eq!(element.decode(code), nearest.0, "{name}: {x} half away");
        let even = element.encode(x, Rounding::HalfEven, true);
        let tie = down == up && a.1 != b.1;
        let expected = if !tie {
            nearest
        } else if a.1 % 2 == 0 {
            a
        } else {
            b
        };
        assert_eq!(element.decode(even), expected.0, "{name}: {x} half even");
        let random = element.decode(element.encode(x, Rounding::Stochastic { seed: 3, position: 4 }, true));
        assert!(random == a.0 || random == b.0, "{name}: {x} became {random}");
        compared += 3;
    }
    compared
}

#[test]
fn every_rounding_gives_the_neighbour_that_it_says() {
    let mut compared = 0;
    for float in FLOATS.into_iter().filter(|f| f.signed).chain(papers()) {
        compared += hold_to_the_definition(&float);
    }
    for integer in integers() {
        compared += hold_to_the_definition(&integer);
    }
    println!("{compared} roundings compared");
    assert!(compared > 1_000_000, "{compared}");
}

#[test]
fn stochastic_rounding_has_the_value_as_expectation_and_repeats_itself() {
    let n = 200_000;
    for (x, sigma) in [(2.25f32, 0.5), (-2.9, 0.3), (0.1, 0.4), (5.5, 0.87)] {
        let draw = |seed, position| E2M1.decode(E2M1.encode(x, Rounding::Stochastic { seed, position }, true));
        let mean: f64 = (0..n).map(|i| f64::from(draw(7, i))).sum::<f64>() / n as f64;
        assert!((mean - f64::from(x)).abs() < 5.0 * sigma / (n as f64).sqrt(), "{x}: {mean}");
        assert!((0..100).all(|i| draw(7, i) == draw(7, i)));
        assert!((0..100).any(|i| draw(7, i) != draw(8, i)), "{x}: the seed changes nothing");
    }
}

#[test]
fn nan_stays_nan_where_there_is_one_and_saturation_is_finite() {
    for float in FLOATS {
        let has_nan = codes(&float).any(|c| float.decode(c).is_nan());
        assert_eq!(
            float.decode(float.encode(f32::NAN, Rounding::HalfEven, true)).is_nan(),
            has_nan,
            "{}",
            float.name()
        );
        for x in [f32::INFINITY, f32::MAX, 1e30] {
            assert_eq!(float.decode(float.encode(x, Rounding::HalfEven, true)), float.max(), "{}", float.name());
        }
    }
}

#[test]
fn powers_of_two_are_floored_and_raised_as_their_logarithm() {
    for bits in (1..0x7f80_0000u32).step_by(4099) {
        let x = f64::from(f32::from_bits(bits));
        let value = |code: u8| f64::from(E8M0.decode(code));
        let (floor, ceil) = (E8M0::floor(x as f32), E8M0::ceil(x as f32));
        assert!(value(floor) <= x || floor == 0, "{x}");
        assert!(2.0 * value(floor) > x, "{x}");
        assert!(value(ceil) >= x || ceil == 254, "{x}");
        assert!(value(ceil) / 2.0 < x || ceil == 0, "{x}");
    }
}
