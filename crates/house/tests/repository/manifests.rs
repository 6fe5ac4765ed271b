use super::{crates, read, root};

#[test]
fn every_crate_is_dual_licensed_described_and_linted() {
    for (name, manifest) in crates() {
        let package = manifest["package"].as_table().unwrap();
        assert_eq!(
            package.get("name").and_then(|v| v.as_str()),
            Some(if name == "cli" { "memwall".to_owned() } else { format!("memwall-{name}") }.as_str()),
            "crates/{name}: its name"
        );
        for key in ["license", "version", "edition", "rust-version"] {
            let inherited = package.get(key).and_then(|v| v.get("workspace")).and_then(|v| v.as_bool());
            assert_eq!(inherited, Some(true), "crates/{name}: {key}.workspace = true");
        }
        assert!(package.get("description").is_some(), "crates/{name}: description");
        assert!(manifest.get("lints").is_some(), "crates/{name}: lints.workspace = true");
    }
}

#[test]
fn both_licences_are_in_the_root() {
    assert!(read(&root().join("LICENSE-MIT")).contains("Permission is hereby granted, free of charge"));
    assert!(read(&root().join("LICENSE-APACHE")).contains("Version 2.0, January 2004"));
}
