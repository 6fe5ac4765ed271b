//! Where bytes live: budget, arenas, tiers.
