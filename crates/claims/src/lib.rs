//! One file a system: its claim as an experiment.
