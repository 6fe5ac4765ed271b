//! The ladder: which choice a budget gets.
//!
//! As a budget shrinks, first the rows of a step shrink, then the context, down to a floor; then keys and values are
//! quantized, then the weights, one format for each quality tier: the smallest of it. Only at the lowest rung do context and
//! step shrink below their floors, to what is needed. A larger budget climbs the same ladder, so it never lowers the tier or
//! the context, and while the formats stay never the speed; an ample one keeps the file's formats and the model's context.
//!
//! A rung is taken only if it holds the floor of the context and a step of [`SMALL_STEP`] rows: a better tier that prefills
//! row by row is no better. What the user has set is fixed on every rung.

use memwall_cache::KvFormat;
use memwall_formats::{Dtype, Mix};
use memwall_nn::ModelConfig;

use crate::{EngineOptions, FitError, Header, MemoryPlan, Quality, WeightFormat, WeightTier};

/// The context that is kept while weights could be quantized instead, in tokens.
pub const FLOOR: usize = 512;
/// Rows of a step that are kept while the context can shrink instead.
const SMALL_STEP: usize = 64;
/// The most rows of a step: more make prefill no faster.
const STEP: usize = 512;
/// The mixes that are chosen from where the user names none: one of each size; the others are for those who ask.
const MIXES: [Mix; 8] = [Mix::F16, Mix::Q8_0, Mix::Q6_K, Mix::Q5_K_M, Mix::Q4_K_M, Mix::Q4_0, Mix::Q3_K_M, Mix::Q2_K];
/// A format is worth converting to if it takes less than this share of the stored bytes.
const WORTH: f64 = 0.97;

/// What the caller wants of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// The context, or `None` for the largest that fits.
    pub context: Option<usize>,
    /// Tokens that the context must hold at least.
    pub needed: usize,
    /// Threads.
    pub threads: usize,
    /// The format of the weights, or `None` for the best that fits.
    pub weights: Option<WeightFormat>,
    /// Where the weights live, or `None` for the usual place.
    pub tier: Option<WeightTier>,
    /// How keys and values are stored, or `None` for the best that fits.
    pub kv: Option<KvFormat>,
    /// Rows of a step whose logits are wanted at once.
    pub outputs: usize,
}

/// A choice of formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    pub weights: WeightFormat,
    pub kv: KvFormat,
}

impl Rung {
    pub fn quality(self) -> Quality {
        Quality::of_weights(self.weights).min(Quality::of_kv(self.kv))
    }
}

/// The ladder of a model under a wish.
pub(crate) struct Ladder<'a> {
    header: Header<'a>,
    wish: Wish,
    other: usize,
    /// Contexts: what is needed, the floor, the most.
    needed: usize,
    floor: usize,
    most: usize,
}

impl<'a> Ladder<'a> {
    pub fn new(header: Header<'a>, wish: Wish, other: usize) -> Ladder<'a> {
        let max = header.checkpoint.config.max_context.max(1);
        let (needed, floor, most) = match wish.context {
            Some(context) => (context, context, context),
            None => (wish.needed.clamp(1, max), wish.needed.max(FLOOR).min(max), max),
        };
        Ladder { header, wish, other, needed, floor, most }
    }

    /// Rows of a step that a rung needs.
    fn small_step(&self) -> usize {
        SMALL_STEP.min(self.most).max(1)
    }

    pub fn floor(&self) -> usize {
        self.floor
    }

    pub fn most(&self) -> usize {
        self.most
    }

    pub fn plan(&self, rung: Rung, context: usize, step: usize) -> Result<MemoryPlan, FitError> {
        let options = EngineOptions {
            threads: self.wish.threads,
            context,
            slots: 1,
            step,
            outputs: self.wish.outputs.min(step),
            weights: rung.weights,
            tier: self.wish.tier.unwrap_or(EngineOptions::usual_tier(rung.weights)),
            kv: rung.kv,
            ..EngineOptions::default()
        };
        MemoryPlan::of(self.header, options, self.other)
    }

    /// A plan of a rung with the floor's context, or the longest that fits, and as many rows as a first look takes.
    pub fn small(&self, rung: Rung, context: usize) -> Result<MemoryPlan, FitError> {
        self.plan(rung, context, self.small_step().min(context.max(1)))
    }

    /// Every combination of formats that the wish allows, the worst first.
    pub fn combinations(&self) -> Vec<Rung> {
        let kvs = match self.wish.kv {
            Some(kv) => vec![kv],
            None => kv_formats(&self.header.checkpoint.config),
        };
        let mut weights: Vec<(Quality, u64, WeightFormat)> = match self.wish.weights {
            Some(weights) => vec![(Quality::of_weights(weights), self.header.file_bytes(weights), weights)],
            None => {
                let stored = self.header.file_bytes(WeightFormat::AsStored);
                let mixes = MIXES.into_iter().map(WeightFormat::Mix);
                let smaller = mixes
                    .map(|w| (Quality::of_weights(w), self.header.file_bytes(w), w))
                    .filter(|(_, bytes, _)| (*bytes as f64) < WORTH * stored as f64);
                smaller.chain([(Quality::AsStored, stored, WeightFormat::AsStored)]).collect()
            }
        };
        weights.sort_by_key(|&(quality, bytes, _)| (quality, bytes));
        weights.iter().flat_map(|&(_, _, weights)| kvs.iter().map(move |&kv| Rung { weights, kv })).collect()
    }

    /// The rungs, the worst first.
    ///
    /// Of each tier the smallest format; none that a better tier beats in bytes. Stored weights beside quantized keys and
    /// values are no better than the best quantized weights and slower, so they are a rung only where there are none.
    pub fn rungs(&self) -> Vec<Rung> {
        let all = self.combinations();
        let mut formats: Vec<WeightFormat> = Vec::new();
        let mut least = u64::MAX;
        // From the best down: what stays is strictly smaller than all that is better.
        for rung in all.iter().rev() {
            let tier = |w: &WeightFormat| Quality::of_weights(*w);
            let bytes = self.header.file_bytes(rung.weights);
            if formats.contains(&rung.weights) {
                continue;
            }
            match formats.last() {
                // `all` is sorted by bytes within a tier, so the last seen of a tier is its smallest.
                Some(last) if tier(last) == tier(&rung.weights) && bytes < least => {
                    formats.pop();
                    formats.push(rung.weights);
                }
                None => formats.push(rung.weights),
                Some(_) if bytes < least => formats.push(rung.weights),
                Some(_) => continue,
            }
            least = bytes;
        }
        formats.reverse();
        let several = formats.len() > 1;
        let kept = all.into_iter().filter(|rung| {
            let beaten = rung.weights == WeightFormat::AsStored
                && self.wish.kv.is_none()
                && rung.quality() < Quality::AsStored
                && several
                && formats.iter().any(|w| *w != WeightFormat::AsStored && Quality::of_weights(*w) >= rung.quality());
            formats.contains(&rung.weights) && !beaten
        });
        kept.collect()
    }

    /// The plan that a budget gets.
    pub fn choose(&self, limit: Option<usize>) -> Result<MemoryPlan, FitError> {
        let fits = |p: &MemoryPlan| limit.is_none_or(|limit| p.total_bytes() <= limit);
        let rungs = self.rungs();
        let (small, step) = (self.small_step(), STEP.min(self.most).max(1));
        let Some((&lowest, &highest)) = rungs.first().zip(rungs.last()) else {
            return Err(FitError::options("no format is left to choose from"));
        };
        let whole = self.plan(highest, self.most, step)?;
        if fits(&whole) {
            return Ok(whole);
        }
        for &rung in rungs.iter().rev() {
            let floor = self.plan(rung, self.floor, small)?;
            if !fits(&floor) {
                continue;
            }
            let longest = if rung == highest {
                largest(floor, self.floor, self.most, fits, |context| self.plan(rung, context, small))?
            } else {
                floor
            };
            let context = longest.options.context;
            if rung == highest && context < self.most {
                return Ok(longest);
            }
            return largest(longest, small, step, fits, |step| self.plan(rung, context, step));
        }
        let least = self.plan(lowest, self.needed, 1)?;
        if !fits(&least) {
            return Err(FitError::Infeasible { limit: limit.unwrap_or(usize::MAX), plan: Box::new(least) });
        }
        let best = largest(least, 1, small, fits, |step| self.plan(lowest, self.needed, step))?;
        if best.options.step < small {
            return Ok(best);
        }
        largest(best, self.needed, self.floor, fits, |context| self.plan(lowest, context, small))
    }

    /// The smallest plan there is.
    pub fn least(&self) -> Result<MemoryPlan, FitError> {
        let rungs = self.rungs();
        let lowest = rungs.first().copied().ok_or_else(|| FitError::options("no format is left to choose from"))?;
        self.plan(lowest, self.needed, 1)
    }
}

/// The plan of the largest size from `low`, whose plan is given and fits, to `high` that fits.
pub(crate) fn largest(
    given: MemoryPlan,
    low: usize,
    high: usize,
    fits: impl Fn(&MemoryPlan) -> bool,
    make: impl Fn(usize) -> Result<MemoryPlan, FitError>,
) -> Result<MemoryPlan, FitError> {
    if high <= low {
        return Ok(given);
    }
    let whole = make(high)?;
    if fits(&whole) {
        return Ok(whole);
    }
    let (mut low, mut high, mut best) = (low, high, given);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        let tried = make(middle)?;
        if fits(&tried) {
            (low, best) = (middle, tried);
        } else {
            high = middle;
        }
    }
    Ok(best)
}

/// The formats of keys and values that a model can have without being asked for others, the smallest first.
fn kv_formats(config: &ModelConfig) -> Vec<KvFormat> {
    let rows: Vec<usize> =
        config.layers.iter().filter_map(|layer| layer.mixer.attention().map(|a| a.kv_heads * a.head_dim)).collect();
    let quantized = !rows.is_empty() && rows.iter().all(|&row| Dtype::Q8_0.row_bytes(row).is_some());
    let small = quantized.then(|| KvFormat::both(Dtype::Q8_0));
    small.into_iter().chain([KvFormat::both(Dtype::F16)]).collect()
}

impl MemoryPlan {
    /// The plan that a limit in bytes gets, or the best there is without one.
    ///
    /// # Errors
    /// [`FitError::Infeasible`] with the minimum that would work; also if what is wished for does not fit the model.
    pub fn choose(header: Header<'_>, wish: &Wish, limit: Option<usize>, other: usize) -> Result<MemoryPlan, FitError> {
        Ladder::new(header, *wish, other).choose(limit)
    }

    /// The smallest plan that a wish allows: its total is the smallest budget that works.
    ///
    /// # Errors
    /// If what is wished for does not fit the model.
    pub fn least(header: Header<'_>, wish: &Wish, other: usize) -> Result<MemoryPlan, FitError> {
        Ladder::new(header, *wish, other).least()
    }

    /// How close its numbers are to those of the model as stored.
    pub fn quality(&self) -> Quality {
        Rung { weights: self.options.weights, kv: self.options.kv }.quality()
    }
}
