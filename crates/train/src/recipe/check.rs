//! What types cannot say of a recipe: ranges, and keys that need each other.

use memwall_nn::ModelConfig;

use super::Recipe;

/// A key and what is wrong with it.
type Wrong = (String, String);

fn wrong(key: &str, problem: impl Into<String>) -> Result<(), Wrong> {
    Err((key.into(), problem.into()))
}

fn number(key: &str, value: f64, range: &str, holds: bool) -> Result<(), Wrong> {
    if holds && value.is_finite() { Ok(()) } else { wrong(key, format!("is {value}; it should be {range}")) }
}

/// Names the first key that is wrong.
pub(super) fn check(recipe: &Recipe) -> Result<(), Wrong> {
    if let Some(model) = &recipe.model {
        model.check().map_err(|e| (format!("model.{}", e.key), e.problem))?;
    } else if recipe.from.is_none() {
        return wrong("model", "is missing; without `from` it says what to train");
    }
    if recipe.data.files.is_empty() {
        return wrong("data.files", "is empty, at least one text file is needed");
    }
    train(recipe)?;
    optimizer(recipe)?;
    distillation(recipe)?;
    quantization(recipe)?;
    sample(recipe)
}

fn train(recipe: &Recipe) -> Result<(), Wrong> {
    let t = &recipe.train;
    let counts = [
        ("train.batch", t.batch as u64),
        ("train.window", t.window as u64),
        ("train.accumulate", t.accumulate as u64),
        ("train.steps", t.steps),
    ];
    for (key, n) in counts {
        if n == 0 {
            return wrong(key, "is 0, at least 1 is needed");
        }
    }
    if let Some(model) = &recipe.model
        && t.window > model.max_context
    {
        return wrong("train.window", format!("is {}, but model.max_context is {}", t.window, model.max_context));
    }
    if let (Some(model), Some(recompute)) = (&recipe.model, t.recompute)
        && recompute > model.layers.len()
    {
        return wrong("train.recompute", format!("is {recompute}, but the model has {} blocks", model.layers.len()));
    }
    if t.warm_up > t.steps {
        return wrong("train.warm_up", format!("is {}, but train.steps is {}", t.warm_up, t.steps));
    }
    number("train.learning_rate", t.learning_rate, "a number above 0", t.learning_rate > 0.0)?;
    number("train.final_rate", t.final_rate, "a share from 0 to 1", (0.0..=1.0).contains(&t.final_rate))
}

fn optimizer(recipe: &Recipe) -> Result<(), Wrong> {
    let o = &recipe.optimizer;
    for (key, beta) in [("optimizer.beta1", o.beta1), ("optimizer.beta2", o.beta2)] {
        number(key, beta, "from 0, and below 1", (0.0..1.0).contains(&beta))?;
    }
    number("optimizer.eps", o.eps, "a number above 0", o.eps > 0.0)?;
    number("optimizer.weight_decay", o.weight_decay, "a number from 0 on", o.weight_decay >= 0.0)?;
    number("optimizer.clip", o.clip, "a norm above 0, or 0 for none", o.clip >= 0.0)?;
    for (i, group) in o.groups.iter().enumerate() {
        let key = format!("optimizer.groups.{i}.weight_decay");
        number(&key, group.weight_decay, "a number from 0 on", group.weight_decay >= 0.0)?;
        if group.weights.is_empty() {
            return wrong(&format!("optimizer.groups.{i}.weights"), "is empty, at least one name is needed");
        }
    }
    Ok(())
}

fn distillation(recipe: &Recipe) -> Result<(), Wrong> {
    let Some(d) = &recipe.distillation else { return Ok(()) };
    if d.top_k == 0 {
        return wrong("distillation.top_k", "is 0, at least 1 is needed");
    }
    if let Some(model) = recipe.model.as_ref().filter(|m| d.top_k > m.vocab_size) {
        return wrong("distillation.top_k", format!("is {}, but there are {} tokens", d.top_k, model.vocab_size));
    }
    number("distillation.temperature", d.temperature, "a number above 0", d.temperature > 0.0)?;
    number("distillation.weight", d.weight, "above 0 and at most 1", d.weight > 0.0 && d.weight <= 1.0)
}

fn quantization(recipe: &Recipe) -> Result<(), Wrong> {
    let Some(quantization) = &recipe.quantization else { return Ok(()) };
    quantization.check("quantization").map_err(|e| (e.key, e.problem))?;
    let Some(model) = &recipe.model else { return Ok(()) };
    if model.quantization.is_some() {
        return wrong("quantization", "is there twice, as model.quantization too; one of them is enough");
    }
    // The model says which layers have weights that are not rounded.
    let rounded = ModelConfig { quantization: Some(quantization.clone()), ..model.clone() };
    rounded.check().map_err(|e| (format!("model.{}", e.key), e.problem))
}

fn sample(recipe: &Recipe) -> Result<(), Wrong> {
    let Some(sample) = &recipe.sample else { return Ok(()) };
    if sample.every == 0 || sample.tokens == 0 {
        let key = if sample.every == 0 { "sample.every" } else { "sample.tokens" };
        return wrong(key, "is 0, at least 1 is needed");
    }
    if sample.prompt.is_empty() {
        return wrong("sample.prompt", "is empty; at least a character is needed to begin with");
    }
    let (t, p) = (sample.temperature, sample.top_p);
    number("sample.temperature", f64::from(t), "0 or more", t >= 0.0)?;
    number("sample.top_p", f64::from(p), "above 0 and at most 1", p > 0.0 && p <= 1.0)
}
