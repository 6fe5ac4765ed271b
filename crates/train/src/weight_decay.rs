//! Weights with a decay of their own, by patterns of their names.

use crate::language::LanguageError;
use crate::recipe::Recipe;
use crate::trainer::Trainer;

/// Gives the weights of each group of the recipe their decay; the first group that names a weight counts.
///
/// # Errors
/// If a pattern names no weight.
pub(crate) fn set(trainer: &mut Trainer, recipe: &Recipe) -> Result<(), LanguageError> {
    let groups = &recipe.optimizer.groups;
    for (i, group) in groups.iter().enumerate() {
        if let Some(pattern) = group.weights.iter().find(|p| !trainer.parameters().any(|name| matches(p, name))) {
            let nearest = trainer.parameters().max_by(|a, b| likeness(pattern, a).total_cmp(&likeness(pattern, b)));
            let nearest = nearest.unwrap_or_default();
            let what = format!("optimizer.groups.{i}.weights: {pattern} names no weight; the nearest is {nearest}");
            return Err(LanguageError::Data { what });
        }
    }
    trainer.set_weight_decay(|name| {
        let group = groups.iter().find(|group| group.weights.iter().any(|pattern| matches(pattern, name)))?;
        Some(group.weight_decay)
    });
    Ok(())
}

fn likeness(pattern: &str, name: &str) -> f64 {
    strsim::jaro_winkler(pattern, name)
}

/// Whether a name is of a pattern, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            tail.char_indices().map(|(at, _)| at).chain([tail.len()]).any(|at| matches(rest, &tail[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, holds) in [
            ("*", "lm_head.weight", true),
            ("lm_head.weight", "lm_head.weight", true),
            ("lm_head", "lm_head.weight", false),
            ("model.layers.*.norm.weight", "model.layers.3.norm.weight", true),
            ("model.layers.*.norm.weight", "model.norm.weight", false),
            ("*norm*", "model.layers.0.input_layernorm.weight", true),
            ("*a*b", "xaxbxb", true),
            ("*a*b", "xaxbx", false),
        ] {
            assert_eq!(matches(pattern, name), holds, "{pattern} {name}");
        }
    }
}
