//! Differentiation: adds the backward operators of a scalar to its graph, pruned to what is trained.

use std::collections::HashMap;

use crate::GraphError;
use crate::graph::{Graph, Phase, Source, Value};
use crate::op::{Alias, Backward, Gradient};
use crate::ops;

/// Adds to `g` the gradient of `loss` (one element) with respect to each of `wrt`.
///
/// Only operators on a path from `wrt` to `loss` get backward operators. `None` stands for a
/// gradient that is zero because there is no such path.
///
/// # Errors
/// If `loss` has more than one element, or an operator on the way refuses to be differentiated.
pub fn differentiate(g: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Option<Value>>, GraphError> {
    if g.shape(loss).elements().and_then(|d| d.known()) != Some(1) {
        return Err(g.refused("differentiate", format!("the loss has shape {}, one element is needed", g.shape(loss))));
    }
    g.enter_backward();
    let one = g.push1(ops::fill::Fill::new(g.ty(loss).clone(), 1.0), &[])?;
    pull_back(g, &[(loss, one)], wrt)
}

/// Adds to `g` the vector-Jacobian product: gradients of the values in `seeds`, pulled back to `wrt`.
///
/// # Errors
/// If an operator on the way refuses to be differentiated, or a seed has another shape than its value.
pub fn pull_back(g: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>, GraphError> {
    let forward = g.nodes().len();
    let mut needed = vec![false; g.value_count()];
    for &v in wrt {
        needed[v.index()] = true;
    }
    for node in g.nodes() {
        if node.inputs.iter().any(|v| needed[v.index()]) {
            for v in &node.outputs {
                needed[v.index()] = true;
            }
        }
    }
    g.enter_backward();
    let mut grads: HashMap<Value, Value> = HashMap::new();
    for &(value, seed) in seeds {
        if g.shape(value) != g.shape(seed) {
            return Err(g.refused("pull_back", format!("seed {} for a value {}", g.shape(seed), g.shape(value))));
        }
        let sum = match grads.get(&value) {
            None => seed,
            Some(&before) => ops::add(g, before, seed)?,
        };
        grads.insert(value, sum);
    }

    for i in (0..forward).rev() {
        let node = g.nodes()[i].clone();
        let of_outputs: Vec<Option<Value>> = node.outputs.iter().map(|v| grads.get(v).copied()).collect();
        let wanted: Vec<bool> = node.inputs.iter().map(|v| needed[v.index()]).collect();
        if of_outputs.iter().all(Option::is_none) || !wanted.contains(&true) {
            continue;
        }
        let made = g.as_part_of(&node, Phase::Backward, |g| -> Result<(), GraphError> {
            if let Gradient::Refused(why) = node.op.gradient() {
                return Err(g.no_gradient(node.op.name(), why));
            }
            if (0..node.outputs.len()).any(|o| matches!(node.op.alias(o), Some(Alias::Write { .. }))) {
                return Err(g.no_gradient(node.op.name(), "it writes a state in place, so its inputs are gone"));
            }
            let ctx = Backward { inputs: &node.inputs, outputs: &node.outputs, grads: &of_outputs, wanted: &wanted };
            let of_inputs = node.op.backward(g, &ctx)?;
            assert_eq!(of_inputs.len(), node.inputs.len(), "{} gives a gradient for each input", node.op.name());
            for ((&input, grad), &wanted) in node.inputs.iter().zip(of_inputs).zip(&wanted) {
                let (Some(grad), true) = (grad, wanted) else { continue };
                let (want, got) = (g.shape(input), g.shape(grad));
                if want != got {
                    let what = format!("its gradient has shape {got}, but its input {want}");
                    return Err(g.refused(node.op.name(), what));
                }
                let sum = match grads.get(&input) {
                    None => grad,
                    Some(&before) => ops::add(g, before, grad)?,
                };
                grads.insert(input, sum);
            }
            Ok(())
        });
        made?;
    }
    Ok(wrt.iter().map(|v| grads.get(v).copied()).collect())
}

/// The weights of `g`, in the order of their first use.
pub fn weights(g: &Graph) -> Vec<Value> {
    g.values().filter(|(_, info)| matches!(info.source, Source::Weight)).map(|(v, _)| v).collect()
}
