//! Plans under budgets: what is planned is what is taken, and a larger budget is never worse.

use std::path::PathBuf;
use std::sync::Arc;

use memwall_fit::{FitError, Quality, Speed, WeightFormat, WeightTier, Wish};
use memwall_formats::Mix;
use memwall_infer::{Behind, Engine, EngineOptions, InferError, MemoryPlan, Model};
use memwall_store::{Budget, Throttled, Tier};
use proptest::prelude::*;

/// The hybrid that ships: recurrent states and a cache. Once as a file, once as part of the program.
fn hybrid() -> Model {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf");
    Model::open(path).expect("the model that ships")
}

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../models/memwall-books.gguf"));

fn embedded() -> Model {
    Model::from_static("embedded.gguf", &EMBEDDED.0).expect("the model that ships")
}

const OTHER: usize = 1 << 20;

fn wish() -> Wish {
    Wish { context: None, needed: 20, threads: 2, weights: None, tier: None, kv: None, outputs: 1 }
}

/// The order of plans that a larger budget may not go down in.
fn rank(plan: &MemoryPlan) -> (Quality, usize) {
    (plan.quality(), plan.options.context)
}

#[test]
fn the_minimum_is_exact_and_what_is_taken_is_what_was_planned() -> Result<(), InferError> {
    let model = hybrid();
    let Err(FitError::Infeasible { plan, .. }) = MemoryPlan::choose(model.header(), &wish(), Some(0), OTHER) else {
        panic!("nothing fits nothing")
    };
    let minimum = plan.total_bytes();
    assert_eq!(minimum, MemoryPlan::least(model.header(), &wish(), OTHER)?.total_bytes());
    assert!(MemoryPlan::choose(model.header(), &wish(), Some(minimum - 1), OTHER).is_err());
    let tokens: Vec<u32> = (0..2000).map(|i| i * 7 % 300).collect();
    for extra in [0, 300_000, 700_000, 1 << 20, 3 << 20, 12 << 20, 64 << 20] {
        let limit = minimum + extra;
        let plan = MemoryPlan::choose(model.header(), &wish(), Some(limit), OTHER)?;
        assert!(plan.total_bytes() <= limit);
        let budget = Budget::new(limit);
        let _other = budget.take("other", OTHER)?;
        let mut engine = Engine::with_budget(&model, plan.options, &budget)?;
        let loaded = plan.total_bytes() - plan.kv_bytes - plan.staging_bytes;
        assert_eq!(budget.held(), loaded, "keys and values take nothing yet");
        let context = plan.options.context.min(tokens.len());
        engine.prefill(0, &tokens[..context / 2])?;
        let half = budget.held();
        engine.prefill(0, &tokens[context / 2..context])?;
        assert!(loaded < half && half <= budget.held(), "{loaded} {half} {}", budget.held());
        if context == plan.options.context {
            assert_eq!(budget.held(), plan.total_bytes() - plan.staging_bytes, "the context is full");
        }
        assert!(budget.report().peak <= plan.total_bytes());
        engine.clear(0)?;
        assert_eq!(budget.held(), loaded, "a cleared slot gives back");
        drop(engine);
        assert_eq!(budget.held(), OTHER);
    }
    let ample = MemoryPlan::choose(model.header(), &wish(), Some(minimum + (64 << 20)), OTHER)?;
    assert_eq!(ample.options.weights, WeightFormat::AsStored);
    assert_eq!(rank(&ample), (Quality::AsStored, model.checkpoint().config.max_context));
    assert_eq!(ample.options.step, 512);
    Ok(())
}

#[test]
fn a_budget_that_holds_no_plan_is_refused_before_anything_is_allocated() {
    let model = hybrid();
    let budget = Budget::new(3 << 20);
    let error = Engine::with_budget(&model, EngineOptions::default(), &budget).err().expect("refused").to_string();
    assert!(error.contains("minimum that would work"), "{error}");
    assert_eq!(budget.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// The law of the ladder, for any wish and any two budgets.
    #[test]
    fn a_larger_budget_lowers_neither_tier_nor_context_nor_speed(
        smaller in 0usize..24 << 20,
        more in 0usize..8 << 20,
        needed in 1usize..600,
        context in proptest::option::of(1usize..1500),
        weights in prop_oneof![Just(None), Just(Some(WeightFormat::AsStored)), Just(Some(WeightFormat::Mix(Mix::Q4_0)))],
    ) {
        let model = hybrid();
        let machine = memwall_fit::Machine::assumed(2, 20e9, 200e9);
        let wish = Wish { needed, context, weights, ..wish() };
        let choose = |limit| MemoryPlan::choose(model.header(), &wish, Some(limit), OTHER);
        let (small, large) = (choose(smaller), choose(smaller + more));
        let least = MemoryPlan::least(model.header(), &wish, OTHER)?.total_bytes();
        prop_assert_eq!(small.is_ok(), smaller >= least);
        prop_assert_eq!(large.is_ok(), smaller + more >= least);
        if let (Ok(small), Ok(large)) = (small, large) {
            prop_assert!(small.total_bytes() <= smaller);
            prop_assert!(rank(&large).0 >= rank(&small).0, "{:?} {:?}", small, large);
            prop_assert!(rank(&large).1 >= rank(&small).1, "{:?} {:?}", small, large);
            prop_assert!(context.is_some_and(|c| c == small.options.context) || small.options.context >= needed || context.is_some());
            // Where the user's own weight format decides the tier, wider keys and values come without a better one.
            if small.quality() == large.quality() && small.options.kv == large.options.kv {
                let speed = |plan: &MemoryPlan| Speed::predict(model.header(), &plan.options, &machine);
                let (a, b) = (speed(&small)?, speed(&large)?);
                prop_assert!(b.decode >= a.decode && b.prefill >= 0.999 * a.prefill, "{:?} {:?}", a, b);
            }
        }
    }
}

#[test]
fn the_tier_changes_no_bit_of_the_output() -> Result<(), InferError> {
    let tokens: Vec<u32> = (0..40).map(|i| i * 11 % 300).collect();
    for weights in [WeightFormat::AsStored, WeightFormat::Mix(Mix::Q4_K_M)] {
        let mut want: Option<Vec<u32>> = None;
        for model in [hybrid(), embedded()] {
            for tier in [WeightTier::Mapped, WeightTier::Ram] {
                for throttled in [false, true] {
                    let options = EngineOptions { weights, tier, context: 64, ..EngineOptions::default() };
                    let budget = Budget::unlimited();
                    let slow = |inner: Arc<dyn Tier>| -> Arc<dyn Tier> {
                        Arc::new(Throttled::new(inner, &budget, 1e9, 1 << 20))
                    };
                    let behind: Option<Behind<'_>> = throttled.then_some(&slow);
                    let mut engine = Engine::behind(&model, options, &budget, behind)?;
                    let got: Vec<u32> = engine.prefill(0, &tokens)?.iter().map(|x| x.to_bits()).collect();
                    assert_eq!(want.get_or_insert_with(|| got.clone()), &got, "{weights} {tier} {throttled}");
                }
            }
        }
    }
    Ok(())
}
