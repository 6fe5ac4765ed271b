//! The table of choices: every combination of formats, context and threads that a budget holds, with what it costs.

use memwall_formats::Dtype;

use crate::ladder::{Ladder, largest};
use crate::{FitError, Header, Machine, MemoryPlan, Quality, Speed, Wish};

/// A plan with its speed and quality.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// Bytes and options.
    pub plan: MemoryPlan,
    /// Tokens a second.
    pub speed: Speed,
    /// How close its numbers are to those of the model as stored.
    pub quality: Quality,
}

impl Choice {
    /// What a plan does on a machine.
    ///
    /// # Errors
    /// If the plan's options do not fit the model.
    pub fn of(header: Header<'_>, plan: MemoryPlan, machine: &Machine) -> Result<Choice, FitError> {
        Ok(Choice { plan, speed: Speed::predict(header, &plan.options, machine)?, quality: plan.quality() })
    }
}

/// Every choice that a budget holds, the best first: by quality, then context, then speed of decoding.
///
/// For each combination of formats that the wish allows: the longest context that fits, and the floor where that is
/// shorter; for each machine (number of threads).
///
/// # Errors
/// If what is wished for does not fit the model.
pub fn choices(
    header: Header<'_>,
    wish: &Wish,
    limit: Option<usize>,
    other: usize,
    machines: &[Machine],
) -> Result<Vec<Choice>, FitError> {
    let fits = |p: &MemoryPlan| limit.is_none_or(|limit| p.total_bytes() <= limit);
    let mut found: Vec<Choice> = Vec::new();
    for machine in machines {
        let ladder = Ladder::new(header, Wish { threads: machine.threads, ..*wish }, other);
        for rung in ladder.combinations() {
            let floor = ladder.small(rung, ladder.floor())?;
            if !fits(&floor) {
                continue;
            }
            // Contexts by doubling: finer steps are the user's to ask for.
            let doublings = (1..).take_while(|n| ladder.floor().saturating_mul(1 << n) < ladder.most()).count();
            let context = |n: usize| if n > doublings { ladder.most() } else { ladder.floor() << n };
            let longest = largest(floor, 0, doublings + 1, fits, |n| ladder.small(rung, context(n)))?;
            let speed = Speed::predict(header, &floor.options, machine)?;
            let quality = rung.quality();
            for plan in [Some(longest), (longest.options.context > floor.options.context).then_some(floor)] {
                found.extend(plan.map(|plan| Choice { plan, speed, quality }));
            }
        }
    }
    found.sort_by(|a, b| {
        let key = |c: &Choice| (c.quality, c.plan.options.context);
        key(b).cmp(&key(a)).then(b.speed.decode.total_cmp(&a.speed.decode))
    });
    Ok(found)
}

impl Header<'_> {
    /// The formats that weights may be held in under a wish: what a [`Machine`] is measured for.
    pub fn formats(self, wish: &Wish) -> Vec<Dtype> {
        let mut formats = Vec::new();
        for rung in Ladder::new(self, *wish, 0).combinations() {
            let types = self.types(rung.weights);
            for (name, _) in self.checkpoint.tensors.iter().filter(|(_, t)| t.shape.len() > 1) {
                let dtype = types.of(name, Dtype::F32);
                if !formats.contains(&dtype) {
                    formats.push(dtype);
                }
            }
        }
        formats
    }
}
