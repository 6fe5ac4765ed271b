//! A small recipe, a small text, and options for them.

use std::path::Path;

use memwall_formats::Dtype;
use memwall_store::Budget;
use memwall_train::Recipe;
use memwall_train::language::LanguageOptions;

const PAGE: &str = include_str!("../../../../docs/src/crates/train.md");

/// The recipe on the page of the crate.
pub fn example() -> Recipe {
    let begin = PAGE.find("```toml\n").expect("an example") + 8;
    let end = begin + PAGE[begin..].find("```").expect("its end");
    Recipe::parse(Path::new("train.md"), &PAGE[begin..end]).expect("the page's example is a recipe")
}

/// Text with something to learn: sentences of a small grammar.
pub fn text(sentences: usize) -> String {
    let (who, what, whom) =
        (["the cat", "a dog", "my friend"], ["sees", "likes", "follows"], ["the bird", "a fish", "us"]);
    let mut state = 12_345_u32;
    let mut pick = |of: [&'static str; 3]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        of[(state >> 16) as usize % 3]
    };
    (0..sentences).map(|_| format!("{} {} {}. ", pick(who), pick(what), pick(whom))).collect()
}

/// Options without a limit of memory.
pub fn options(data: &Path, out: &Path, threads: usize, resume: bool) -> LanguageOptions {
    LanguageOptions {
        data: data.into(),
        out: out.into(),
        threads,
        budget: Budget::unlimited(),
        resume,
        export: Some(Dtype::F32),
    }
}
