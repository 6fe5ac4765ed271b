//! The planner of choices: a model, a budget and a machine in; feasible choices with bytes, speed and quality out.
//!
//! The story, from the inside out:
//! 1. A [`Header`] is a model as its file describes it; no weight is read.
//! 2. [`step_graph`] builds the graph that will run under some [`EngineOptions`], and [`MemoryPlan`] reads its bytes off it:
//!    the same graph and the same plan that an engine then runs.
//! 3. [`MemoryPlan::choose`] climbs the ladder of choices ([`Wish`]) as far as a budget allows.
//! 4. A [`Machine`] is what this one does a second, measured; [`Speed`] is what a plan will do on it, and [`choices`] is the
//!    table that a user chooses from. Each choice has a [`Quality`], measured.

mod choices;
mod error;
mod header;
mod ladder;
mod machine;
mod memory_plan;
mod options;
mod placement;
mod quality;
mod speed;
mod step;

pub use choices::{Choice, choices};
pub use error::FitError;
pub use header::{Header, assign};
pub use ladder::{FLOOR, Wish};
pub use machine::Machine;
pub use memory_plan::{MemoryPlan, is_cache};
pub use options::{EngineOptions, WeightFormat, WeightTier};
pub use placement::{Placed, kept_extents, placements, rows_at_once};
pub use quality::Quality;
pub use speed::Speed;
pub use step::step_graph;
