//! `memwall simulate`: gates of multiply-accumulate units.

use crate::{json, refused};

#[test]
fn gates_are_those_of_the_parts_and_of_the_constants_given() {
    let line = json(&["simulate", "--machine", "mac-gates", "--json"]);
    let units = line["units"].as_array().unwrap();
    let unit = |operand: &str, accumulator: &str| {
        let of = units.iter().find(|u| u["operand"] == operand && u["accumulator"] == accumulator);
        of.unwrap_or_else(|| panic!("{operand} in {accumulator}"))
    };
    assert_eq!(units.len(), 13);
    for unit in units {
        let parts: f64 = unit["parts"].as_array().unwrap().iter().map(|p| p["gates"].as_f64().unwrap()).sum();
        assert!((parts - unit["gates"].as_f64().unwrap()).abs() < 1e-9, "{unit}");
    }
    assert_eq!(unit("INT8", "fixed")["gates"], 560.0);
    let ratio = |accumulator: &str| unit("E4M3", accumulator)["ratio_to_int8"].as_f64().unwrap();
    assert!(1.4 < ratio("FP16") && ratio("FP16") < ratio("fixed") && ratio("fixed") < ratio("FP32"));
    let dear = json(&["simulate", "--machine", "mac-gates", "--multiplexer", "30", "--json"]);
    assert!(dear["units"][1]["ratio_to_int8"].as_f64() > units[1]["ratio_to_int8"].as_f64());
    refused(&["simulate", "--machine", "mac-gates", "--adder-bit", "0"], &["adder_bit", "positive"]);
    refused(&["simulate", "--machine", "tpu"], &["tpu", "mac-gates"]);
}
