//! Weights that are part of the program: no file is opened, and nothing is copied.

use super::{Counters, Guard, TensorId, Tier, TierError};
use crate::budget::{Budget, Reservation};
use crate::pages::page_bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tensors as slices of the program's own constants.
pub struct Embedded {
    tensors: Vec<Arc<Constant>>,
    gets: AtomicU64,
}

struct Constant {
    bytes: &'static [u8],
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for Constant {
    fn as_ref(&self) -> &[u8] {
        self.bytes
    }
}

impl Embedded {
    /// Takes the pages of all tensors from the account `weights`: the system brings them as it does the program's code.
    ///
    /// # Errors
    /// A budget without room.
    pub fn new(budget: &Budget, tensors: Vec<&'static [u8]>) -> Result<Embedded, TierError> {
        let held = Arc::new(budget.take("weights", Embedded::held_bytes(&tensors))?);
        let constant = |bytes| Arc::new(Constant { bytes, _reservation: Arc::clone(&held) });
        Ok(Embedded { tensors: tensors.into_iter().map(constant).collect(), gets: AtomicU64::new(0) })
    }

    /// Bytes that tensors of the program take from a budget: those of every page that holds a byte of one.
    pub fn held_bytes(tensors: &[&'static [u8]]) -> usize {
        let page = page_bytes();
        let pages = |t: &&'static [u8]| (t.as_ptr().addr() / page, (t.as_ptr().addr() + t.len()).div_ceil(page));
        let mut runs: Vec<(usize, usize)> = tensors.iter().filter(|t| !t.is_empty()).map(pages).collect();
        runs.sort_unstable();
        let (mut held, mut covered) = (0, 0);
        for (first, end) in runs {
            held += end.saturating_sub(first.max(covered));
            covered = covered.max(end);
        }
        held * page
    }
}

impl Tier for Embedded {
    fn tensors(&self) -> usize {
        self.tensors.len()
    }

    fn get(&self, id: TensorId) -> Result<Guard, TierError> {
        let tensor = self.tensors.get(id.0).ok_or(TierError::Unknown { id: id.0, tensors: self.tensors.len() })?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(Guard::new(tensor.clone(), 0..tensor.bytes.len()))
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        self.tensors.get(id.0).map(|_| ()).ok_or(TierError::Unknown { id: id.0, tensors: self.tensors.len() })
    }

    fn counters(&self) -> Counters {
        Counters { gets: self.gets.load(Ordering::Relaxed), ..Counters::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BYTES: [u8; 10_000] = {
        let mut bytes = [0; 10_000];
        let mut i = 0;
        while i < bytes.len() {
            bytes[i] = (i % 251) as u8;
            i += 1;
        }
        bytes
    };

    #[test]
    fn guards_hold_the_bytes_and_their_pages_are_counted_once_until_the_last_is_gone() {
        let tensors = vec![&BYTES[..5000], &BYTES[5000..5000], &BYTES[5000..]];
        let needed = Embedded::held_bytes(&tensors);
        assert!((BYTES.len()..=BYTES.len() + 2 * page_bytes()).contains(&needed));
        assert!(matches!(Embedded::new(&Budget::new(needed - 1), tensors.clone()), Err(TierError::Budget(_))));
        let budget = Budget::new(needed);
        let tier = Embedded::new(&budget, tensors).unwrap();
        assert_eq!((tier.tensors(), budget.held()), (3, needed));
        assert!(tier.get(TensorId(3)).is_err() && tier.prefetch(TensorId(3)).is_err());
        let guard = tier.get(TensorId(2)).unwrap();
        assert_eq!(&*guard, &BYTES[5000..]);
        assert_eq!(tier.counters().gets, 1);
        drop(tier);
        assert_eq!(budget.held(), needed);
        drop(guard);
        assert_eq!(budget.held(), 0);
    }
}
