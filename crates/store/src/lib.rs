//! Where bytes live: a budget that everything is taken from, arenas and growing regions, and the tiers that hold weights.
//!
//! The story, from the outside in:
//! 1. A [`Budget`] is made from a limit ([`parse_size`], [`MachineMemory`]) and counts every large allocation by account.
//! 2. Weights sit on a [`Tier`]: read once into place ([`Ram`]), mapped from the file ([`Mapped`]), part of the program
//!    ([`Embedded`]), or behind a slow link ([`Throttled`]); whoever computes gets a [`Guard`] and cannot tell which.
//! 3. Activations live in one [`Arena`] of the planned size; caches and states in [`Reserved`] address space that grows.
//! 4. [`ProcessMemory`] reads what the operating system says about all of it, and [`laws`] holds every tier to it.
//!
//! Unsafe code is confined to the memory-mapping module ([`Mapped`], the private `pages`) and [`CountingAllocator`].

#[cfg(not(unix))]
compile_error!("memwall-store reserves address space with mmap and needs a Unix system (Linux or macOS)");

mod arena;
mod budget;
mod cgroup;
mod counting;
pub mod laws;
mod machine_memory;
mod pages;
mod process_memory;
mod reserved;
mod size;
mod tier;

pub use arena::{Arena, ArenaError};
pub use budget::{ACCOUNTS, AccountReport, Budget, BudgetError, BudgetReport, Reservation};
pub use counting::{CountingAllocator, count_this_thread};
pub use machine_memory::MachineMemory;
pub use pages::{committed_bytes, page_bytes, whole_pages};
pub use process_memory::{ProcessMemory, reset_peak};
pub use reserved::{Reserved, ReservedError};
pub use size::{SizeError, format_size, parse_size};
pub use tier::{Advice, Counters, Embedded, Extent, Extents, Guard, Mapped, Ram, TensorId, Throttled, Tier, TierError};
