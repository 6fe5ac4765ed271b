//! The budget: every large allocation is taken from it by name before it is made, and given back when dropped.

use crate::process_memory::ProcessMemory;
use crate::size::format_size;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The accounts that every report shows, in this order; others may be opened by name.
pub const ACCOUNTS: [&str; 6] = ["weights", "kv", "state", "arena", "io", "other"];

/// A handle on a limit in bytes and its accounts; clones share both.
#[derive(Clone)]
pub struct Budget {
    ledger: Arc<Ledger>,
}

struct Ledger {
    limit: Option<usize>,
    books: Mutex<Books>,
}

struct Books {
    accounts: Vec<AccountReport>,
    total: usize,
    peak: usize,
}

/// What one account holds, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountReport {
    /// The account's name.
    pub name: &'static str,
    /// Held now.
    pub bytes: usize,
    /// The most held at once.
    pub peak: usize,
}

/// What a budget holds, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetReport {
    /// The limit, or `None` without one.
    pub limit: Option<usize>,
    /// Held now, all accounts together.
    pub total: usize,
    /// The most held at once, all accounts together.
    pub peak: usize,
    /// Each account: weights, kv, state, arena, io, other, then those opened by name.
    pub accounts: Vec<AccountReport>,
}

/// A refusal: nothing was allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetError {
    /// The account that asked.
    pub account: &'static str,
    /// Bytes asked for, beyond what was held.
    pub asked: usize,
    /// Bytes that were left.
    pub left: usize,
    /// The smallest limit under which this request would have been granted.
    pub minimum: usize,
    /// What was held where when it was refused.
    pub report: Box<BudgetReport>,
}

impl fmt::Display for BudgetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.report.limit.map_or("no limit".to_string(), format_size);
        write!(
            f,
            "{} needs {} ({} bytes) but {} of the budget of {limit} are left; held: ",
            self.account,
            format_size(self.asked),
            self.asked,
            format_size(self.left)
        )?;
        let mut held = self.report.accounts.iter().filter(|a| a.bytes > 0).peekable();
        if held.peek().is_none() {
            write!(f, "nothing")?;
        }
        for (i, account) in held.enumerate() {
            write!(f, "{}{} {}", if i > 0 { ", " } else { "" }, account.name, format_size(account.bytes))?;
        }
        write!(f, "; the minimum that would work is {} ({} bytes)", format_size(self.minimum), self.minimum)
    }
}

impl std::error::Error for BudgetError {}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report().fmt(f)
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Budget {
        Budget::with(Some(limit))
    }

    /// A budget that counts and never refuses.
    pub fn unlimited() -> Budget {
        Budget::with(None)
    }

    fn with(limit: Option<usize>) -> Budget {
        let accounts = ACCOUNTS.iter().map(|&name| AccountReport { name, bytes: 0, peak: 0 }).collect();
        Budget { ledger: Arc::new(Ledger { limit, books: Mutex::new(Books { accounts, total: 0, peak: 0 }) }) }
    }

    /// The limit in bytes, or `None`.
    pub fn limit(&self) -> Option<usize> {
        self.ledger.limit
    }

    /// Bytes held now, all accounts together.
    pub fn held(&self) -> usize {
        self.ledger.books().total
    }

    /// Bytes left, or `None` without a limit.
    pub fn left(&self) -> Option<usize> {
        self.limit().map(|limit| limit.saturating_sub(self.held()))
    }

    /// Takes `bytes` for `account` until the reservation is dropped; call before allocating.
    ///
    /// # Errors
    /// When fewer bytes are left; nothing changes then.
    pub fn take(&self, account: &'static str, bytes: usize) -> Result<Reservation, BudgetError> {
        self.ledger.add(account, bytes)?;
        Ok(Reservation { ledger: Arc::clone(&self.ledger), account, bytes })
    }

    /// Takes the process's own memory for the account `other`: its resident set now, less what the budget holds already.
    ///
    /// # Errors
    /// [`io::ErrorKind::QuotaExceeded`] when the process alone is over the limit; otherwise when the operating system does
    /// not tell the resident set.
    pub fn take_baseline(&self) -> io::Result<Reservation> {
        let resident = ProcessMemory::read()?.rss;
        let baseline = resident.saturating_sub(self.held());
        self.take("other", baseline).map_err(|error| io::Error::new(io::ErrorKind::QuotaExceeded, error))
    }

    /// What is held where.
    pub fn report(&self) -> BudgetReport {
        self.ledger.report(&self.ledger.books())
    }
}

impl fmt::Display for BudgetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for account in self.accounts.iter().filter(|a| a.peak > 0) {
            writeln!(f, "{:8} {:>10} (peak {})", account.name, format_size(account.bytes), format_size(account.peak))?;
        }
        let limit = self.limit.map_or("no limit".to_string(), |limit| format!("of {}", format_size(limit)));
        write!(f, "{:8} {:>10} (peak {}), {limit}", "total", format_size(self.total), format_size(self.peak))
    }
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        // Books are changed by plain arithmetic only, so a panic elsewhere leaves them whole.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, books: &Books) -> BudgetReport {
        BudgetReport { limit: self.limit, total: books.total, peak: books.peak, accounts: books.accounts.clone() }
    }

    fn add(&self, account: &'static str, bytes: usize) -> Result<(), BudgetError> {
        let mut books = self.books();
        let wanted = books.total.checked_add(bytes);
        let total = match wanted {
            Some(total) if self.limit.is_none_or(|limit| total <= limit) => total,
            _ => {
                let left = self.limit.unwrap_or(usize::MAX).saturating_sub(books.total);
                let minimum = books.total.saturating_add(bytes);
                return Err(BudgetError {
                    account,
                    asked: bytes,
                    left,
                    minimum,
                    report: Box::new(self.report(&books)),
                });
            }
        };
        books.total = total;
        books.peak = books.peak.max(total);
        let index = books.accounts.iter().position(|a| a.name == account).unwrap_or_else(|| {
            books.accounts.push(AccountReport { name: account, bytes: 0, peak: 0 });
            books.accounts.len() - 1
        });
        let held = &mut books.accounts[index];
        held.bytes += bytes;
        held.peak = held.peak.max(held.bytes);
        Ok(())
    }

    fn subtract(&self, account: &'static str, bytes: usize) {
        let mut books = self.books();
        books.total -= bytes;
        if let Some(held) = books.accounts.iter_mut().find(|a| a.name == account) {
            held.bytes -= bytes;
        }
    }
}

/// Bytes taken from a budget; dropping it gives them back.
#[must_use = "dropping a reservation gives its bytes back at once"]
pub struct Reservation {
    ledger: Arc<Ledger>,
    account: &'static str,
    bytes: usize,
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account they are counted under.
    pub fn account(&self) -> &'static str {
        self.account
    }

    /// Changes the reservation to `bytes`: take before growing an allocation, give back after shrinking it.
    ///
    /// # Errors
    /// When it grows by more than is left; nothing changes then.
    pub fn resize(&mut self, bytes: usize) -> Result<(), BudgetError> {
        if bytes > self.bytes {
            self.ledger.add(self.account, bytes - self.bytes)?;
        } else {
            self.ledger.subtract(self.account, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.subtract(self.account, self.bytes);
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("account", &self.account).field("bytes", &self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_refusal_says_what_was_asked_what_is_left_and_what_would_work() {
        let budget = Budget::new(100 << 20);
        let _weights = budget.take("weights", 60 << 20).unwrap();
        let _kv = budget.take("kv", 10 << 20).unwrap();
        let error = budget.take("arena", 40 << 20).unwrap_err();
        assert_eq!((error.account, error.asked, error.left, error.minimum), ("arena", 40 << 20, 30 << 20, 110 << 20));
        let shown = error.to_string();
        for part in [
            "arena needs 40MiB",
            "30MiB of the budget of 100MiB",
            "weights 60MiB, kv 10MiB",
            "minimum that would work is 110MiB",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(budget.held(), 70 << 20, "a refusal changes nothing");
        assert!(Budget::new(error.minimum).take("x", error.minimum).is_ok());
    }

    #[test]
    fn the_minimum_of_a_refusal_is_exact() {
        let take_both = |limit| {
            let budget = Budget::new(limit);
            let _first = budget.take("weights", 1000)?;
            budget.take("arena", 234).map(drop)
        };
        let minimum = take_both(1100).unwrap_err().minimum;
        assert!(take_both(minimum).is_ok());
        assert!(take_both(minimum - 1).is_err());
    }

    #[test]
    fn overflowing_requests_are_refused_even_without_a_limit() {
        let budget = Budget::unlimited();
        let _some = budget.take("weights", 10).unwrap();
        assert!(budget.take("weights", usize::MAX).is_err());
    }

    #[test]
    fn dropping_and_shrinking_give_back_and_peaks_stay() {
        let budget = Budget::new(1000);
        let mut kv = budget.take("kv", 100).unwrap();
        kv.resize(700).unwrap();
        assert!(kv.resize(1001).is_err());
        assert_eq!(kv.bytes(), 700);
        kv.resize(50).unwrap();
        drop(kv);
        let report = budget.report();
        assert_eq!((report.total, report.peak), (0, 700));
        let kv = report.accounts.iter().find(|a| a.name == "kv").unwrap();
        assert_eq!((kv.bytes, kv.peak), (0, 700));
    }

    #[test]
    fn threads_never_pass_the_limit_together() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        if let Ok(taken) = budget.take("io", 300) {
                            assert!(budget.held() <= 1000);
                            drop(taken);
                        }
                    }
                });
            }
        });
        let report = budget.report();
        assert_eq!(report.total, 0);
        assert!(report.peak <= 900);
    }

    proptest! {
        #[test]
        fn held_is_the_sum_of_reservations(steps in proptest::collection::vec((0usize..6, 0usize..4000), 1..60)) {
            let budget = Budget::new(10_000);
            let mut held: Vec<Reservation> = Vec::new();
            for (account, bytes) in steps {
                match held.iter_mut().find(|r| r.account() == ACCOUNTS[account]) {
                    Some(reservation) => { let _ = reservation.resize(bytes); }
                    None => if let Ok(reservation) = budget.take(ACCOUNTS[account], bytes) { held.push(reservation) },
                }
                let sum: usize = held.iter().map(Reservation::bytes).sum();
                let report = budget.report();
                prop_assert_eq!(report.total, sum);
                prop_assert_eq!(report.accounts.iter().map(|a| a.bytes).sum::<usize>(), sum);
                prop_assert!(report.total <= 10_000);
            }
        }
    }
}
