//! The shape of the workspace, as a test: dependencies point down, every crate says what it is, and only
//! the command line prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each of our crates may use. A new crate gets a line here, and a floor.
const MAY_USE: [(&str, &[&str]); 7] = [
    // no code
    ("features", &[]),
    // words that all floors use
    ("remedy", &[]),
    // floor 0
    ("kernels", &["features", "remedy"]),
    ("data", &["features", "remedy"]),
    // floor 1
    ("model", &["features", "remedy", "kernels"]),
    // floor 2
    ("train", &["features", "remedy", "kernels", "data", "model"]),
    // floor 3
    ("lorafit", &["remedy", "kernels", "data", "model", "train"]),
];

fn crates_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in crates/").to_path_buf()
}

/// Folder name of every crate with its parsed manifest.
fn manifests() -> BTreeMap<String, toml::Table> {
    let folders = fs::read_dir(crates_folder()).unwrap().map(|entry| entry.unwrap().path());
    folders
        .filter_map(|folder| {
            let text = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let manifest = text.parse().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            Some((name, manifest))
        })
        .collect()
}

/// Every dependency of a manifest, whatever the table: dependencies, dev-, build- and per target.
fn dependencies(table: &toml::Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (key, value) in table {
        let Some(inner) = value.as_table() else { continue };
        if key.ends_with("dependencies") {
            for (name, specification) in inner {
                let package = specification.get("package").and_then(toml::Value::as_str);
                found.insert(package.unwrap_or(name).to_owned());
            }
        } else if key == "target" || table.get("package").is_none() {
            found.extend(dependencies(inner));
        }
    }
    found
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_crate_has_its_floor() {
    let crates: BTreeSet<String> = manifests().into_keys().collect();
    let known: BTreeSet<String> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(crates, known, "the crates in crates/ and the table in this test differ");
}

#[test]
fn dependencies_point_down() {
    let manifests = manifests();
    for (name, allowed) in MAY_USE {
        for dependency in dependencies(&manifests[name]) {
            if let Some(ours) = dependency.strip_prefix("lorafit-") {
                assert!(allowed.contains(&ours), "crate {name} must not depend on {ours}");
            }
        }
    }
}

#[test]
fn dependency_tables_of_every_kind_are_seen() {
    let manifest = r#"
        [package]
        name = "x"
        [dependencies]
        a = "1"
        [dev-dependencies]
        renamed = { package = "b", version = "1" }
        [target.'cfg(unix)'.dependencies]
        c = "1"
    "#;
    let expected = ["a", "b", "c"].map(str::to_owned).into();
    assert_eq!(dependencies(&manifest.parse().unwrap()), expected);
}

#[test]
fn every_crate_says_what_it_is_for() {
    for (name, manifest) in manifests() {
        let source = crates_folder().join(&name).join("src");
        let root =
            ["lib.rs", "main.rs"].iter().map(|file| source.join(file)).find(|file| file.exists()).unwrap();
        let text = fs::read_to_string(&root).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with what it is for", root.display());
        let description = manifest["package"].get("description").and_then(toml::Value::as_str);
        assert!(description.is_some_and(|text| !text.is_empty()), "{name} has no description");
    }
}

#[test]
fn every_crate_takes_the_workspace_lints_and_licence() {
    for (name, manifest) in manifests() {
        for (table, key) in [("lints", "workspace"), ("package", "license")] {
            let inherited = match &manifest[table][key] {
                toml::Value::Boolean(inherited) => *inherited,
                value => value.get("workspace").and_then(toml::Value::as_bool) == Some(true),
            };
            assert!(inherited, "{name}: [{table}] {key} is not the workspace's");
        }
    }
}

/// Whether a file has tests, or what they share, alone.
fn is_of_tests(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with("tests.rs") || name == "testing.rs"
}

#[test]
fn only_the_command_line_prints() {
    for (name, _) in MAY_USE.iter().filter(|(name, _)| *name != "lorafit") {
        let mut files = Vec::new();
        rust_files(&crates_folder().join(name).join("src"), &mut files);
        for file in files.iter().filter(|file| !is_of_tests(file)) {
            let text = fs::read_to_string(file).unwrap();
            // Tests stand at the end of a file; what they print is theirs.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            for (index, line) in
                code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                let prints =
                    ["println!(", "print!(", "eprint!("].iter().any(|macro_name| line.contains(macro_name));
                assert!(!prints, "{} line {} prints: return it, or an error", file.display(), index + 1);
            }
        }
    }
}

/// The code of a file, without the tests at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned()
}

/// What an architecture is called stands in its own file: whoever compares names elsewhere has to be found again for the next
/// one.
#[test]
fn nothing_outside_of_arch_names_an_architecture() {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let arch = crates_folder().join("model/src/arch");
    for entry in fs::read_dir(&arch).unwrap() {
        let text = code(&entry.unwrap().path());
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("model_type: \"") {
                names.insert(name.trim_end_matches("\",").to_owned());
            }
        }
    }
    assert!(names.len() >= 15 && names.contains("llama"), "{names:?}");
    for name in ["model", "train", "lorafit"] {
        let mut files = Vec::new();
        rust_files(&crates_folder().join(name).join("src"), &mut files);
        for path in files.iter().filter(|path| !path.starts_with(&arch) && !path.ends_with("tests.rs")) {
            // What Ollama cannot do with an architecture is Ollama's, and a test has a model.
            let is_test = path.ends_with("export/ollama.rs")
                || path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("_tests.rs"))
                || path.components().any(|part| part.as_os_str() == "tests");
            let text = code(path);
            for family in names.iter().filter(|_| !is_test) {
                assert!(!text.contains(&format!("\"{family}\"")), "{} names {family}", path.display());
                assert!(!text.contains(&format!("Arch::{family}")), "{} names {family}", path.display());
            }
        }
    }
}

/// Which of the folders of the model crate use which: a folder is read without those above it.
#[test]
fn the_description_of_a_model_knows_no_weights_and_no_arithmetic() {
    let source = crates_folder().join("model/src");
    let uses = |folder: &str| {
        let (mut files, mut found) = (Vec::new(), BTreeSet::new());
        rust_files(&source.join(folder), &mut files);
        for path in files {
            let text = code(&path);
            for part in text.split("crate::").skip(1) {
                found.insert(
                    part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned(),
                );
            }
        }
        found
    };
    let (shape, arch) = (uses("shape"), uses("arch"));
    for above in
        ["block", "adapter", "load", "model", "gradients", "buffers", "activations", "export", "merge"]
    {
        assert!(!shape.contains(above) && !arch.contains(above), "{above}: {shape:?} {arch:?}");
    }
    // Adapters of a block are one of its inputs; that is all a block knows of them.
    let block = uses("block");
    for above in ["load", "model", "export", "merge", "source", "weights", "arch"] {
        assert!(!block.contains(above), "{above}: {block:?}");
    }
}

/// The guide to additions names places that are there.
#[test]
fn the_guide_to_additions_names_what_is_there() {
    let root = crates_folder().parent().unwrap().to_owned();
    let guide = fs::read_to_string(root.join("docs/extending.md")).unwrap();
    let paths: BTreeSet<&str> = guide
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|quoted| quoted.split([' ', '<']).next())
        .filter(|path| ["crates/", "scripts/", "docs/"].iter().any(|folder| path.starts_with(folder)))
        .collect();
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        assert!(root.join(path).exists(), "docs/extending.md: {path}");
    }
}
