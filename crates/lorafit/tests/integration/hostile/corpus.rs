//! What fuzzing found, run on a stable compiler: of everything that adds coverage a little, and all that was mended.

use std::fs;
use std::path::Path;

use super::targets::TARGETS;

#[test]
fn the_corpora_of_the_fuzz_targets_are_read_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (name, target) in TARGETS {
        let files = fs::read_dir(folder.join(name)).expect("a corpus").map(|f| f.expect("a file").path());
        let mut count = 0;
        for path in files {
            // Where a panic is, the name of the file is printed before.
            println!("{}", path.display());
            target(&fs::read(&path).expect("readable"));
            count += 1;
        }
        assert!(count >= 10, "{name} has only {count} files");
    }
}

#[test]
fn every_target_has_a_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
    for (name, _) in TARGETS {
        let source = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect("a target");
        assert!(source.contains(&format!("lorafit_fuzz::{name}(data)")), "{name}");
    }
    let script = fs::read_to_string(folder.join("../scripts/fuzz.sh")).expect("a script");
    assert!(script.contains(&TARGETS.map(|(name, _)| name).join(" ")), "scripts/fuzz.sh runs other targets");
}
