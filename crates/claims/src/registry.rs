//! Which claims there are, and how a user names one.

use crate::{
    Claim, Error,
    block_quantization::BlockQuantization,
    bmojo::Bmojo,
    fireq::FireQ,
    flashattention::FlashAttention,
    fp6::Fp6,
    fp8_vs_int8::Fp8VersusInt8,
    gated_associative::GatedAssociativeMemory,
    gated_attention::GatedAttention,
    gated_kalmanet::GatedKalmanet,
    gated_linear_attention::GatedLinearAttention,
    hybrid_gated_flow::HybridGatedFlow,
    int_vs_fp::IntVersusFp,
    lfm2::Lfm2,
    sambay::SambaY,
    selectivity::SelectivBench,
    systems::{System, systems},
    zoology::Zoology,
};

/// Every claim, by rising number. A new claim is one file and one line here.
static CLAIMS: &[&dyn Claim] = &[
    &HybridGatedFlow,
    &SambaY,
    &Bmojo,
    &GatedAttention,
    &BlockQuantization,
    &Zoology,
    &FlashAttention,
    &GatedAssociativeMemory,
    &GatedLinearAttention,
    &Fp8VersusInt8,
    &Fp6,
    &GatedKalmanet,
    &Lfm2,
    &IntVersusFp,
    &FireQ,
    &SelectivBench,
];

/// Every claim, by rising number.
pub fn claims() -> &'static [&'static dyn Claim] {
    CLAIMS
}

/// The claim of a system, by its name or number (`gated-attention`, `6`, `06`).
///
/// # Errors
/// [`Error::UnknownSystem`] with the nearest name; [`Error::NotYet`] for a system without a claim.
pub fn find(name_or_number: &str) -> Result<&'static dyn Claim, Error> {
    let system = find_system(name_or_number)?;
    let claim = claims().iter().find(|c| c.about().system == system.number);
    claim.copied().ok_or_else(|| Error::NotYet { number: system.number, name: system.name.clone(), written: written() })
}

fn written() -> String {
    let names: Vec<String> = claims().iter().map(|c| format!("{:02} {}", c.about().system, c.about().name)).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn find_system(given: &str) -> Result<&'static System, Error> {
    let wanted = given.trim().to_ascii_lowercase().replace('_', "-");
    let number = wanted.parse::<u8>().ok();
    let found = systems().iter().find(|s| s.name == wanted || Some(s.number) == number);
    found.ok_or_else(|| {
        let likeness = |s: &&System| (strsim::jaro_winkler(&s.name, &wanted) * 1e6) as u64;
        let nearest = match number {
            Some(_) => "1 to 54".to_owned(),
            None => {
                systems().iter().max_by_key(likeness).map_or_else(String::new, |s| format!("{} ({})", s.name, s.number))
            }
        };
        Error::UnknownSystem { given: given.to_owned(), nearest }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_is_found_by_name_and_by_number() {
        for given in ["6", "06", "gated-attention", "Gated_Attention"] {
            assert_eq!(find_system(given).unwrap().number, 6, "{given}");
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let message = find_system("gated-kalmnet").unwrap_err().to_string();
        assert!(message.contains("gated-kalmanet (28)"), "{message}");
        let message = find_system("55").unwrap_err().to_string();
        assert!(message.contains("1 to 54"), "{message}");
    }

    #[test]
    fn a_system_without_a_claim_says_so() {
        let missing = systems().iter().find(|s| claims().iter().all(|c| c.about().system != s.number));
        if let Some(system) = missing {
            assert!(matches!(find(&system.name), Err(Error::NotYet { .. })));
        }
    }
}
