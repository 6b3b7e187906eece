//! The benchmarks: `cargo bench [-- documents|daemon|mover|kubernetes]`. They print ratios against other programs; see README.md.

mod daemon;
mod documents;
mod kubernetes;
mod measure;
mod mover;
mod running;

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
    // It needs a cluster to itself, so it is asked for by name.
    if chosen.iter().any(|choice| choice == "kubernetes") {
        kubernetes::bench();
    }
}
