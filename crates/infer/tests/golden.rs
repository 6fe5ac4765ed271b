//! Real tiny models against reference outputs, under every schedule.

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted, sample};
use serde_json::Value;

type Logits = Vec<(usize, Vec<(usize, f64)>)>;

struct Golden {
    model: Model,
    ids: Vec<u32>,
    logits: Logits,
}

fn golden(name: &str) -> Option<Golden> {
    let model = if name == "stories260K" { "stories260K-restored".to_string() } else { name.to_string() };
    let model = memwall_testdata::data(&format!("models-llama2c/{model}.bin"))?;
    let text =
        std::fs::read(memwall_testdata::data(&format!("models-llama2c/{name}-reference.json"))?).expect("readable");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let ids = json["ids_with_bos"].as_array().expect("ids").iter().map(|v| v.as_u64().expect("an id") as u32).collect();
    let at = |v: &Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let logits = json["logits_float64_reference"].as_object().expect("logits").iter();
    let logits = logits
        .map(|(position, v)| {
            let ids = at(v, "top8_ids").into_iter().map(|v| v.as_u64().expect("an id") as usize);
            let values = at(v, "top8_logits").into_iter().map(|v| v.as_f64().expect("a logit"));
            (position.parse().expect("a position"), ids.zip(values).collect())
        })
        .collect();
    Some(Golden { model: Model::open(model).expect("the model opens"), ids, logits })
}

fn options(kv: Dtype, context: usize) -> EngineOptions {
    EngineOptions { kv: KvFormat::both(kv), context, step: 64, outputs: 64, ..Default::default() }
}

#[test]
fn greedy_tokens_and_logits_equal_the_reference() -> Result<(), InferError> {
    for name in ["stories260K", "aidreams260K"] {
        let Some(golden) = golden(name) else { return Ok(()) };
        let context = golden.model.checkpoint().config.max_context;
        let mut engine = Engine::new(&golden.model, options(Dtype::F32, context))?;
        let (mut token, mut ids, mut worst) = (golden.ids[0], vec![golden.ids[0]], 0.0_f64);
        for position in 0..golden.ids.len() - 1 {
            let logits = engine.step(&[StepRows { slot: 0, tokens: &[token] }], Wanted::Last)?;
            for (_, top) in golden.logits.iter().filter(|(p, _)| *p == position) {
                for &(id, want) in top {
                    worst = worst.max((f64::from(logits[id]) - want).abs());
                }
            }
            token = sample::greedy(logits);
            ids.push(token);
        }
        assert_eq!(ids, golden.ids, "{name}");
        assert!(worst < 1e-4, "{name}: logits differ by {worst}");
    }
    Ok(())
}

#[test]
fn prefill_in_any_parts_alone_or_in_a_batch_on_any_threads_gives_the_same_bits() -> Result<(), InferError> {
    let Some(golden) = golden("stories260K") else { return Ok(()) };
    let prompt = &golden.ids[..150];
    let bits = |logits: &[f32]| -> Vec<u32> { logits.iter().map(|x| x.to_bits()).collect() };
    for kv in [Dtype::F32, Dtype::F16] {
        let mut want: Option<Vec<u32>> = None;
        for threads in [1, 2] {
            for step in [1, 7, 64, 512] {
                let o = EngineOptions { threads, step, slots: 5, outputs: 5, fences: step == 7, ..options(kv, 256) };
                let mut engine = Engine::new(&golden.model, o)?;
                let alone = bits(engine.prefill(0, prompt)?);
                assert_eq!(want.get_or_insert_with(|| alone.clone()), &alone, "{threads} threads, parts of {step}");
                if step < 5 {
                    continue;
                }
                // Beside four other sequences of other lengths, one token of each a step.
                let mut engine = Engine::new(&golden.model, o)?;
                let mut last = Vec::new();
                for t in 0..prompt.len() {
                    let batch: Vec<StepRows<'_>> = (0..5)
                        .filter(|slot| t >= slot * 11)
                        .map(|slot| StepRows { slot, tokens: &prompt[t - slot * 11..=t - slot * 11] })
                        .collect();
                    let vocab = 512;
                    last = bits(&engine.step(&batch, Wanted::Last)?[..vocab]);
                }
                assert_eq!(want.as_ref(), Some(&last), "{threads} threads, in a batch");
            }
        }
    }
    Ok(())
}

#[test]
fn requests_that_do_not_fit_are_refused_with_what_would() -> Result<(), InferError> {
    let Some(golden) = golden("stories260K") else { return Ok(()) };
    let mut engine = Engine::new(&golden.model, options(Dtype::F16, 8))?;
    let refused = |e: Result<&[f32], InferError>| e.expect_err("refused").to_string();
    assert!(refused(engine.step(&[StepRows { slot: 0, tokens: &[512] }], Wanted::Last)).contains("512"));
    assert!(refused(engine.step(&[StepRows { slot: 1, tokens: &[1] }], Wanted::Last)).contains("slot 1"));
    assert!(refused(engine.step(&[StepRows { slot: 0, tokens: &[1; 9] }], Wanted::Last)).contains("context of 8"));
    let error = Engine::new(&golden.model, options(Dtype::F16, 513)).err().expect("too long").to_string();
    assert!(error.contains("512"), "{error}");
    Ok(())
}
