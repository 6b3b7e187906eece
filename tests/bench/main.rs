//! The benchmarks: `cargo bench [-- documents|daemon|mover]`. They print ratios against other programs; see README.md.

mod daemon;
mod documents;
mod measure;
mod mover;

fn main() {
    // `cargo bench` itself passes `--bench`; everything else chooses a part.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == part);
    if wanted("documents") {
        documents::bench();
    }
    if wanted("daemon") {
        daemon::bench();
    }
    if wanted("mover") {
        mover::bench();
    }
}
