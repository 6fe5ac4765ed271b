//! Random automata whose symbols are ambiguous: several states write the same letter.
//!
//! From a state at most one state of each letter follows, so that the start and the letters determine the path; and the end
//! can be reached from everywhere.

use crate::check::Check;
use crate::draw::distinct;
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};

/// The state that ends a string, and the symbol that it writes.
pub const END: usize = 0;
/// Grammars that are drawn before one is given up.
const TRIES: u64 = 100_000;
/// Strings that are drawn before one of the length asked for is given up.
const STRING_TRIES: usize = 10_000;
/// The most letters: A to Z and a to z.
const LETTERS: usize = 52;

/// A family of grammars; names as published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrammarConfig {
    /// V, symbols, the end among them; up to 53.
    pub vocab_size: usize,
    /// a, letters that several states write; up to V - 1.
    pub ambiguities: usize,
    /// D, states that write each of those.
    pub ambiguity_depth: usize,
    /// States that a string may start in.
    #[serde(default = "starts")]
    pub initial_states: usize,
    /// ρ: a state is followed by a letter of n states with probability n·ρ; 0.4 / D if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition_density: Option<f64>,
    /// The fewest symbols of a string, the end among them.
    #[serde(default = "one")]
    pub min_string_length: usize,
    /// The most symbols of a string.
    #[serde(default = "longest")]
    pub max_string_length: usize,
}

fn starts() -> usize {
    4
}

fn one() -> usize {
    1
}

fn longest() -> usize {
    200
}

impl GrammarConfig {
    /// V symbols of which a are written by D states each, the rest as published.
    pub fn new(vocab_size: usize, ambiguities: usize, ambiguity_depth: usize) -> GrammarConfig {
        GrammarConfig {
            vocab_size,
            ambiguities,
            ambiguity_depth,
            initial_states: starts(),
            transition_density: None,
            min_string_length: one(),
            max_string_length: longest(),
        }
    }

    /// N = (V - 1 - a) + a·D + 1.
    pub fn states(&self) -> usize {
        self.vocab_size - self.ambiguities + self.ambiguities * self.ambiguity_depth
    }

    /// ρ.
    pub fn density(&self) -> f64 {
        self.transition_density.unwrap_or(0.4 / self.ambiguity_depth.max(1) as f64)
    }

    /// Whether n·ρ exceeds 1 for some letter, whose edges are then certain.
    pub fn is_clipped(&self) -> bool {
        self.density() * if self.ambiguities > 0 { self.ambiguity_depth as f64 } else { 1.0 } > 1.0
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let check = Check("selectivity");
        let (v, a, d) = (self.vocab_size, self.ambiguities, self.ambiguity_depth);
        check.that((2..=LETTERS + 1).contains(&v), "vocab_size", v, || {
            format!("2 to {}: the end and up to {LETTERS} letters", LETTERS + 1)
        })?;
        check.that(a < v, "ambiguities", a, || format!("vocab_size {v} has {} letters", v - 1))?;
        check.that(a == 0 || (1..=4096).contains(&d), "ambiguity_depth", d, || {
            "1 to 4096 states write an ambiguous letter".into()
        })?;
        let starts = self.initial_states;
        check.that((1..=self.states()).contains(&starts), "initial_states", starts, || {
            format!("1 to {}, the states there are", self.states())
        })?;
        let density = self.density();
        check.that(density > 0.0 && density.is_finite(), "transition_density", density, || {
            "it must be above 0: without edges no string ends".into()
        })?;
        let (least, most) = (self.min_string_length, self.max_string_length);
        check.that(least <= most && most > 0, "max_string_length", most, || {
            format!("it must be at least 1 and min_string_length ({least})")
        })?;
        check.that(most <= 1 << 20, "max_string_length", most, || format!("at most {}", 1 << 20))
    }
}

/// An automaton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar {
    /// The symbol that each state writes: [`END`] for the end, letters from 1 `[N]`.
    pub symbols: Vec<usize>,
    /// The states that may follow each state, all equally likely; none follow the end `[N]`.
    pub next: Vec<Vec<usize>>,
    /// The states that a string may start in, all equally likely.
    pub starts: Vec<usize>,
    longest: usize,
}

impl Grammar {
    /// Draws a grammar.
    ///
    /// # Errors
    /// A setting that cannot be, or settings under which no grammar was found.
    pub fn draw(config: &GrammarConfig, seed: u64) -> Result<Grammar, ConfigError> {
        config.check()?;
        let found = (0..TRIES).map(|i| Grammar::candidate(config, &mut Philox::new(seed, i)));
        found.into_iter().find(|g| g.is_accepted(config)).ok_or_else(|| ConfigError {
            task: "selectivity",
            key: "transition_density",
            value: config.density().to_string(),
            reason: format!(
                "of {TRIES} grammars none reached the end from every state in {} to {} symbols; a larger density helps",
                config.min_string_length, config.max_string_length
            ),
        })
    }

    fn candidate(config: &GrammarConfig, rng: &mut Philox) -> Grammar {
        let letters = config.vocab_size - 1;
        let ambiguous = distinct(rng, letters, config.ambiguities);
        let copies = |letter: usize| if ambiguous.contains(&(letter - 1)) { config.ambiguity_depth } else { 1 };
        let mut symbols = vec![END];
        symbols.extend((1..=letters).flat_map(|letter| std::iter::repeat_n(letter, copies(letter))));
        let instances: Vec<Vec<usize>> =
            (0..=letters).map(|s| (0..symbols.len()).filter(|&i| symbols[i] == s).collect()).collect();
        let mut next = vec![Vec::new(); symbols.len()];
        for edges in next.iter_mut().skip(1) {
            for states in &instances {
                let one = states[rng.below(states.len() as u64) as usize];
                if rng.unit() <= states.len() as f64 * config.density() {
                    edges.push(one);
                }
            }
        }
        let mut starts = distinct(rng, symbols.len(), config.initial_states);
        starts.retain(|&s| s != END);
        Grammar { symbols, next, starts, longest: config.max_string_length }
    }

    fn is_accepted(&self, config: &GrammarConfig) -> bool {
        let to_end = self.distances_to_end();
        let shortest = self.starts.iter().filter_map(|&s| to_end[s]).min();
        to_end.iter().all(Option::is_some)
            && shortest.is_some_and(|d| (config.min_string_length..=config.max_string_length).contains(&(d + 1)))
    }

    /// The fewest steps from each state to the end.
    fn distances_to_end(&self) -> Vec<Option<usize>> {
        let mut distance = vec![None; self.states()];
        distance[END] = Some(0);
        for steps in 1..=self.states() {
            let mut grew = false;
            for s in 0..self.states() {
                if distance[s].is_none() && self.next[s].iter().any(|&n| distance[n] == Some(steps - 1)) {
                    distance[s] = Some(steps);
                    grew = true;
                }
            }
            if !grew {
                break;
            }
        }
        distance
    }

    /// N.
    pub fn states(&self) -> usize {
        self.symbols.len()
    }

    /// The most symbols of a string.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The symbols that cannot follow a state.
    pub fn forbidden(&self, state: usize, vocab: usize) -> Vec<usize> {
        (0..vocab).filter(|s| self.next[state].iter().all(|&n| self.symbols[n] != *s)).collect()
    }

    /// The states of a string, the end last.
    ///
    /// Strings longer than the longest are drawn again, as published; after ten thousand it is a shortest one.
    pub fn string(&self, rng: &mut Philox) -> Vec<usize> {
        let mut path = Vec::new();
        for _ in 0..STRING_TRIES {
            path.clear();
            path.push(self.starts[rng.below(self.starts.len() as u64) as usize]);
            while path.len() < self.longest {
                let edges = &self.next[path[path.len() - 1]];
                let state = edges[rng.below(edges.len() as u64) as usize];
                path.push(state);
                if state == END {
                    return path;
                }
            }
        }
        self.shortest()
    }

    /// A string with the fewest symbols.
    fn shortest(&self) -> Vec<usize> {
        let to_end = self.distances_to_end();
        let nearest = |states: &[usize]| states.iter().copied().min_by_key(|&s| to_end[s].unwrap_or(usize::MAX));
        let follow = |&state: &usize| nearest(&self.next[state]);
        std::iter::successors(nearest(&self.starts), follow).collect()
    }

    /// Topological entropy in nats: the logarithm of the largest eigenvalue of the transitions, the end leading to the starts.
    pub fn entropy(&self) -> f64 {
        let n = self.states();
        let mut x = vec![1.0; n];
        let mut growth = 0.0;
        // A step to itself moves every eigenvalue up by one, which keeps periodic automata from swinging.
        for _ in 0..2000 {
            let mut y = x.clone();
            for (s, y) in y.iter_mut().enumerate() {
                let edges = if s == END { &self.starts } else { &self.next[s] };
                *y += edges.iter().map(|&e| x[e]).sum::<f64>();
            }
            growth = y.iter().fold(0.0, |a: f64, &b| a.max(b));
            x = y.into_iter().map(|v| v / growth).collect();
        }
        (growth - 1.0).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GrammarConfig {
        GrammarConfig::new(9, 8, 8)
    }

    #[test]
    fn the_published_conditions_hold() {
        for seed in 0..20 {
            let g = Grammar::draw(&config(), seed).unwrap();
            assert_eq!((g.states(), config().states()), (65, 65));
            assert!(g.next[END].is_empty());
            assert!(g.distances_to_end().iter().all(Option::is_some), "the end is reached from everywhere");
            assert!(g.starts.len() <= 4 && !g.starts.is_empty() && !g.starts.contains(&END));
            for edges in &g.next {
                let mut letters: Vec<usize> = edges.iter().map(|&n| g.symbols[n]).collect();
                letters.dedup();
                assert_eq!(letters.len(), edges.len(), "one state of a letter follows, so the letters tell the path");
            }
            assert_eq!(g, Grammar::draw(&config(), seed).unwrap());
            assert_ne!(g, Grammar::draw(&config(), seed + 100).unwrap());
        }
    }

    #[test]
    fn edges_are_as_dense_as_said() {
        // Candidates, not accepted grammars: acceptance favours dense ones.
        let (mut letters, mut ends, mut sources) = (0.0, 0.0, 0.0);
        for seed in 0..200 {
            let g = Grammar::candidate(&config(), &mut Philox::new(seed, 0));
            for edges in g.next.iter().skip(1) {
                sources += 1.0;
                ends += f64::from(u8::from(edges.contains(&END)));
                letters += edges.iter().filter(|&&e| e != END).count() as f64;
            }
        }
        for (found, p, draws) in [(letters, 0.4, 8.0 * sources), (ends, 0.05, sources)] {
            let sigma = f64::sqrt(p * (1.0 - p) / draws);
            assert!((found / draws - p).abs() < 3.0 * sigma, "{} instead of {p}", found / draws);
        }
    }

    #[test]
    fn entropy_is_the_growth_of_the_number_of_strings() {
        for seed in 0..3 {
            let g = Grammar::draw(&config(), seed).unwrap();
            // Paths of k symbols over concatenated strings, by counting.
            let mut counts = vec![0.0; g.states()];
            for &s in &g.starts {
                counts[s] = 1.0;
            }
            let mut logarithm = 0.0;
            let mut at = Vec::new();
            for _ in 0..400 {
                let mut next = vec![0.0; g.states()];
                for (s, &count) in counts.iter().enumerate() {
                    for &n in if s == END { &g.starts } else { &g.next[s] } {
                        next[n] += count;
                    }
                }
                let total: f64 = next.iter().sum();
                logarithm += f64::ln(total);
                at.push(logarithm);
                counts = next.into_iter().map(|c| c / total).collect();
            }
            let growth = (at[399] - at[199]) / 200.0;
            assert!((g.entropy() - growth).abs() < 0.01 * growth, "{} against {growth}", g.entropy());
            assert!((1.0..1.4).contains(&growth), "{growth}");
        }
    }

    #[test]
    fn strings_follow_edges_and_end() {
        let g = Grammar::draw(&config(), 3).unwrap();
        for seed in 0..200 {
            let path = g.string(&mut Philox::new(seed, 1));
            assert!(g.starts.contains(&path[0]) && path[path.len() - 1] == END && path.len() <= 200);
            assert!(path.windows(2).all(|w| g.next[w[0]].contains(&w[1])));
        }
    }

    #[test]
    fn where_no_string_is_short_enough_by_chance_a_shortest_one_is_taken() {
        for seed in 0..20 {
            let g = Grammar::draw(&config(), seed).unwrap();
            let shortest = g.shortest();
            assert!(g.starts.contains(&shortest[0]) && shortest[shortest.len() - 1] == END);
            assert!(shortest.windows(2).all(|w| g.next[w[0]].contains(&w[1])));
            let strings = (0..300).map(|i| g.string(&mut Philox::new(seed, i)).len());
            assert!(strings.min().is_some_and(|fewest| fewest >= shortest.len()));
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |c: GrammarConfig| Grammar::draw(&c, 1).unwrap_err().to_string();
        assert!(error(GrammarConfig { vocab_size: 54, ..config() }).contains("vocab_size = 54"));
        assert!(error(GrammarConfig { ambiguities: 9, ..config() }).contains("ambiguities = 9"));
        assert!(error(GrammarConfig { ambiguity_depth: 0, ..config() }).contains("ambiguity_depth = 0"));
        assert!(error(GrammarConfig { initial_states: 66, ..config() }).contains("initial_states = 66"));
        assert!(error(GrammarConfig { min_string_length: 201, ..config() }).contains("max_string_length = 200"));
        let sparse = GrammarConfig { transition_density: Some(1e-9), ..config() };
        assert!(error(sparse).contains("none reached the end"));
        assert!(GrammarConfig { transition_density: Some(0.2), ..config() }.is_clipped());
        assert!(!config().is_clipped());
        assert!(error(GrammarConfig { transition_density: Some(f64::NAN), ..config() }).contains("transition_density"));
    }
}
