use super::crates;

/// The house: a crate may use only crates on floors below its own.
const FLOORS: &[(&str, u8)] = &[
    ("cli", 9),
    ("claims", 8),
    ("serve", 8),
    ("train", 7),
    ("agent", 7),
    ("quantize", 7),
    ("infer", 6),
    ("fit", 5),
    ("nn", 4),
    ("cache", 3),
    ("hardware", 3),
    ("tasks", 3),
    ("graph", 2),
    ("kernels", 1),
    ("store", 1),
    ("tokenizer", 1),
    ("formats", 0),
];

/// For tests only; any crate may use them there, and nowhere else.
const FOR_TESTS: &[&str] = &["testdata", "house"];

fn floor(name: &str) -> Option<u8> {
    FLOORS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, floor)| *floor)
}

fn own_dependencies(manifest: &toml::Table, section: &str) -> Vec<String> {
    let names = manifest.get(section).and_then(|s| s.as_table()).into_iter().flat_map(|s| s.keys());
    names.filter_map(|name| name.strip_prefix("memwall-")).map(str::to_owned).collect()
}

#[test]
fn a_crate_uses_only_crates_on_lower_floors() {
    for (name, manifest) in crates() {
        if FOR_TESTS.contains(&name.as_str()) {
            continue;
        }
        let own = floor(&name).unwrap_or_else(|| panic!("crates/{name} has no floor"));
        for used in own_dependencies(&manifest, "dependencies") {
            let below = floor(&used).is_some_and(|floor| floor < own);
            assert!(below, "crates/{name} on floor {own} uses {used}, which is not below it");
        }
    }
}

/// A dev-dependency may look sideways, never up: a test of a lower floor that needs a higher one is a test of the higher.
#[test]
fn a_test_uses_only_crates_on_its_own_floor_or_below() {
    for (name, manifest) in crates() {
        let Some(own) = floor(&name) else { continue };
        for used in own_dependencies(&manifest, "dev-dependencies") {
            let allowed = FOR_TESTS.contains(&used.as_str()) || floor(&used).is_some_and(|floor| floor <= own);
            assert!(allowed, "the tests of crates/{name} on floor {own} use {used}, which is above it");
        }
    }
}
