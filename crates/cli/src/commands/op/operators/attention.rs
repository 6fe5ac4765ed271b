//! Softmax attention: within sequences or to others, and over a cache.

use std::sync::Arc;

use anyhow::bail;
use memwall_formats::Dtype;
use memwall_graph::Value;
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::cache_write::CacheWrite;
use memwall_graph::ops::cached_attention::CachedAttention;
use memwall_graph::ops::reshape;
use memwall_kernels::attention::{Attention as Kernel, BlockMask, CacheView};

use super::encoded::format_named;
use super::sequences::{longest, offsets, slots};
use crate::commands::op::Precision;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, IN_PLACE, Made, Operator, integer, made, mask, real};
use crate::commands::op::tensors::Elements;

pub const ATTENTION: Operator = Operator {
    name: "attention",
    about: "o = softmax(mask(c·tanh(τ q·kᵀ / c) − slope·|i − j|)) v, exact, tile by tile (FlashAttention, arXiv 2205.14135); \
            recurrent: token by token over a cache, causal",
    inputs: &[
        real("q", "B T H K", "queries"),
        real("k", "B M G K", "keys; query head h reads head h·G/H"),
        real("v", "B M G V", "values"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
        integer("cu_seqlens_k", "S+1", "the same of the keys; that of the queries if absent and M is T").optional(),
        real("alibi_slopes", "H", "slope·distance is taken off each score").optional(),
        mask("block_mask", "R C", "blocks of queries × keys that are computed, the same for all sequences and heads")
            .optional(),
    ],
    weights: None,
    outputs: &[
        real("o", "B T H V", "outputs; 0 where no key is seen"),
        real("lse", "H N", "log-sum-exp of the scores, N = B·T; −∞ where no key is seen"),
    ],
    attributes: &[
        "causal",
        "window-left",
        "window-right",
        "scale",
        "softcap",
        "dropout",
        "seed",
        "block-rows",
        "block-cols",
        "cache",
    ],
    forms: &[Form::Parallel, Form::Recurrent],
    how: How::Graph(attention),
};

pub const CACHED_ATTENTION: Operator = Operator {
    name: "cached_attention",
    about: "attention of rows over a cache that holds their own keys: row i sees positions up to its own; f32",
    inputs: &[
        real("q", "N H K", "queries"),
        real("keys", "S C G K", "keys of slot and position"),
        real("values", "S C G V", "values of slot and position"),
        integer("rows", "N 2", "slot and position of each row"),
        real("alibi_slopes", "H", "slope·distance is taken off each score").optional(),
    ],
    weights: None,
    outputs: &[real("o", "N H V", "outputs"), real("lse", "H N", "log-sum-exp of the scores")],
    attributes: &["cache", "window-left", "scale", "softcap"],
    forms: &[],
    how: How::Step(cached_attention, IN_PLACE),
};

pub const CACHE_WRITE: Operator = Operator {
    name: "cache_write",
    about: "writes rows into a cache, each at its slot and its position modulo C; f32",
    inputs: &[
        real("cache", "S C W", "the cache"),
        real("x", "N W", "the rows"),
        integer("rows", "N 2", "slot and position of each row"),
    ],
    weights: None,
    outputs: &[real("cache", "S C W", "the cache after, decoded")],
    attributes: &["cache"],
    forms: &[],
    how: How::Step(cache_write, IN_PLACE),
};

fn kernel(b: &Builder<'_>) -> anyhow::Result<Kernel> {
    let a = b.attributes;
    let key_width = b.size('K');
    let kernel = Kernel {
        heads: b.size('H'),
        kv_heads: b.size('G'),
        key_width,
        value_width: b.size('V'),
        scale: a.number("scale").unwrap_or((key_width as f64).powf(-0.5)),
        causal: a.switch("causal"),
        window: (a.count("window-left"), a.count("window-right")),
        softcap: a.number("softcap"),
        alibi: b.given("alibi_slopes").is_some(),
        dropout: a.number("dropout").unwrap_or(0.0),
        seed: a.count("seed").unwrap_or(0),
        compute: b.g.compute(),
        ..Kernel::default()
    };
    kernel.check_self()?;
    Ok(kernel)
}

fn attention(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b)?;
    let (rows, tokens, keys) = (b.size('B'), b.size('T'), b.size('M'));
    let of_q = offsets(b, "cu_seqlens", rows, tokens)?;
    let own = keys == tokens && b.given("cu_seqlens_k").is_none();
    let of_k = if own {
        of_q.clone()
    } else if b.given("cu_seqlens").is_some() && b.given("cu_seqlens_k").is_none() {
        bail!("cu_seqlens_k is missing: there are {tokens} queries and {keys} keys");
    } else {
        offsets(b, "cu_seqlens_k", rows, keys)?
    };
    let (n, m) = (rows * tokens, rows * keys);
    let q = b.reshaped("q", &[n, kernel.heads, kernel.key_width])?;
    let k = b.reshaped("k", &[m, kernel.kv_heads, kernel.key_width])?;
    let v = b.reshaped("v", &[m, kernel.kv_heads, kernel.value_width])?;
    let recurrent = b.form == Some(Form::Recurrent);
    if b.attributes.text("cache").is_some() && !recurrent {
        bail!("--cache belongs to --form recurrent: the parallel form has no cache");
    }
    let (o, lse) = if recurrent {
        if !own {
            bail!("--form recurrent: keys are those of the queries' own tokens, so M must be T");
        }
        over_a_cache(b, kernel, [q, k, v], &of_q)?
    } else {
        let mut op = Attention::new(kernel);
        let mut inputs = vec![q, k, v, b.feed_integers("cu_seqlens", &[of_q.len()], &of_q)?];
        if !own {
            op = op.cross();
            inputs.push(b.feed_integers("cu_seqlens_k", &[of_k.len()], &of_k)?);
        }
        if kernel.alibi {
            inputs.push(b.constant("alibi_slopes", &[kernel.heads])?);
        }
        if let Some(mask) = block_mask(b, longest(&of_q), longest(&of_k))? {
            op = op.masked(mask);
        }
        let made = b.g.push(op, &inputs)?;
        (made[0], made[1])
    };
    let o = reshape(&mut b.g, o, fixed(&[rows, tokens, kernel.heads, kernel.value_width])?)?;
    Ok(vec![made("o", o), made("lse", lse)])
}

fn block_mask(b: &Builder<'_>, queries: usize, keys: usize) -> anyhow::Result<Option<Arc<BlockMask>>> {
    let Some(tensor) = b.given("block_mask") else {
        return match ["block-rows", "block-cols"].into_iter().find(|name| b.attributes.switch(name)) {
            Some(name) => bail!("--{name} belongs to a block_mask, but the input has none"),
            None => Ok(None),
        };
    };
    let visible: Vec<bool> = match &tensor.elements {
        Elements::I32(x) => x.iter().map(|&x| x != 0).collect(),
        Elements::U8(x) => x.iter().map(|&x| x != 0).collect(),
        _ => bail!("block_mask is no mask"),
    };
    let (row_blocks, col_blocks) = (b.size('R'), b.size('C'));
    let rows = b.attributes.count("block-rows").unwrap_or(queries.div_ceil(row_blocks.max(1)));
    let cols = b.attributes.count("block-cols").unwrap_or(keys.div_ceil(col_blocks.max(1)));
    Ok(Some(Arc::new(BlockMask { rows, cols, col_blocks, visible })))
}

/// How a cache stores what it keeps.
fn cache_format(b: &Builder<'_>) -> anyhow::Result<Dtype> {
    if b.precision == Precision::F64 {
        bail!("--dtype f64: caches are for f32");
    }
    let dtype = b.attributes.text("cache").map_or(Ok(Dtype::F32), |name| format_named("cache", name))?;
    if !CacheView::DTYPES.contains(&dtype) {
        bail!("--cache {dtype}: caches store f32, f16, bf16 or q8_0");
    }
    Ok(dtype)
}

/// Keys and values written to an empty cache, and all rows attending there.
fn over_a_cache(
    b: &mut Builder<'_>,
    kernel: Kernel,
    [q, k, v]: [Value; 3],
    offsets: &[i32],
) -> anyhow::Result<(Value, Value)> {
    if b.given("block_mask").is_some() {
        bail!("--form recurrent: a cache has no block mask");
    }
    let dtype = cache_format(b)?;
    let rows = slots(offsets);
    let rows = b.feed_integers("rows", &[rows.len(), 2], rows.as_flattened())?;
    let (sequences, context) = (offsets.len() - 1, longest(offsets).max(1));
    let [key_row, value_row] = [kernel.key_width, kernel.value_width].map(|w| kernel.kv_heads * w);
    let keys = b.g.state("cache.keys", [sequences, context, key_row], dtype)?;
    let values = b.g.state("cache.values", [sequences, context, value_row], dtype)?;
    let keys = b.g.push1(CacheWrite, &[keys, k, rows])?;
    let values = b.g.push1(CacheWrite, &[values, v, rows])?;
    attend(b, kernel, [q, keys, values, rows])
}

fn attend(b: &mut Builder<'_>, kernel: Kernel, inputs: [Value; 4]) -> anyhow::Result<(Value, Value)> {
    let mut inputs = inputs.to_vec();
    if kernel.alibi {
        inputs.push(b.constant("alibi_slopes", &[kernel.heads])?);
    }
    let made = b.g.push(CachedAttention::new(kernel), &inputs)?;
    Ok((made[0], made[1]))
}

fn cached_attention(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = Kernel { causal: true, ..kernel(b)? };
    let dtype = cache_format(b)?;
    let (slots, capacity) = (b.size('S'), b.size('C'));
    let rows = b.integers("rows").unwrap_or_default();
    if let Some(row) = rows.chunks_exact(2).find(|r| r[1] < 0 || r[1] as usize >= capacity) {
        bail!("rows has position {}; the cache holds positions 0 to {}", row[1], capacity.saturating_sub(1));
    }
    let q = b.real("q")?;
    let keys = b.stored("keys", &[slots, capacity, kernel.kv_heads * kernel.key_width], Some(dtype))?;
    let values = b.stored("values", &[slots, capacity, kernel.kv_heads * kernel.value_width], Some(dtype))?;
    let rows = b.feed_integers("rows", &[b.size('N'), 2], rows)?;
    let (o, lse) = attend(b, kernel, [q, keys, values, rows])?;
    Ok(vec![made("o", o), made("lse", lse)])
}

fn cache_write(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let dtype = cache_format(b)?;
    let cache = b.stored("cache", &[b.size('S'), b.size('C'), b.size('W')], Some(dtype))?;
    let x = b.real("x")?;
    let rows = b.feed_integers("rows", &[b.size('N'), 2], b.integers("rows").unwrap_or_default())?;
    Ok(vec![made("cache", b.g.push1(CacheWrite, &[cache, x, rows])?)])
}
