//! Experts as folders have them: a tensor for each projection of each, or gate over up for all in one and down in another.

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use crate::config::{ChannelConfig, ModelConfig};

/// Puts the experts of all layers together; `parts` is what the family calls an expert's gate, up and down.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig, parts: [&str; 3]) -> Result<(), CheckpointError> {
    for (i, layer) in config.layers.iter().enumerate() {
        let ChannelConfig::Moe(moe) = &layer.channel else { continue };
        let (e, f, d) = (moe.experts, moe.hidden, config.d_model);
        let own = format!("model.layers.{i}.mlp.experts");
        let weight = |part: &str| format!("{own}.{part}_proj.weight");
        if let Some(both) = adapt.find(&format!("{own}.gate_up_proj"), &[e, 2 * f, d])? {
            let rows =
                |from: usize| (0..e).map(|i| (both.clone(), (2 * i * f + from)..(2 * i * f + from + f))).collect();
            adapt.put_rows(weight("gate"), vec![e, f, d], rows(0))?;
            adapt.put_rows(weight("up"), vec![e, f, d], rows(f))?;
            let down = adapt.require(&format!("{own}.down_proj"), &[e, d, f])?;
            adapt.tensors.insert(weight("down"), down);
            continue;
        }
        for (part, theirs, [n, k]) in [("gate", parts[0], [f, d]), ("up", parts[1], [f, d]), ("down", parts[2], [d, f])]
        {
            let tensors = (0..e).map(|i| adapt.require(&format!("{own}.{i}.{theirs}.weight"), &[n, k]));
            let rows = tensors.map(|t| Ok((t?, 0..n))).collect::<Result<_, CheckpointError>>()?;
            adapt.put_rows(weight(part), vec![e, n, k], rows)?;
        }
    }
    Ok(())
}
