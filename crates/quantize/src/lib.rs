//! Which code each weight gets: calibration, methods over number formats, plans under a number of bytes.
//!
//! A [`Calibration`] runs a model over a text, block by block, and gives the [`InputStatistics`] of its linear layers. A
//! [`Method`] makes of them, and of any number format, an encoder of a weight's rows. A [`Measurement`] says what each format
//! of each weight costs the model, and a [`Front`] of such choices is the best plan of every size. A [`Transform`] goes before all
//! that: the same function with weights that lose less.
//!
//! ```
//! use memwall_formats::{Dtype, format};
//! use memwall_kernels::Pool;
//! use memwall_quantize::{Inputs, method, rows};
//!
//! // One row of a layer whose first inputs are large.
//! let weights: Vec<f32> = (0..32).map(|i| (i as f32 * 0.7).sin()).collect();
//! let mean_squares: Vec<f32> = (0..32).map(|i| if i < 8 { 100.0 } else { 1.0 }).collect();
//! let error = |name| {
//!     let inputs = Inputs { mean_squares: &mean_squares, moments: None };
//!     let encoder = method(name).unwrap().encoder(format(Dtype::Q4_0), inputs, &Pool::new(1)).unwrap();
//!     let bytes = rows::encode(&*encoder, Dtype::Q4_0, 32, &weights, 1).unwrap();
//!     let mut stored = vec![0.0; 32];
//!     format(Dtype::Q4_0).decode(32, &bytes, &mut stored).unwrap();
//!     (0..32).map(|i| mean_squares[i] * (weights[i] - stored[i]).powi(2)).sum::<f32>()
//! };
//! assert!(error("importance") < error("nearest"));
//! ```

mod block_search;
mod calibrate;
mod cholesky;
mod error;
mod importance_matrix;
mod key_order;
mod levels;
mod methods;
mod plan;
pub mod plot;
mod rope_scaling;
pub mod rows;
mod sensitivity;
mod statistics;
mod transforms;

pub use block_search::BlockSearch;
pub use calibrate::{Calibration, CalibrationText};
pub use error::QuantizeError;
pub use importance_matrix::ImportanceMatrix;
pub use key_order::{KeyOrder, KeyOrderError};
pub use levels::{Bounds, Levels};
pub use methods::{Clip, Gptq, Importance, Inputs, Method, Nearest, Row, RowEncoder, Scales, method, methods};
pub use plan::{Choice, Front, MOST_STATES, Plan};
pub use rope_scaling::{KeyMaxima, RopeScaling, RopeScalingError, RopeScalingOptions};
pub use sensitivity::{Measurement, Sensitivity};
pub use statistics::{Collect, InputStatistics};
pub use transforms::{
    ActivationAware, ChannelScale, Edit, Rewrite, RotateHeads, RotateResidual, Smooth, Subject, Transform,
    logits_difference, transform, transforms,
};

/// Which of some names is meant, and all there are.
fn nearest_name(given: &str, names: &[&str]) -> String {
    let alike = |name: &&&str| strsim::jaro_winkler(name, &given.to_ascii_lowercase());
    let nearest = names.iter().rev().max_by(|a, b| alike(a).total_cmp(&alike(b))).copied().unwrap_or_default();
    format!("did you mean {nearest}? There are {}", names.join(", "))
}
