//! State tracking: the word problem of a finite group.
//!
//! The inputs are elements of the group; at each position the product of all elements so far is asked for. Parity is the
//! smallest; with S5 or A5 the problem is complete for NC¹, which transformers and diagonal recurrences of fixed depth do not
//! reach ("The Illusion of State in State-Space Models", Merrill, Petty and Sabharwal, 2024), while a matrix-valued state
//! whose transition has eigenvalue -1 or mixes channels can.

use crate::check::Check;
use crate::generator::{Generated, Generator};
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A finite group, as permutations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Two elements: is the number of ones odd?
    Parity,
    /// The rotations of 60 points: commutative, as large as A5.
    Z60,
    /// All orders of 3 points: 6 elements.
    S3,
    /// The even orders of 4 points: 12 elements.
    A4,
    /// All orders of 4 points: 24 elements.
    S4,
    /// The even orders of 5 points: 60 elements, the smallest group that is not solvable.
    A5,
    /// All orders of 5 points: 120 elements.
    S5,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 7] = [Group::Parity, Group::Z60, Group::S3, Group::A4, Group::S4, Group::A5, Group::S5];

    /// The number of elements.
    pub fn order(self) -> usize {
        match self {
            Group::Parity => 2,
            Group::S3 => 6,
            Group::A4 => 12,
            Group::S4 => 24,
            Group::Z60 | Group::A5 => 60,
            Group::S5 => 120,
        }
    }

    /// The elements, the identity first; an element sends point i to `element[i]`.
    fn elements(self) -> Vec<Vec<u8>> {
        let even = |p: &Vec<u8>| {
            let inversions = (0..p.len()).flat_map(|j| (0..j).map(move |i| (i, j))).filter(|&(i, j)| p[i] > p[j]);
            inversions.count().is_multiple_of(2)
        };
        match self {
            Group::Parity => permutations(2),
            Group::S3 => permutations(3),
            Group::S4 => permutations(4),
            Group::S5 => permutations(5),
            Group::A4 => permutations(4).into_iter().filter(even).collect(),
            Group::A5 => permutations(5).into_iter().filter(even).collect(),
            Group::Z60 => (0..60).map(|by| (0..60).map(|i| (i + by) % 60).collect()).collect(),
        }
    }
}

/// First a, then b.
fn product(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().map(|&i| b[usize::from(i)]).collect()
}

/// All orders of `n` points in lexicographic order.
fn permutations(n: u8) -> Vec<Vec<u8>> {
    let mut all = vec![Vec::new()];
    for _ in 0..n {
        let longer = |p: &Vec<u8>| -> Vec<Vec<u8>> {
            (0..n).filter(|i| !p.contains(i)).map(|i| [&p[..], &[i]].concat()).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// A setting of state tracking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateTrackingConfig {
    /// The group; an id for each element, the identity 0.
    pub group: Group,
    /// T, elements of a word.
    pub input_seq_len: usize,
    /// Examples of the segment.
    pub num_examples: u64,
}

impl Generator for StateTrackingConfig {
    fn name(&self) -> &'static str {
        "state_tracking"
    }

    fn check(&self) -> Result<(), ConfigError> {
        let check = Check(self.name());
        check.that(self.num_examples > 0, "num_examples", self.num_examples, || "it must be at least 1".into())?;
        check.that(self.input_seq_len > 0, "input_seq_len", self.input_seq_len, || "it must be at least 1".into())
    }

    fn num_examples(&self) -> u64 {
        self.num_examples
    }

    fn input_seq_len(&self) -> usize {
        self.input_seq_len
    }

    fn asked(&self) -> usize {
        self.input_seq_len
    }

    fn values(&self) -> Range<i32> {
        0..self.group.order() as i32
    }

    fn generate(&self, rng: &mut Philox) -> Generated {
        let order = self.group.order() as u64;
        let inputs: Vec<i32> = (0..self.input_seq_len).map(|_| rng.below(order) as i32).collect();
        let targets = self.answer(&inputs);
        (inputs, targets)
    }

    fn answer(&self, inputs: &[i32]) -> Vec<i32> {
        let elements = self.group.elements();
        let next = |state: &mut Vec<u8>, &element: &i32| {
            *state = product(state, &elements[element as usize]);
            elements.iter().position(|e| e == state).map(|i| i as i32)
        };
        inputs.iter().scan(elements[0].clone(), next).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_one() {
        for group in Group::ALL {
            let (n, elements) = (group.order(), group.elements());
            assert_eq!(elements.len(), n, "{group:?}");
            let place = |p: Vec<u8>| elements.iter().position(|e| *e == p).expect("products stay in the group");
            let products: Vec<Vec<usize>> =
                elements.iter().map(|a| elements.iter().map(|b| place(product(a, b))).collect()).collect();
            let of = |a: usize, b: usize| products[a][b];
            for a in 0..n {
                assert_eq!((of(0, a), of(a, 0)), (a, a), "{group:?}: 0 is the identity");
                let mut row: Vec<usize> = (0..n).map(|b| of(a, b)).collect();
                row.sort_unstable();
                assert_eq!(row, (0..n).collect::<Vec<_>>(), "{group:?}: every element has an inverse");
            }
            let mut rng = Philox::new(1, 0);
            for _ in 0..1000 {
                let [a, b, c] = [0; 3].map(|_| rng.below(n as u64) as usize);
                assert_eq!(of(of(a, b), c), of(a, of(b, c)), "{group:?}: products are associative");
            }
            let commutes = (0..n).all(|a| (0..n).all(|b| of(a, b) == of(b, a)));
            assert_eq!(commutes, matches!(group, Group::Parity | Group::Z60), "{group:?}");
        }
    }

    #[test]
    fn parity_is_the_number_of_ones() {
        let config = StateTrackingConfig { group: Group::Parity, input_seq_len: 64, num_examples: 1 };
        let (inputs, targets) = config.generate(&mut Philox::new(5, 0));
        for t in 0..64 {
            assert_eq!(targets[t], inputs[..=t].iter().sum::<i32>() % 2);
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let config = StateTrackingConfig { group: Group::S5, input_seq_len: 0, num_examples: 1 };
        assert!(config.check().unwrap_err().to_string().contains("state_tracking: input_seq_len = 0"));
        let parsed = toml::from_str::<StateTrackingConfig>("group = \"s6\"\ninput_seq_len = 4\nnum_examples = 1");
        assert!(parsed.unwrap_err().to_string().contains("s5"), "what there is is named");
    }
}
