//! What is asked and scored: data sets, generators, metrics.
