//! How checkpoints pack queries and gates into the rows of one `q_proj`.
//!
//! The layouts differ as soon as a KV head serves several query heads, and a wrong one loads without complaint and gives
//! garbage. So the number of rows is checked, and a layout is named, never guessed. Source: "Gated Attention" (arXiv
//! 2505.06708), its official code, and Qwen3-Next.

use super::attention::{AttentionConfig, GatePosition, Granularity};
use crate::config::ConfigError;

/// The order of rows in a `q_proj` that holds gates too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateLayout {
    /// The official repository: for each KV head the queries of its H / G heads, then their gates.
    ByKvHead,
    /// Qwen3-Next: for each query head its query, then its gate.
    ByHead,
}

/// Where the rows of `q_proj` and `gate_proj` stand in the packed tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatedRows {
    /// Packed row of each row of `q_proj` [H · D].
    pub query: Vec<usize>,
    /// Packed row of each row of `gate_proj` `[H]` or `[H · D]`.
    pub gate: Vec<usize>,
}

impl GateLayout {
    /// The places of both projections in a packed tensor of `rows` rows.
    ///
    /// # Errors
    /// Heads that do not divide; a gate that is no function of the token for each head after attention; rows that are
    /// neither H · D + H (headwise) nor 2 · H · D (elementwise), as the granularity asks.
    pub fn rows(self, attention: &AttentionConfig, rows: usize) -> Result<GatedRows, ConfigError> {
        attention.check("attention")?;
        let gate = attention.gate.filter(|gate| {
            gate.position == GatePosition::AfterAttention && !gate.head_shared && !gate.input_independent
        });
        let Some(gate) = gate else {
            let problem = "q_proj holds gates of each head after attention, and of no other kind";
            return Err(ConfigError::at("attention.gate", problem));
        };
        let (heads, width) = (attention.heads, attention.head_dim);
        let gates = match gate.granularity {
            Granularity::Elementwise => width,
            Granularity::Headwise => 1,
        };
        let expected = heads * (width + gates);
        if rows != expected {
            let problem = format!(
                "has {rows} rows, {expected} are needed: {} of queries and {} of gates",
                heads * width,
                heads * gates
            );
            return Err(ConfigError::at("q_proj.weight", problem));
        }
        let together = match self {
            GateLayout::ByKvHead => heads / attention.kv_heads,
            GateLayout::ByHead => 1,
        };
        // Head h is number h % together of its group; a group has all its queries before all its gates.
        let start = |head: usize| head / together * together * (width + gates);
        let row_of = |head: usize, before: usize, each: usize| {
            let first = start(head) + before + head % together * each;
            first..first + each
        };
        Ok(GatedRows {
            query: (0..heads).flat_map(|head| row_of(head, 0, width)).collect(),
            gate: (0..heads).flat_map(|head| row_of(head, together * width, gates)).collect(),
        })
    }
}

impl Granularity {
    /// What the flags `headwise_attn_output_gate` and `elementwise_attn_output_gate` of a configuration ask for.
    ///
    /// # Errors
    /// Both at once.
    pub fn from_flags(headwise: bool, elementwise: bool) -> Result<Option<Granularity>, ConfigError> {
        match (headwise, elementwise) {
            (true, true) => {
                let problem = "is true, and elementwise_attn_output_gate too: a model has one of them";
                Err(ConfigError::at("headwise_attn_output_gate", problem))
            }
            (true, false) => Ok(Some(Granularity::Headwise)),
            (false, true) => Ok(Some(Granularity::Elementwise)),
            (false, false) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::GateConfig;
    use super::*;

    fn gated(heads: usize, kv_heads: usize, granularity: Granularity) -> AttentionConfig {
        let gate = Some(GateConfig { granularity, ..GateConfig::default() });
        AttentionConfig { gate, ..AttentionConfig::new(heads, kv_heads, 2) }
    }

    #[test]
    fn the_official_layout_groups_by_kv_head_and_the_other_by_query_head() {
        let rows = |layout: GateLayout, granularity, rows| layout.rows(&gated(4, 2, granularity), rows).unwrap();
        // Two KV heads of [query 0, query 1, gates]; four heads of [query, gates].
        let by_kv = rows(GateLayout::ByKvHead, Granularity::Headwise, 12);
        assert_eq!((by_kv.query, by_kv.gate), (vec![0, 1, 2, 3, 6, 7, 8, 9], vec![4, 5, 10, 11]));
        let by_head = rows(GateLayout::ByHead, Granularity::Headwise, 12);
        assert_eq!((by_head.query, by_head.gate), (vec![0, 1, 3, 4, 6, 7, 9, 10], vec![2, 5, 8, 11]));
        let by_kv = rows(GateLayout::ByKvHead, Granularity::Elementwise, 16);
        assert_eq!(by_kv.query, [0, 1, 2, 3, 8, 9, 10, 11]);
        assert_eq!(by_kv.gate, [4, 5, 6, 7, 12, 13, 14, 15]);
        let by_head = rows(GateLayout::ByHead, Granularity::Elementwise, 16);
        assert_eq!(by_head.query, [0, 1, 4, 5, 8, 9, 12, 13]);
        assert_eq!(by_head.gate, [2, 3, 6, 7, 10, 11, 14, 15]);
    }

    #[test]
    fn the_layouts_are_the_same_only_where_every_head_has_its_own_keys() {
        for granularity in [Granularity::Headwise, Granularity::Elementwise] {
            for (kv_heads, same) in [(4, true), (2, false), (1, false)] {
                let attention = gated(4, kv_heads, granularity);
                let rows = if granularity == Granularity::Headwise { 12 } else { 16 };
                let [a, b] = [GateLayout::ByKvHead, GateLayout::ByHead].map(|l| l.rows(&attention, rows).unwrap());
                assert_eq!(a == b, same, "{granularity:?}, {kv_heads} KV heads");
                for rows_of in [a, b] {
                    let mut all = [rows_of.query, rows_of.gate].concat();
                    all.sort_unstable();
                    assert_eq!(all, (0..rows).collect::<Vec<_>>(), "every packed row is used once");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_split_is_refused_by_name() {
        let refused = |attention: AttentionConfig, rows, what: &str| {
            let error = GateLayout::ByKvHead.rows(&attention, rows).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        refused(gated(4, 3, Granularity::Headwise), 12, "attention.heads: is 4, which is no multiple of kv_heads 3");
        refused(gated(4, 2, Granularity::Headwise), 16, "q_proj.weight: has 16 rows, 12 are needed");
        refused(gated(4, 2, Granularity::Elementwise), 12, "8 of queries and 8 of gates");
        refused(AttentionConfig::new(4, 2, 2), 8, "attention.gate: ");
        let shared = GateConfig { head_shared: true, ..GateConfig::default() };
        refused(AttentionConfig { gate: Some(shared), ..AttentionConfig::new(4, 2, 2) }, 16, "attention.gate: ");
        let both = Granularity::from_flags(true, true).unwrap_err().to_string();
        assert!(both.contains("headwise_attn_output_gate: is true, and elementwise_attn_output_gate too"), "{both}");
        assert_eq!(Granularity::from_flags(false, false), Ok(None));
        assert_eq!(Granularity::from_flags(true, false), Ok(Some(Granularity::Headwise)));
        assert_eq!(Granularity::from_flags(false, true), Ok(Some(Granularity::Elementwise)));
    }
}
