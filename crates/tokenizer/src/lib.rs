//! Text to token ids and back, as the model sees them.
