//! Real tiny models against reference outputs.

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
