//! The reference of the command line: what is generated from the flags is true, and no text names a flag that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{lorafit, well};

const LIBRARIES: [&str; 5] = ["remedy", "kernels", "data", "model", "train"];

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The reference as the program writes it.
fn reference() -> String {
    let dir = TempDir::new().unwrap();
    well(dir.path(), &["manual", "--format", "markdown", "--out", "cli.md"]);
    fs::read_to_string(dir.path().join("cli.md")).unwrap()
}

/// The flags of each verb, without dashes.
pub fn flags() -> BTreeMap<String, BTreeSet<String>> {
    let (mut flags, mut verb): (BTreeMap<String, BTreeSet<String>>, String) =
        (BTreeMap::new(), String::new());
    for line in reference().lines() {
        if let Some(name) = line.strip_prefix("## lorafit ") {
            verb = name.to_owned();
            flags.entry(verb.clone()).or_default().insert("help".to_owned());
        } else if let Some(rest) = line.strip_prefix("- `--") {
            let name = rest.split(['`', ' ', '[', '=']).next().unwrap();
            flags.get_mut(&verb).unwrap().insert(name.to_owned());
        }
    }
    flags
}

/// Every flag that a text names, in order.
pub fn named(text: &str) -> Vec<String> {
    let starts = text.match_indices("--").filter(|(at, _)| {
        let before = text[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "-_./!".contains(c))
    });
    let name = |(at, _): (usize, &str)| {
        let rest = &text[at + 2..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-');
        rest[..end.unwrap_or(rest.len())].trim_end_matches('-').to_owned()
    };
    starts.map(name).filter(|name| !name.is_empty()).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false => found.extend(path.extension().is_some_and(|ending| ending == "rs").then_some(path)),
        }
    }
}

/// The code of the program and its libraries, without comments and tests; docs that `--help` shows included.
pub fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for name in LIBRARIES.iter().chain(&["lorafit"]) {
        rust_files(&root().join("crates").join(name).join("src"), &mut files);
    }
    let is_of_tests = |file: &PathBuf| {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with("tests.rs")
            || name == "testing.rs"
            || file.components().any(|part| part.as_os_str() == "tests")
    };
    files.retain(|file| !is_of_tests(file));
    let text = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().filter(|line| {
            let line = line.trim_start();
            !line.starts_with("// ") && !line.starts_with("//!")
        });
        // A text that goes on in the next line is one line.
        let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "\u{1}");
        let joined = joined.split('\u{1}').map(str::trim_start).collect::<Vec<_>>().join("");
        (file, joined)
    };
    files.into_iter().map(text).collect()
}

/// What follows `lorafit VERB` on a line, where the verb is one.
pub fn commands<'a>(line: &'a str, flags: &BTreeMap<String, BTreeSet<String>>) -> Vec<(String, &'a str)> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("lorafit ") {
        let rest = &line[at + "lorafit ".len()..];
        let verb: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
        let after = &rest[verb.len()..];
        if flags.contains_key(&verb) && (after.is_empty() || after.starts_with(' ')) {
            // Up to the next command, to the end of what is quoted, and not into a remark in words.
            let end = [" | ", " && ", "; ", "`", " lorafit ", " # ", ")"]
                .iter()
                .filter_map(|end| after.find(end))
                .min();
            found.push((verb, &after[..end.unwrap_or(after.len())]));
        }
    }
    found
}

/// The documentation: README, `docs/`, and the stories with their scripts.
pub fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    for folder in ["docs", "docs/stories"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        paths.extend(
            entries.filter(|path| path.extension().is_some_and(|ending| ending == "md" || ending == "sh")),
        );
    }
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The flags that a text names outside of commands, which have flags of their own, of this program and of others.
pub fn flags_beside_commands(text: &str, flags: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let commands = commands(line, flags);
        let shown = commands.iter().map(|(_, after)| *after).filter(|after| !after.is_empty());
        let rest = shown.fold(line.to_owned(), |rest, after| rest.replace(after, " "));
        let of_others = of_others(line);
        found.extend(named(&rest).into_iter().filter(|name| !of_others.contains(&name.as_str())));
    }
    found
}

#[test]
fn the_types_of_the_python_package_are_the_flags_of_this_program() {
    let dir = tempfile::tempdir().unwrap();
    well(dir.path(), &["manual", "--format", "pyi", "--out", "types.pyi"]);
    let made = fs::read_to_string(dir.path().join("types.pyi")).unwrap();
    let kept = fs::read_to_string(root().join("crates/python/python/lorafit/_flag_types.pyi")).unwrap();
    assert!(kept == made, "_flag_types.pyi is not what the flags say: run scripts/write_reference.sh");
    for line in ["class TrainFlags(TypedDict, total=False):", "    rank: int | None", "    dora: bool | None"]
    {
        assert!(made.lines().any(|found| found == line), "{line}");
    }
}

#[test]
fn the_reference_is_that_of_this_program() {
    let kept = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    assert!(kept == reference(), "docs/cli.md is not what the flags say: run scripts/write_reference.sh");
    let flags = flags();
    assert!(flags.len() >= 18 && flags["train"].len() > 60, "{flags:?}");
    // Both ends of the facts of flags.
    for line in [
        "| `--rank` | stays | can be searched | `--method lora` |",
        "| `--threads` | may change | is the same for all trials |  |",
        "| `--lr` | stays, or `--resume-anyway` | can be searched |  |",
    ] {
        assert!(kept.contains(line), "{line}");
    }
    assert!(!kept.contains("| `--resume` |"));
}

#[test]
fn every_verb_has_a_man_page_with_all_its_flags() {
    let dir = TempDir::new().unwrap();
    well(dir.path(), &["manual", "--out", "man/man1"]);
    assert!(fs::read_to_string(dir.path().join("man/man1/lorafit.1")).unwrap().contains("lorafit\\-train"));
    for (verb, flags) in flags() {
        let page = fs::read_to_string(dir.path().join(format!("man/man1/lorafit-{verb}.1"))).unwrap();
        for flag in flags {
            assert!(page.contains(&format!("\\-\\-{}", flag.replace('-', "\\-"))), "{verb}: --{flag}");
        }
    }
    let page = fs::read_to_string(dir.path().join("man/man1/lorafit-plan.1")).unwrap();
    assert!(page.contains("[OPTIONS] \\-\\-model <M>"), "the synopsis has values: {page}");
    // Examples stay as they are, between paragraphs that are filled.
    let example = page.find("lorafit plan \\-\\-model llama\\-2\\-7b").unwrap();
    let before = &page[..example];
    assert!(before.rfind(".EX") > before.rfind(".EE"), "an example is not filled: {page}");
    assert!(
        page.lines().any(|line| line.starts_with("Sizes are exact") && line.ends_with("16 bits.")),
        "{page}"
    );
    fs::write(dir.path().join("file"), "text").unwrap();
    let refused = lorafit(dir.path(), &["manual", "--out", "file"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--out file cannot be a folder"));
    let refused = lorafit(dir.path(), &["manual", "--format", "markdown", "--out", "file"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"), "{refused:?}");
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "text");
}

#[test]
fn completions_are_read_by_their_shells() {
    let dir = TempDir::new().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = well(dir.path(), &["completions", shell]);
        for word in ["train", "gradient-accumulation", "adamw-8bit"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let file = dir.path().join(shell);
        fs::write(&file, script).unwrap();
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
            Err(_) => eprintln!("skipped: no {shell} reads its completions here"),
        }
    }
}

/// What bash offers in the folder `place` for the last of `words`, as readline cuts a line into words.
fn offered(place: &Path, words: &[&str]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let [.., before, last] = words else { panic!("{words:?}") };
    // `compopt` works in a completion alone; here it says what it was asked for.
    let script = format!(
        "compopt() {{ echo \"compopt $*\"; }}; source ./bash || exit 1; COMP_WORDS=({}); COMP_CWORD={}; \
         _lorafit lorafit '{last}' '{before}'; echo \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1
    );
    let Ok(output) = Command::new("bash").current_dir(place).args(["-c", &script]).output() else {
        eprintln!("skipped: no bash");
        return None;
    };
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; "))
}

/// In bash itself: flags, words with and without an equals sign, switches, folders.
#[test]
fn bash_offers_what_can_stand_there() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("bash"), well(dir.path(), &["completions", "bash"])).unwrap();
    fs::create_dir(dir.path().join("runs")).unwrap();
    let whole: &[(&[&str], &str)] = &[
        (&["lorafit", "train", "--gradient-acc"], "--gradient-accumulation"),
        (&["lorafit", "train", "--optimizer", "a"], "adamw adamw-8bit"),
        (&["lorafit", "train", "--optimizer", "=", "adamw-"], "adamw-8bit"),
        (&["lorafit", "train", "--optimizer", "="], "adamw adamw-8bit"),
        (&["lorafit", "train", "--recompute", ""], "auto none full"),
        (&["lorafit", "train", "--device", "c"], "cpu cuda:0"),
        (&["lorafit", "train", "--template", "ll"], "llama-3"),
        (&["lorafit", "train", "--on-nan", "s"], "stop skip"),
        (&["lorafit", "plan", "--device", "c"], "cpu cuda"),
        (&["lorafit", "bench", "--shape", "smollm2-135"], "smollm2-135m"),
        (&["lorafit", "export", "--type", "q4_k"], "q4_k_m"),
    ];
    for (words, expected) in whole {
        let Some(found) = offered(dir.path(), words) else { return };
        assert_eq!(found, *expected, "{words:?}");
    }
    let offered = |words: &[&str]| offered(dir.path(), words).unwrap();
    // A folder gets a slash, from readline, where file names are completed.
    for words in [
        &["lorafit", "train", "--out", "ru"][..],
        &["lorafit", "train", "--data", "ru"],
        &["lorafit", "chat", "--model", "ru"],
        &["lorafit", "eval", "--adapter", "ru"],
        &["lorafit", "train", "--out", "=", "ru"],
    ] {
        assert_eq!(offered(words), "compopt -o filenames; runs", "{words:?}");
    }
    // A switch takes no word, and no file stands where a number does.
    assert!(!offered(&["lorafit", "train", "--quiet", ""]).contains("true"));
    assert!(!offered(&["lorafit", "train", "--lr", ""]).contains("runs"));
    for word in ["true", "false"] {
        assert!(!well(dir.path(), &["completions", "bash"]).contains(&format!("\"{word} ")), "{word}");
    }
}

/// Flags of other programs, each with the word by which its line is known.
const OF_OTHERS: [(&str, &[&str]); 11] = [
    // Hidden: what a process of `selfcheck --isolate` is started with.
    ("--work-from", &["work-from"]),
    ("mlx_lm", &["model", "adapter-path", "save-path"]),
    ("vllm", &["enable-lora", "lora-modules", "max-lora-rank", "tokenizer"]),
    ("--max-lora-rank", &["max-lora-rank"]),
    ("text-generation-launcher", &["lora-adapters", "model-id"]),
    ("llama-", &["lora", "lora-scaled"]),
    ("ollama", &["modelfile"]),
    ("b3sum", &["check"]),
    ("cargo build", &["release", "features"]),
    // Colours of pages.
    ("var(--", &["ink", "faint", "line", "card", "paper", "accent", "c", "other"]),
    ("--gpu-architecture", &["gpu-architecture", "std", "ptxas-options"]),
];

/// The flags of other programs that a line may name.
fn of_others(line: &str) -> Vec<&'static str> {
    let known = OF_OTHERS.iter().filter(|(word, _)| line.contains(word));
    known.flat_map(|(_, flags)| flags.iter().copied()).collect()
}

#[test]
fn no_text_names_a_flag_that_is_not_there() {
    let flags = flags();
    let all: BTreeSet<&String> = flags.values().flatten().collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (file, text) in sources() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("///") || line.contains("--")) {
            let of_others = of_others(line);
            for name in named(line).iter().filter(|name| !of_others.contains(&name.as_str())) {
                seen += 1;
                if !all.contains(name) && name != "version" {
                    wrong.push(format!("{}: --{name}", file.display()));
                }
            }
        }
    }
    assert!(seen > 300, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What an error of a library advises is worded by the interface that shows it, which knows what its verbs have. So no library
/// names a flag, be it in a comment.
#[test]
fn libraries_name_no_flag() {
    let (mut wrong, mut lines) = (Vec::new(), 0);
    for name in LIBRARIES {
        let mut files = Vec::new();
        rust_files(&root().join("crates").join(name).join("src"), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for (index, line) in text.lines().enumerate() {
                lines += 1;
                let of_others = of_others(line);
                let flags = named(line).into_iter().filter(|name| !of_others.contains(&name.as_str()));
                wrong.extend(flags.map(|flag| format!("{} line {}: --{flag}", file.display(), index + 1)));
            }
        }
    }
    assert!(lines > 10_000, "{lines}");
    assert!(wrong.is_empty(), "a hint refers to a `Setting` (crates/remedy): {wrong:#?}");
}

#[test]
fn every_command_that_is_shown_has_the_flags_of_its_verb() {
    let flags = flags();
    let mut texts: Vec<(PathBuf, String)> = sources();
    texts.extend(pages().into_iter().map(|(path, text)| (path, text.replace("\\\n", ""))));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (file, text) in &texts {
        for line in text.lines() {
            for (verb, after) in commands(line, &flags) {
                for name in named(after) {
                    seen += 1;
                    if !flags[&verb].contains(&name) {
                        wrong.push(format!(
                            "{}: lorafit {verb} has no --{name}: {}",
                            file.display(),
                            line.trim()
                        ));
                    }
                }
            }
        }
    }
    assert!(seen > 250, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A story, and the tutorial, is a script, and its page shows each of its commands.
#[test]
fn every_story_has_a_page_with_its_commands() {
    let pages: BTreeMap<PathBuf, String> = pages().into_iter().collect();
    let (mut stories, mut shown) = (0, 0);
    for (script, text) in
        pages.iter().filter(|(path, _)| path.extension().is_some_and(|ending| ending == "sh"))
    {
        stories += 1;
        let page = pages
            .get(&script.with_extension("md"))
            .unwrap_or_else(|| panic!("{} was not told", script.display()));
        for command in text.lines().filter(|line| line.starts_with("lorafit ")) {
            shown += 1;
            let told = page.lines().any(|line| line.strip_prefix("$ ") == Some(command));
            assert!(told, "{}: run scripts/tell_stories.sh: {command}", script.display());
        }
    }
    assert!(stories == 4 && shown > 20, "{stories} {shown}");
    // The file of the sweep, too, has options that are there.
    let file: toml::Table =
        fs::read_to_string(root().join("docs/stories/ranks.toml")).unwrap().parse().unwrap();
    let searched = file["search"].as_table().unwrap().keys();
    let options: Vec<&String> = file.keys().filter(|key| *key != "search").chain(searched).collect();
    assert!(
        options.len() > 5 && options.iter().all(|option| flags()["train"].contains(*option)),
        "{options:?}"
    );
}

#[test]
fn flags_in_text_are_found() {
    assert_eq!(
        named("lower --lr, or `--max-grad-norm`; a--b is none, nor -- or <!--x"),
        ["lr", "max-grad-norm"]
    );
    let flags = BTreeMap::from([("train".to_owned(), BTreeSet::new())]);
    let line = "run lorafit train --a 1 | tee; or lorafit trainer --b, `lorafit train --c` --d";
    let found = commands(line, &flags);
    assert_eq!(found.iter().map(|(_, after)| named(after)).collect::<Vec<_>>(), [vec!["a"], vec!["c"]]);
}
