//! What a slot has seen can be forgotten, all of it or token by token, and budgets are kept.

use std::path::PathBuf;

use memwall_infer::{Engine, EngineOptions, InferError, MemoryPlan, Model, Wish};
use memwall_store::Budget;

/// The hybrid that ships: recurrent states and a cache.
fn hybrid() -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf");
    Model::open(path).expect("the model that ships")
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

const ONE: [u32; 5] = [40, 41, 300, 7, 9];
const OTHER: [u32; 4] = [80, 3, 299, 12];

#[test]
fn a_cleared_slot_is_a_new_one_and_its_neighbour_stays() -> Result<(), InferError> {
    let model = hybrid();
    let options = EngineOptions { slots: 2, outputs: 2, step: 8, context: 64, ..EngineOptions::default() };
    let fresh = bits(Engine::new(&model, options)?.prefill(0, &OTHER)?);
    let mut engine = Engine::new(&model, options)?;
    engine.prefill(0, &ONE)?;
    engine.prefill(1, &OTHER[..3])?;
    engine.clear(0);
    assert_eq!(bits(engine.prefill(0, &OTHER)?), fresh, "cleared");
    assert_eq!(bits(engine.prefill(1, &OTHER[3..])?), fresh, "the neighbour");
    Ok(())
}

#[test]
fn recurrent_states_refuse_to_forget_one_token() -> Result<(), InferError> {
    let mut engine = Engine::new(&hybrid(), EngineOptions { context: 64, ..EngineOptions::default() })?;
    engine.prefill(0, &ONE)?;
    assert!(engine.rewind(0, ONE.len()) && !engine.rewind(0, 2));
    assert_eq!(engine.length(0), ONE.len());
    Ok(())
}

#[test]
fn attention_forgets_token_by_token() -> Result<(), InferError> {
    let Some(path) = memwall_testdata::data("models-llama2c/aidreams260K.bin") else { return Ok(()) };
    let model = Model::open(path)?;
    let options = EngineOptions { context: 64, ..EngineOptions::default() };
    let whole = [&ONE[..2], &OTHER[..]].concat();
    let fresh = bits(Engine::new(&model, options)?.prefill(0, &whole)?);
    let mut engine = Engine::new(&model, options)?;
    engine.prefill(0, &ONE)?;
    assert!(engine.rewind(0, 2));
    assert_eq!(bits(engine.prefill(0, &OTHER)?), fresh);
    Ok(())
}

#[test]
fn a_larger_budget_never_lowers_context_or_step_and_the_minimum_is_exact() -> Result<(), InferError> {
    let model = hybrid();
    let options = EngineOptions::default();
    let wish = Wish { context: None, needed: 20, threads: 2, kv: options.kv, outputs: 1 };
    let other = 1 << 20;
    let Err(InferError::Infeasible { plan, .. }) = MemoryPlan::choose(&model, &wish, Some(0), other) else {
        panic!("nothing fits nothing")
    };
    let minimum = plan.total_bytes();
    assert!(MemoryPlan::choose(&model, &wish, Some(minimum - 1), other).is_err());
    let (mut context, mut step) = (0, 0);
    for extra in [0, 10_000, 100_000, 300_000, 700_000, 1 << 20, 3 << 20, 6 << 20, 64 << 20] {
        let limit = minimum + extra;
        let plan = MemoryPlan::choose(&model, &wish, Some(limit), other)?;
        assert!(plan.total_bytes() <= limit && plan.options.context >= context && plan.options.step >= step);
        (context, step) = (plan.options.context, plan.options.step);
        let budget = Budget::new(limit);
        let _other = budget.take("other", other)?;
        let engine = Engine::with_budget(&model, plan.options, &budget)?;
        assert_eq!(budget.held(), plan.total_bytes(), "what is taken is what was planned");
        drop(engine);
        assert_eq!(budget.held(), other);
    }
    assert_eq!((context, step), (model.checkpoint().config.max_context, 512));
    Ok(())
}
