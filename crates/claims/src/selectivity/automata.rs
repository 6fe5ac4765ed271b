//! The automata against their definition.

use memwall_tasks::selectivity::{END, Grammar, GrammarConfig};

use crate::Error;

/// Automata of a seed that are looked at.
const LOOKED_AT: u64 = 20;

fn automata(seed: u64) -> impl Iterator<Item = Result<Grammar, Error>> {
    (0..LOOKED_AT).map(move |i| drawn(seed * LOOKED_AT + i))
}

fn drawn(seed: u64) -> Result<Grammar, Error> {
    Grammar::draw(&GrammarConfig::new(9, 8, 8), seed).map_err(Error::experiment)
}

/// How many of twenty automata have a state without a way to the end, two followers with one letter, or another shape when
/// they are drawn again.
pub(super) fn violations(seed: u64) -> Result<f64, Error> {
    let mut broken = 0.0;
    for (i, g) in automata(seed).enumerate() {
        let g = g?;
        let again = drawn(seed * LOOKED_AT + i as u64)?;
        let letters_differ = g.next.iter().all(|edges| {
            let mut letters: Vec<usize> = edges.iter().map(|&n| g.symbols[n]).collect();
            letters.sort_unstable();
            letters.windows(2).all(|w| w[0] != w[1])
        });
        let holds = letters_differ && ends_everywhere(&g) && g.next[END].is_empty() && g == again;
        broken += f64::from(u8::from(!holds));
    }
    Ok(broken)
}

fn ends_everywhere(g: &Grammar) -> bool {
    let mut ends = vec![false; g.states()];
    ends[END] = true;
    for _ in 0..g.states() {
        for s in 0..g.states() {
            ends[s] |= g.next[s].iter().any(|&n| ends[n]);
        }
    }
    ends.into_iter().all(|e| e)
}

/// The largest relative difference between an automaton's entropy and the growth of the number of its strings.
pub(super) fn entropy_error(seed: u64) -> Result<f64, Error> {
    let mut worst = 0.0f64;
    for g in automata(seed) {
        let g = g?;
        let growth = growth(&g);
        worst = worst.max((g.entropy() / growth - 1.0).abs());
    }
    Ok(worst)
}

/// How the number of sequences of strings grows a symbol, in nats, between 200 and 400 symbols.
fn growth(g: &Grammar) -> f64 {
    let mut counts = vec![0.0; g.states()];
    g.starts.iter().for_each(|&s| counts[s] = 1.0);
    let mut sum = 0.0;
    for symbol in 0..400 {
        let mut next = vec![0.0; g.states()];
        for (s, &count) in counts.iter().enumerate() {
            let follow = if s == END { &g.starts } else { &g.next[s] };
            follow.iter().for_each(|&n| next[n] += count);
        }
        let total: f64 = next.iter().sum();
        if symbol >= 200 {
            sum += total.ln();
        }
        counts = next.into_iter().map(|c| c / total).collect();
    }
    sum / 200.0
}
