//! Blocks are bit for bit those of ggml's reference, compiled without fused multiply-add.
//!
//! The golden files come from `golden/make.py`, which describes them; the inputs are computed here as there.

use memwall_formats::error::ErrorStatistics;
use memwall_formats::gguf::dtype_id;
use memwall_formats::{Dtype, format};

const GROUP: usize = 16384;

fn splitmix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn uniform(seed: u64, index: u64) -> f32 {
    (splitmix(seed, index) >> 40) as f32 / 8_388_608.0 - 1.0
}

fn normal(i: u64) -> f32 {
    (uniform(0, i) + uniform(1, i)) + (uniform(2, i) + uniform(3, i))
}

fn value(distribution: &str, i: u64) -> f32 {
    let pick = splitmix(9, i);
    match distribution {
        "uniform" => uniform(0, i),
        "normal" => normal(i) * 0.02,
        "outliers" => normal(i) * if pick.is_multiple_of(64) { 20.0 } else { 0.5 },
        "positive" => normal(i).abs() + 0.25,
        "sparse" if pick.is_multiple_of(8) => normal(i),
        "sparse" => {
            if pick % 16 == 1 {
                -0.0
            } else {
                0.0
            }
        }
        "tiny" => normal(i) * (-20f32).exp2(),
        "huge" => normal(i) * 8192.0,
        "wide" => uniform(0, i) * (((pick >> 8) % 40) as f32 - 30.0).exp2(),
        "steps" => {
            let run = 5 + i / 160 % 3;
            let level = (splitmix(7, i / 32) >> 60) % 4;
            let jump = ((pick >> 13) % run) as f32 - 2.0;
            (if level == 0 { 1.0 } else { jump }) * 0.125
        }
        other => panic!("encode.tsv names an unknown distribution {other}"),
    }
}

fn values(distribution: &str, group: usize) -> Vec<f32> {
    if distribution == "ramp" {
        return (0..256u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect();
    }
    (0..GROUP).map(|i| value(distribution, (group * GROUP + i) as u64)).collect()
}

fn block_bytes(dtype: Dtype, group: usize) -> Vec<u8> {
    let size = dtype.block_bytes();
    let halves: &[usize] = match dtype {
        Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4_K | Dtype::Q5_K => &[0, 2],
        Dtype::Q2_K => &[80, 82],
        Dtype::Q3_K => &[108],
        Dtype::Q6_K => &[208],
        Dtype::TQ1_0 => &[52],
        Dtype::TQ2_0 => &[64],
        Dtype::MXFP4 | Dtype::NVFP4 => &[],
        _ => &[0],
    };
    let n = GROUP / dtype.block_len() * size;
    let words = n.div_ceil(8);
    let word = |i: usize| splitmix(1000 + u64::from(dtype_id(dtype)), (group * words + i) as u64).to_le_bytes();
    let mut bytes: Vec<u8> = (0..words).flat_map(word).take(n).collect();
    for block in bytes.chunks_mut(size) {
        for h in halves {
            block[h + 1] &= 0xbf;
        }
    }
    bytes
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(14_695_981_039_346_656_037, |h, b| (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211))
}

fn encoded(dtype: Dtype, x: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).expect("whole blocks")];
    format(dtype).encode(x.len(), x, &mut bytes).expect("finite values of moderate size encode");
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn lines(tsv: &str) -> impl Iterator<Item = (Dtype, Vec<&str>)> {
    tsv.lines().map(|line| {
        let mut fields = line.split('\t');
        let name = fields.next().expect("a line has fields");
        (Dtype::from_name(name).expect("a known format"), fields.collect())
    })
}

#[test]
fn encoded_blocks_equal_the_reference() {
    let (mut blocks, mut wrong) = (0, Vec::new());
    for (dtype, fields) in lines(include_str!("golden/encode.tsv")) {
        let [distribution, group, expected] = fields[..] else { panic!("three fields") };
        let x = values(distribution, group.parse().expect("a number"));
        let bytes = encoded(dtype, &x);
        let ours = if distribution == "ramp" { hex(&bytes) } else { format!("{:016x}", fnv(&bytes)) };
        if ours != expected {
            wrong.push(format!("{dtype} {distribution} {group}"));
        }
        blocks += x.len() / dtype.block_len();
    }
    println!("{blocks} blocks compared");
    assert!(blocks > 400_000, "{blocks} blocks");
    assert!(wrong.is_empty(), "{} groups differ: {wrong:?}", wrong.len());
}

#[test]
fn decoded_blocks_equal_the_reference() {
    let mut blocks = 0;
    for (dtype, fields) in lines(include_str!("golden/decode.tsv")) {
        let [group, expected] = fields[..] else { panic!("two fields") };
        let bytes = block_bytes(dtype, group.parse().expect("a number"));
        let mut x = vec![0f32; GROUP];
        format(dtype).decode(GROUP, &bytes, &mut x).expect("any bytes decode");
        let ours = fnv(bytemuck::cast_slice(&x));
        assert_eq!(format!("{ours:016x}"), expected, "{dtype} group {group}");
        blocks += GROUP / dtype.block_len();
    }
    println!("{blocks} blocks compared");
    assert!(blocks > 50_000, "{blocks} blocks");
}

/// The published vectors of the sheet, which other implementations give too.
#[test]
fn the_first_block_of_the_ramp_is_as_published() {
    let x = values("ramp", 0);
    for (dtype, first_block) in [
        (Dtype::Q4_0, "0030e08a24ce68f1ab35df7913bd57f19a34"),
        (Dtype::Q4_1, "2d3000bce08924bd67f19b35de7913bc56e18a24"),
        (Dtype::Q5_0, "002c4a4b6b69c004488bcff3377abee2266aade11559"),
        (Dtype::Q8_0, "0820811ebd5af99835d47110af4ceb8a27c66302a13edd7a19b855f4922fce6b0aa9"),
        (
            Dtype::Q4_K,
            "33181724fffffefcfcfdfefcadfebdffc06903ad47d17b15be58f29c36c06a14ad48e28b25cf69f39d37d17a14be58e259f39c36d07a\
             04ae48e28b25cf69f39d37d17b15be58f29c26c06a04ad47e18be18b25cf69f39c36d07a14be58f29c35cf6903ad47e18b25be58f29c\
             36d07a147a14be58e28c25cf6903ad47d17b15be58f29c36c07a14ae47e18b25cf69f39d",
        ),
        (
            Dtype::Q6_K,
            "41a73fa61e960d950c74fc63fb63da52c640b930b920aa139a038df47df46de7b229c059c058ff56ff65fe95fc940b92e56ed64fd74f\
             c830a9229a129b038cf45be06bf08a058a059f24af34be39ce4830a931aa029a039b046cf56df66ec65fc640b930aa20aa139a038df4\
             7de46dd7b229c058cf58ff66fe65fe950c940b92ac0670db05acd671ab066cdb31ac067114ca6315be60c9b314ce6309be54c9635329\
             8e54f99324ce53398e24f953248eac0573d802afd572a8056fd872af05728078867c86837885747d78867b888278178c",
        ),
        (Dtype::MXFP4, "7d5e02dc45a06d23cb5691dd34b95e12dc"),
        (Dtype::NVFP4, "232222227f13ed56a9fe44dc6690fe45cc7712ee56cb7f23ed66a0ff34dd6791fe55cb77"),
    ] {
        assert_eq!(hex(&encoded(dtype, &x)[..dtype.block_bytes()]), first_block, "{dtype}");
    }
}

/// Just below a power of two the reference's logarithm rounds up to it; how many floats do depends on the power. Figures are
/// those of ggml.
#[test]
fn the_scale_of_mxfp4_rounds_its_logarithm_as_the_reference() {
    for (power, below, scale) in [
        (3, 1, 128),
        (2, 1, 126),
        (-2, 1, 123),
        (-1, 1, 123),
        (20, 11, 145),
        (20, 12, 144),
        (-20, 11, 105),
        (-20, 12, 104),
        (-100, 44, 25),
        (-100, 45, 24),
    ] {
        let amax = (0..below).fold(2f32.powi(power), |v, _| v.next_down());
        let mut x = [0f32; 32];
        x[3] = -amax;
        assert_eq!(encoded(Dtype::MXFP4, &x)[0], scale, "{below} floats below 2^{power}");
    }
}

/// The reference rounds scales of NVFP4 to the nearest, ties up, and takes the top binade for its end. Figures are those of ggml.
#[test]
fn the_scale_of_nvfp4_is_rounded_as_the_reference_rounds_it() {
    for (amax, scale, code) in [
        (1487.0, 119, 7),
        (1488.0, 126, 5),
        (1536.0, 126, 5),
        (2688.0, 126, 7),
        (0.005, 0, 0),
        (6.0 / 1024.0, 1, 5),
        (15.0 / 512.0, 3, 6),
        (45.6 / 512.0, 7, 7),
        (6.0 / 64.0, 8, 7),
        (7.125, 58, 7),
        (6.375, 57, 7),
    ] {
        let mut x = [0f32; 64];
        x[17] = amax;
        let block = encoded(Dtype::NVFP4, &x);
        assert_eq!((block[1], block[4 + 8 + 1]), (scale, code), "{amax}");
    }
}

/// The published vectors of weights that have three values, which come back exactly.
#[test]
fn ternary_weights_are_stored_as_published_and_come_back() {
    let t: Vec<f32> = (0..256u32).map(|i| 0.75 * ((i.wrapping_mul(2_654_435_761) >> 20) % 3) as f32 - 0.75).collect();
    for (dtype, block) in [
        (
            Dtype::TQ1_0,
            "45ca50437017d05d45ca174b5d0ccaa5437017d05d45ca17437016d06c45c617f15efed11c507b54d11bfb7455f15efe33be79de003a",
        ),
        (
            Dtype::TQ2_0,
            "18066818a1608681180660988110066918a160868118066018a120866118a2601a866818a12086611a626886a11a866818a16886611a66\
             6884a11a86681aa168003a",
        ),
    ] {
        let bytes = encoded(dtype, &t);
        assert_eq!(hex(&bytes), block, "{dtype}");
        let mut back = vec![0f32; 256];
        format(dtype).decode(256, &bytes, &mut back).expect("decodes");
        assert_eq!(back, t, "{dtype}");
    }
}

/// Signal-to-noise ratios of the sheet over the ramp, in dB, to the three digits published.
#[test]
fn the_noise_of_the_ramp_is_as_published() {
    let x = values("ramp", 0);
    for (dtype, published) in [
        (Dtype::Q4_0, 23.514),
        (Dtype::Q8_0, 48.139),
        (Dtype::Q4_K, 24.219),
        (Dtype::Q6_K, 36.640),
        (Dtype::MXFP4, 17.076),
        (Dtype::NVFP4, 19.492),
    ] {
        let mut y = vec![0f32; x.len()];
        format(dtype).decode(x.len(), &encoded(dtype, &x), &mut y).expect("decodes");
        let db = ErrorStatistics::of(&x, &y).sqnr_db();
        assert!((db - published).abs() < 5.01e-4, "{dtype}: {db} dB, published {published}");
    }
}

/// The table of formats in the documentation says what the code says.
#[test]
fn the_documented_table_holds() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/crates/formats.md");
    let page = std::fs::read_to_string(page).expect("the page of this crate");
    let x: Vec<f32> = (0..1 << 18).map(|i| (0..12).map(|seed| uniform(seed, i)).sum::<f32>() * 0.01).collect();
    let mut rows = 0;
    for line in page.lines().filter(|l| l.ends_with("dB |")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        for (name, figure) in cells[1].split(", ").zip(cells[5].split(", ")) {
            let dtype = Dtype::from_name(name).expect("a known format");
            assert_eq!(
                cells[2..5],
                [dtype.block_len().to_string(), dtype.block_bytes().to_string(), dtype.bits_per_value().to_string()]
            );
            let mut y = vec![0f32; x.len()];
            format(dtype).decode(x.len(), &encoded(dtype, &x), &mut y).expect("decodes");
            let db = ErrorStatistics::of(&x, &y).sqnr_db();
            let documented: f64 = figure.trim_end_matches(" dB").parse().expect("a figure");
            assert!((db - documented).abs() < 0.2, "{dtype}: {db:.2} dB, documented {documented}");
            rows += 1;
        }
    }
    assert_eq!(rows, Dtype::ALL.len() - 3);
}
