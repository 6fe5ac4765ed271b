//! What a slot has seen can be forgotten, all of it or token by token.

use std::path::PathBuf;

use memwall_infer::{Engine, EngineOptions, InferError, Model};

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
    engine.clear(0)?;
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
