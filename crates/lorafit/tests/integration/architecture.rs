//! The shape of the workspace, as a test: dependencies point down, every crate says what it is, and only
//! the command line prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each of our crates may use. A new crate gets a line here, and a floor.
const MAY_USE: [(&str, &[&str]); 10] = [
    // no code
    ("features", &[]),
    // words that all floors use
    ("remedy", &["features"]),
    // floor 0
    ("kernels", &["features", "remedy"]),
    ("data", &["features", "remedy"]),
    // floor 1
    ("model", &["features", "remedy", "kernels"]),
    // floor 2
    ("train", &["features", "remedy", "kernels", "data", "model"]),
    ("serve", &["features", "remedy", "kernels", "data", "model"]),
    // floor 3
    ("mpi", &["features", "train"]),
    // floor 4
    ("lorafit", &["remedy", "kernels", "data", "model", "train", "serve", "mpi"]),
    // floor 5
    ("python", &["lorafit"]),
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
    for above in ["block", "adapter", "load", "model", "gradients", "buffers", "export", "merge", "weights"] {
        assert!(!shape.contains(above) && !arch.contains(above), "{above}: {shape:?} {arch:?}");
    }
    // Adapters of a block are one of its inputs; that is all a block knows of them.
    let block = uses("block");
    for above in ["load", "model", "export", "merge", "source", "weights", "arch"] {
        assert!(!block.contains(above), "{above}: {block:?}");
    }
}

/// The crates whose modules use each other in one direction only.
const WITHOUT_CIRCLES: [&str; 4] = ["model", "train", "serve", "lorafit"];

/// What uses what: a module directly below the crate's root, a folder or a file, with those that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// A circle of modules, each using the next and the last the first.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    fn visit(module: &str, uses: &Uses, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(first) = path.iter().position(|above| above == module) {
            path.drain(..first);
            return true;
        }
        if done.contains(module) {
            return false;
        }
        path.push(module.to_owned());
        for used in uses.get(module).into_iter().flatten() {
            if visit(used, uses, path, done) {
                return true;
            }
        }
        path.pop();
        done.insert(module.to_owned());
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    uses.keys().any(|module| visit(module, uses, &mut path, &mut done)).then_some(path)
}

/// Code without comments and without texts, in which a name would be no use of it.
fn without_comments(code: &str) -> String {
    let lines = code.lines().map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap_or_default(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The items of what stands behind a path: `a::b` of `a::b;`, `a::b` and `c` of `{a::b, c}`.
fn items(behind: &str) -> Vec<String> {
    let Some(list) = behind.strip_prefix('{') else {
        let is_part = |c: &char| c.is_alphanumeric() || "_:{".contains(*c);
        return vec![behind.chars().take_while(is_part).collect()];
    };
    let (mut items, mut depth) = (vec![String::new()], 0);
    for c in list.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// What the `pub use` lines of a crate's root give names to, with the module that each comes from.
fn named_at_root(root: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for part in root.split("pub use ").skip(1) {
        let path = part.split(';').next().unwrap_or_default();
        let Some((module, names)) = path.split_once("::") else { continue };
        for item in items(names) {
            // What it is called here: the last part of its path, or what stands after `as`.
            let name = item.rsplit([':', ' ']).next().unwrap_or_default();
            found.insert(name.to_owned(), module.to_owned());
        }
    }
    found
}

/// The names below the crate's root that the code of a module uses. `depth` is the module's: 1 of a file or folder directly
/// below the root.
fn used_below_root(code: &str, depth: usize) -> BTreeSet<String> {
    let code = without_comments(code);
    let is_path = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    let mut found = BTreeSet::new();
    for start in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&start).filter(|(at, _)| is_path(*at)) {
            let first = |item: String| {
                item.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned()
            };
            found.extend(items(&code[at + start.len()..]).into_iter().map(first));
        }
    }
    found
}

/// How the modules directly below the root of the crate in `source` use each other.
fn uses(source: &Path) -> Uses {
    let root = ["lib.rs", "main.rs"].map(|name| source.join(name));
    let named = named_at_root(&without_comments(&code(
        root.iter().find(|path| path.exists()).expect("every crate has a root"),
    )));
    let mut files = Vec::new();
    rust_files(source, &mut files);
    let of_root = |path: &PathBuf| root.contains(path) || path.ends_with("build.rs");
    let mut uses = Uses::new();
    for path in files.iter().filter(|path| !is_of_tests(path) && !of_root(path)) {
        let below = path.strip_prefix(source).expect("a file of the crate").with_extension("");
        let mut parts: Vec<String> =
            below.components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        let used = used_below_root(&code(path), parts.len());
        let module = uses.entry(parts[0].clone()).or_default();
        module.extend(used.into_iter().map(|name| named.get(&name).cloned().unwrap_or(name)));
    }
    for (module, used) in &mut uses {
        used.remove(module);
    }
    // What is no module is a macro or a word of the language.
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    uses.values_mut().for_each(|used| used.retain(|name| modules.contains(name)));
    uses
}

/// Whoever reads a folder or a file directly below a crate's root has what it uses below it, and nothing of that leads back.
/// Methods that a module adds to a type of another are not seen: only paths are.
#[test]
fn modules_use_each_other_in_one_direction() {
    for name in WITHOUT_CIRCLES {
        let uses = uses(&crates_folder().join(name).join("src"));
        assert!(uses.values().map(BTreeSet::len).sum::<usize>() > 15, "{name}: {uses:?}");
        if let Some(circle) = circle(&uses) {
            panic!(
                "crate {name}: these use each other in a circle: {} -> {}",
                circle.join(" -> "),
                circle[0]
            );
        }
        // A verb is asked for by the command line alone: what two verbs need is no verb's.
        let of_verbs = uses.iter().filter(|(_, used)| used.contains("command")).map(|(user, _)| &user[..]);
        assert_eq!(of_verbs.collect::<Vec<_>>(), if name == "lorafit" { vec!["cli"] } else { vec![] });
    }
}

#[test]
fn a_circle_is_found_and_what_leads_to_it_is_left_out() {
    let graph = |edges: &[(&str, &str)]| {
        let mut uses = Uses::new();
        for (from, to) in edges {
            uses.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        uses
    };
    let none = [("model", "block"), ("model", "shape"), ("block", "adapter"), ("adapter", "shape")];
    assert_eq!(circle(&graph(&none)), None);
    let planted = [("export", "model"), ("model", "block"), ("block", "adapter"), ("adapter", "model")];
    assert_eq!(circle(&graph(&planted)).unwrap(), ["adapter", "model", "block"]);
    let led_to = [("a", "b"), ("b", "c"), ("c", "b")];
    assert_eq!(circle(&graph(&led_to)).unwrap(), ["b", "c"]);
}

#[test]
fn uses_are_read_off_paths_of_every_form() {
    let code = "use crate::shape::{Config, Part};
        use crate::{error::FileError, files, weights::{Gguf, ModelFiles}};
        // crate::comment is none
        /// [`crate::link`] is none
        fn f() -> crate::Losses { other_crate::no(); super::near(); super::super::far::f() }";
    let found = |depth| used_below_root(code, depth);
    let always = ["Losses", "error", "files", "shape", "weights"];
    assert_eq!(found(2), always.into_iter().chain(["far"]).map(str::to_owned).collect());
    assert!(found(1).contains("near"));

    let root = "pub mod a;\npub use a::{B, c::D, G as H};\n#[cfg(x)]\npub use e::F;";
    let named: Vec<(String, String)> = named_at_root(root).into_iter().collect();
    let expected = [("B", "a"), ("D", "a"), ("F", "e"), ("H", "a")];
    assert_eq!(named, expected.map(|(name, module)| (name.to_owned(), module.to_owned())));

    // The two together, in files: a circle over a name of the root and one over `super`.
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("lib.rs", "mod low;\nmod high;\npub use high::High;");
    write("high.rs", "use crate::low::deep::f;");
    write("low/mod.rs", "pub mod deep;");
    write("low/deep.rs", "#[cfg(test)]\nmod tests { use crate::high::High; }");
    assert_eq!(circle(&uses(dir.path())), None);
    write("low/deep.rs", "fn f(_: crate::High) {}");
    assert_eq!(circle(&uses(dir.path())).unwrap(), ["high", "low"]);
    write("low/deep.rs", "use super::super::high;");
    assert_eq!(circle(&uses(dir.path())).unwrap(), ["high", "low"]);
    write("low/mod.rs", "use super::high;\npub mod deep;");
    write("low/deep.rs", "");
    assert_eq!(circle(&uses(dir.path())).unwrap(), ["high", "low"]);
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
