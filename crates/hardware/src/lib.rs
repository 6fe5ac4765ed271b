//! Machines as cost models.
//!
//! [`mac_gates`] counts the gates of a multiply-accumulate unit for numbers of eight bits.

pub mod mac_gates;
