//! Which format each weight gets: the least loss under a number of bytes.
//!
//! Losses add up, and so do bytes: a knapsack with one choice an item. Items are joined one after another; of all choices so
//! far only those stay that no other beats in both bytes and loss. What stays after the last item is the whole front: the
//! best plan of every size. It is made without the number of bytes in mind, so a larger budget never gives a worse plan. The
//! front is exact as long as it has at most [`MOST_STATES`] states; beyond, it is thinned evenly over bytes.

use crate::QuantizeError;

/// A format that an item may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Bytes in it.
    pub bytes: u64,
    /// What it loses, at least 0.
    pub loss: f64,
}

/// A plan of the front.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The number of each item's choice.
    pub choices: Vec<usize>,
    /// Bytes of all.
    pub bytes: u64,
    /// Losses of all.
    pub loss: f64,
}

/// The best plan of every size, smallest first.
#[derive(Clone, Debug)]
pub struct Front {
    /// After each item, the states that stayed.
    joined: Vec<Vec<State>>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    bytes: u64,
    loss: f64,
    /// The state before the last item, and the choice of that item.
    from: u32,
    choice: u32,
}

/// States of a front that is exact.
pub const MOST_STATES: usize = 1 << 13;

impl Front {
    /// Of items with at least one choice each.
    pub fn of(items: &[Vec<Choice>]) -> Front {
        let mut joined = Vec::with_capacity(items.len());
        let mut last = vec![State { bytes: 0, loss: 0.0, from: 0, choice: 0 }];
        for choices in items {
            let mut next = Vec::with_capacity(last.len() * choices.len());
            for (from, state) in last.iter().enumerate() {
                next.extend(choices.iter().enumerate().map(|(choice, c)| State {
                    bytes: state.bytes + c.bytes,
                    loss: state.loss + c.loss,
                    from: from as u32,
                    choice: choice as u32,
                }));
            }
            last = thinned(unbeaten(next));
            joined.push(last.clone());
        }
        Front { joined }
    }

    /// The best plan of at most `bytes`.
    ///
    /// # Errors
    /// If there is none so small; says what the smallest has.
    pub fn within(&self, bytes: u64) -> Result<Plan, QuantizeError> {
        let states = self.joined.last().map_or(&[][..], |states| states);
        match states.iter().rposition(|s| s.bytes <= bytes) {
            Some(at) => Ok(self.plan(at)),
            None if states.is_empty() => Ok(Plan { choices: Vec::new(), bytes: 0, loss: 0.0 }),
            None => Err(QuantizeError::Impossible { asked: bytes, smallest: states[0].bytes }),
        }
    }

    /// Bytes and loss of every plan, by rising bytes.
    pub fn sizes(&self) -> impl Iterator<Item = (u64, f64)> {
        self.joined.last().into_iter().flatten().map(|s| (s.bytes, s.loss))
    }

    fn plan(&self, at: usize) -> Plan {
        let end = self.joined[self.joined.len() - 1][at];
        let mut choices = vec![0; self.joined.len()];
        let mut at = at;
        for (choice, states) in choices.iter_mut().zip(&self.joined).rev() {
            *choice = states[at].choice as usize;
            at = states[at].from as usize;
        }
        Plan { choices, bytes: end.bytes, loss: end.loss }
    }
}

/// The states that no other beats, by rising bytes and falling loss.
fn unbeaten(mut states: Vec<State>) -> Vec<State> {
    states.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut least = f64::INFINITY;
    states.retain(|s| {
        let stays = s.loss < least;
        least = least.min(s.loss);
        stays
    });
    states
}

/// At most [`MOST_STATES`]: the first, the last, and of each of as many ranges of bytes the one of least loss.
fn thinned(states: Vec<State>) -> Vec<State> {
    if states.len() <= MOST_STATES {
        return states;
    }
    let (low, high) = (states[0].bytes, states[states.len() - 1].bytes);
    let range = |s: &State| ((s.bytes - low) as u128 * (MOST_STATES as u128 - 2) / (high - low) as u128) as u64;
    // Losses fall as bytes rise: the last of a range has its least.
    let kept = |i: usize| i == 0 || i + 1 == states.len() || range(&states[i]) != range(&states[i + 1]);
    (0..states.len()).filter(|&i| kept(i)).map(|i| states[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(n: usize, choices: usize, seed: u64) -> Vec<Vec<Choice>> {
        let mut state = seed;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut choice = || Choice { bytes: 1 + next(50), loss: next(1000) as f64 };
        (0..n).map(|_| (0..choices).map(|_| choice()).collect()).collect()
    }

    #[test]
    fn plans_are_the_best_of_all_combinations() {
        for seed in 0..20 {
            let items = items(6, 4, seed);
            let front = Front::of(&items);
            for budget in (6..310).step_by(7) {
                let mut best = f64::INFINITY;
                for code in 0..4usize.pow(6) {
                    let chosen = (0..6).map(|i| items[i][code / 4usize.pow(i as u32) % 4]);
                    let (bytes, loss) = chosen.fold((0, 0.0), |(b, l), c| (b + c.bytes, l + c.loss));
                    if bytes <= budget && loss < best {
                        best = loss;
                    }
                }
                match front.within(budget) {
                    Ok(plan) => {
                        let sums = plan.choices.iter().zip(&items).map(|(&c, item)| item[c]);
                        let sums = sums.fold((0, 0.0), |(b, l), c| (b + c.bytes, l + c.loss));
                        assert_eq!(sums, (plan.bytes, plan.loss));
                        assert_eq!(plan.loss, best, "seed {seed}, {budget} bytes");
                        assert!(plan.bytes <= budget);
                    }
                    Err(QuantizeError::Impossible { smallest, .. }) => {
                        assert!(smallest > budget && best.is_infinite());
                        assert!(front.within(smallest).is_ok());
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }

    #[test]
    fn a_larger_budget_never_gives_a_worse_plan_however_many_items() {
        // So many sizes that the front is thinned.
        let items: Vec<Vec<Choice>> = items(120, 5, 9)
            .into_iter()
            .enumerate()
            .map(|(i, c)| c.into_iter().map(|c| Choice { bytes: c.bytes * (1009 + 37 * i as u64), ..c }).collect())
            .collect();
        let front = Front::of(&items);
        assert!(front.joined.iter().all(|states| states.len() <= MOST_STATES));
        let smallest = front.within(u64::MAX).map(|_| front.joined[119][0].bytes).unwrap();
        let mut last = f64::INFINITY;
        for k in 0..200 {
            let plan = front.within(smallest + smallest * k / 100).unwrap();
            assert!(plan.loss <= last);
            last = plan.loss;
        }
        let least: f64 = items.iter().map(|c| c.iter().map(|c| c.loss).fold(f64::INFINITY, f64::min)).sum();
        assert_eq!(front.within(u64::MAX).unwrap().loss, least);
    }
}
