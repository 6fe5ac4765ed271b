//! A stand-in for a slow tier: another tier behind a link of a given bandwidth, for tests and experiments.
//!
//! The link is a token bucket: transfers go one after another at `bytes_per_second`; a bucket of `burst` bytes fills while
//! the link is idle. A prefetched tensor is on its way while the caller computes; a guard holds its bytes in the account
//! `io` until it is dropped, and the next [`Tier::get`] transfers them again.

use super::{Counters, Guard, TensorId, Tier, TierError};
use crate::budget::{Budget, Reservation};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Another tier behind a link of limited bandwidth.
pub struct Throttled {
    inner: Arc<dyn Tier>,
    budget: Budget,
    bytes_per_second: f64,
    burst: Duration,
    link: Mutex<Link>,
}

struct Link {
    free_at: Instant,
    /// Tensors that were prefetched and not yet fetched.
    staged: HashMap<TensorId, Staged>,
    gets: u64,
    bytes: u64,
}

struct Staged {
    guard: Guard,
    arrives: Instant,
    room: Reservation,
}

struct Arrived {
    guard: Guard,
    _room: Reservation,
}

impl AsRef<[u8]> for Arrived {
    fn as_ref(&self) -> &[u8] {
        &self.guard
    }
}

impl Throttled {
    /// Puts `inner` behind a link of `bytes_per_second` (more than 0) with a bucket of `burst` bytes, full at the start; room
    /// for tensors in flight or in use is taken from `budget`.
    pub fn new(inner: Arc<dyn Tier>, budget: &Budget, bytes_per_second: f64, burst: usize) -> Throttled {
        let bytes_per_second = if bytes_per_second > 0.0 { bytes_per_second } else { f64::MIN_POSITIVE };
        let burst = seconds(burst as f64 / bytes_per_second);
        let free_at = Instant::now().checked_sub(burst).unwrap_or_else(Instant::now);
        let link = Mutex::new(Link { free_at, staged: HashMap::new(), gets: 0, bytes: 0 });
        Throttled { inner, budget: budget.clone(), bytes_per_second, burst, link }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a transfer at the end of the queue.
    fn stage(&self, link: &mut Link, id: TensorId) -> Result<Staged, TierError> {
        let guard = self.inner.get(id)?;
        let room = self.budget.take("io", guard.len())?;
        let now = Instant::now();
        let earliest = now.checked_sub(self.burst).unwrap_or(now);
        link.free_at = link.free_at.max(earliest) + seconds(guard.len() as f64 / self.bytes_per_second);
        link.bytes += guard.len() as u64;
        Ok(Staged { guard, arrives: link.free_at, room })
    }
}

/// At most a century, so that adding it to the clock cannot overflow.
fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(0.0, 3.2e9))
}

impl Tier for Throttled {
    fn tensors(&self) -> usize {
        self.inner.tensors()
    }

    fn get(&self, id: TensorId) -> Result<Guard, TierError> {
        let Staged { guard, arrives, room } = {
            let mut link = self.link();
            let staged = match link.staged.remove(&id) {
                Some(staged) => staged,
                None => self.stage(&mut link, id)?,
            };
            link.gets += 1;
            staged
        };
        std::thread::sleep(arrives.saturating_duration_since(Instant::now()));
        let range = 0..guard.len();
        Ok(Guard::new(Arc::new(Arrived { guard, _room: room }), range))
    }

    fn prefetch(&self, id: TensorId) -> Result<(), TierError> {
        let mut link = self.link();
        if !link.staged.contains_key(&id) {
            let staged = self.stage(&mut link, id)?;
            link.staged.insert(id, staged);
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        let link = self.link();
        Counters { gets: link.gets, bytes_streamed: link.bytes, ..self.inner.counters() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mapped, Ram};

    const KIB: usize = 1024;

    fn ram(budget: &Budget, tensors: usize, bytes: usize) -> Arc<dyn Tier> {
        let sizes = (0..tensors).map(|i| (format!("w{i}"), bytes)).collect();
        let fill = |id: TensorId, place: &mut [u8]| {
            place.fill(id.0 as u8);
            Ok::<(), TierError>(())
        };
        Arc::new(Ram::fill(budget, sizes, fill).unwrap())
    }

    #[test]
    fn every_file_law_of_a_tier_holds_over_either_tier() {
        crate::laws::tier(&|extents, budget| {
            Ok(Arc::new(Throttled::new(Arc::new(Ram::load(budget, extents)?), budget, 1e12, 0)))
        });
        crate::laws::tier(&|extents, budget| {
            let mapped = Mapped::open(budget, extents.clone(), crate::Advice::Normal)?;
            Ok(Arc::new(Throttled::new(Arc::new(mapped), budget, 1e12, 0)))
        });
    }

    #[test]
    fn time_is_at_least_bytes_over_bandwidth_and_every_byte_is_counted() {
        let budget = Budget::unlimited();
        let tier = Throttled::new(ram(&budget, 4, 100 * KIB), &budget, 4e6, 0);
        let start = Instant::now();
        for i in 0..4 {
            assert!(tier.get(TensorId(i)).unwrap().iter().all(|&b| b == i as u8));
        }
        let least = (400 * KIB) as f64 / 4e6;
        assert!(start.elapsed().as_secs_f64() >= least, "{:?} {least}", start.elapsed());
        assert_eq!(tier.counters().bytes_streamed, 400 * KIB as u64);
    }

    #[test]
    fn a_prefetched_tensor_travels_while_the_caller_works() {
        let budget = Budget::unlimited();
        let tier = Throttled::new(ram(&budget, 1, 400 * KIB), &budget, 1e6, 0);
        tier.prefetch(TensorId(0)).unwrap();
        std::thread::sleep(Duration::from_millis(420)); // 410 ms on the link
        let start = Instant::now();
        tier.get(TensorId(0)).unwrap();
        assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
        assert_eq!(tier.counters().bytes_streamed, 400 * KIB as u64, "prefetch and get are one transfer");
    }

    #[test]
    fn tensors_in_flight_or_in_use_are_counted_and_refused_over_the_budget() {
        let weights = Budget::unlimited();
        let budget = Budget::new(250 * KIB);
        let tier = Throttled::new(ram(&weights, 4, 100 * KIB), &budget, 1e12, 0);
        let first = tier.get(TensorId(0)).unwrap();
        tier.prefetch(TensorId(1)).unwrap();
        assert_eq!(budget.held(), 200 * KIB);
        assert!(matches!(tier.get(TensorId(2)), Err(TierError::Budget(_))));
        drop(first);
        let second = tier.get(TensorId(1)).unwrap();
        assert!(tier.get(TensorId(2)).is_ok());
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_full_bucket_passes_at_once() {
        let budget = Budget::unlimited();
        let tier = Throttled::new(ram(&budget, 1, 100 * KIB), &budget, 1e3, 200 * KIB);
        let start = Instant::now();
        tier.get(TensorId(0)).unwrap(); // 102 s without the bucket
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
