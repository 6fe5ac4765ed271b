//! The systems that memwall implements, as `systems.toml` lists them.

use std::sync::LazyLock;

use serde::Deserialize;

/// One system.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    /// 1 to 54.
    pub number: u8,
    /// The name that `memwall reproduce` takes.
    pub name: String,
    /// The name as its authors write it.
    pub title: String,
    /// Crates and modules, without the folder `crates/`.
    pub home: String,
    /// The trait that it is behind.
    #[serde(rename = "trait")]
    pub behind: String,
    /// What its claim must show.
    pub claim: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Systems {
    system: Vec<System>,
}

static SYSTEMS: LazyLock<Vec<System>> = LazyLock::new(|| {
    let systems: Systems =
        toml::from_str(include_str!("../systems.toml")).expect("systems.toml is checked by this crate's tests");
    systems.system
});

/// All systems, by rising number.
pub fn systems() -> &'static [System] {
    &SYSTEMS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_are_numbered_one_to_fifty_four() {
        let numbers: Vec<u8> = systems().iter().map(|s| s.number).collect();
        assert_eq!(numbers, (1..=54).collect::<Vec<u8>>());
    }

    #[test]
    fn names_are_unique_and_fit_a_file_name_and_a_table() {
        let mut names: Vec<&str> = systems().iter().map(|s| s.name.as_str()).collect();
        for system in systems() {
            assert!(
                (system.name.chars()).all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                    && !system.name.starts_with(|c: char| c.is_ascii_digit()),
                "{}",
                system.name
            );
            for text in [&system.title, &system.home, &system.behind, &system.claim] {
                assert!(!text.is_empty() && !text.contains(['|', '\n']), "{text}");
            }
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 54);
    }
}
