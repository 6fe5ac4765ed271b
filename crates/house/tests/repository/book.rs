use super::{crates, read, root};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Every Markdown file under `folder`, relative to `base`.
fn pages(folder: &Path, base: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, base, found);
        } else if path.extension().is_some_and(|e| e == "md") {
            found.insert(path.strip_prefix(base).unwrap().to_owned());
        }
    }
}

/// The targets of `[text](target)` in a Markdown text, without code.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let prose = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    });
    let mut targets = Vec::new();
    for line in prose {
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            targets.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
    }
    targets
}

#[test]
fn the_summary_lists_every_page_once_and_no_other() {
    let src = root().join("docs/src");
    let mut found = BTreeSet::new();
    pages(&src, &src, &mut found);
    found.remove(Path::new("SUMMARY.md"));
    let listed = links(&read(&src.join("SUMMARY.md")));
    let set: BTreeSet<PathBuf> = listed.iter().map(PathBuf::from).collect();
    assert_eq!(set.len(), listed.len(), "docs/src/SUMMARY.md lists a page twice");
    let unlisted: Vec<_> = found.difference(&set).collect();
    let absent: Vec<_> = set.difference(&found).collect();
    assert!(unlisted.is_empty() && absent.is_empty(), "not in SUMMARY.md: {unlisted:?}; not there: {absent:?}");
}

#[test]
fn every_crate_has_a_page() {
    let missing: Vec<String> = crates()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !root().join(format!("docs/src/crates/{name}.md")).exists())
        .collect();
    assert!(missing.is_empty(), "docs/src/crates/ has no page for {missing:?}");
}

#[test]
fn every_link_inside_the_repository_leads_somewhere() {
    let root = root();
    let mut files = BTreeSet::new();
    pages(&root.join("docs/src"), &root, &mut files);
    for file in ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        files.insert(file.into());
    }
    for file in files {
        let folder = root.join(&file).parent().unwrap().to_owned();
        for target in links(&read(&root.join(&file))) {
            let path = target.split('#').next().unwrap();
            if !path.is_empty() && !path.contains("://") {
                assert!(folder.join(path).exists(), "{}: the link to {target} leads nowhere", file.display());
            }
        }
    }
}
