//! The documentation as a book: every page is in its table of contents, and every link leads to what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::reference::root;

/// All pages, by their path below the root of the workspace: those at the root, and those of `docs/`.
fn pages() -> BTreeMap<PathBuf, String> {
    fn below(folder: &Path, deep: bool, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = folder.join(entry.unwrap().file_name());
            if deep && root().join(&path).is_dir() {
                below(&path, deep, found);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                let text = fs::read_to_string(root().join(&path)).unwrap();
                found.insert(path, text);
            }
        }
    }
    let mut found = BTreeMap::new();
    below(Path::new(""), false, &mut found);
    below(Path::new("docs"), true, &mut found);
    found
}

/// The lines of a page that are text, not code.
fn text_lines(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// A line without what stands between backticks.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// The targets of the links of a page, pictures too, in order.
fn links(page: &str) -> Vec<String> {
    let of_line = |line: &str| {
        let line = without_code(line);
        let ends = line.match_indices("](").filter_map(|(at, mark)| {
            let rest = &line[at + mark.len()..];
            rest.find(')').map(|end| rest[..end].to_owned())
        });
        ends.collect::<Vec<_>>()
    };
    text_lines(page).flat_map(of_line).collect()
}

/// The anchors of a page's headings, as GitHub and mdBook make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let headings = text_lines(page).filter_map(|line| {
        let title = line.trim_start_matches('#');
        (title.len() < line.len() && title.starts_with(' ')).then(|| title.trim())
    });
    let anchor = |title: &str| {
        let letters = title.to_lowercase();
        let letters = letters.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        letters.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    let mut found = BTreeSet::new();
    for anchor in headings.map(anchor) {
        let before = seen.entry(anchor.clone()).or_default();
        found.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
        *before += 1;
    }
    found
}

/// Where `target` leads from `page`, below the root of the workspace; nothing where it leaves it.
fn resolved(page: &Path, target: &str) -> Option<PathBuf> {
    let mut path = page.parent().unwrap().to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => path.pop().then_some(())?,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// What is wrong with a link of `page`, if something is.
fn fault(page: &Path, link: &str, pages: &BTreeMap<PathBuf, String>) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = match target {
        "" => page.to_owned(),
        target => match resolved(page, target) {
            Some(path) => path,
            None => return Some("it leads out of the workspace".to_owned()),
        },
    };
    if !pages.contains_key(&path) && !root().join(&path).exists() {
        return Some(format!("there is no {}", path.display()));
    }
    match pages.get(&path) {
        Some(text) if !anchor.is_empty() && !anchors(text).contains(anchor) => {
            Some(format!("{} has no heading {anchor}", path.display()))
        }
        _ => None,
    }
}

#[test]
fn every_link_of_a_page_leads_to_what_is_there() {
    let pages = pages();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (page, text) in &pages {
        for link in links(text) {
            seen += 1;
            let fault = fault(page, &link, &pages);
            wrong.extend(fault.map(|fault| format!("{}: ({link}): {fault}", page.display())));
        }
    }
    assert!(seen > 150, "{seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_page_of_the_docs_is_in_the_table_of_contents_once() {
    let pages = pages();
    let contents = Path::new("docs/SUMMARY.md");
    let mut listed: Vec<PathBuf> =
        links(&pages[contents]).iter().map(|link| resolved(contents, link).unwrap()).collect();
    listed.sort();
    let is_page = |path: &&PathBuf| path.starts_with("docs") && *path != contents;
    let there: Vec<PathBuf> = pages.keys().filter(is_page).cloned().collect();
    assert_eq!(listed, there, "docs/SUMMARY.md lists the pages on the left, docs/ has those on the right");
}

/// The tutorial shows the example as it is.
#[test]
fn the_tutorial_shows_the_example_as_it_is() {
    let example = fs::read_to_string(root().join("crates/model/examples/lora_from_scratch.rs")).unwrap();
    let (_, shown) = example.split_once("\n\n").unwrap();
    let from = shown.find("const ").unwrap();
    let shown = &shown[from..shown.find("#[cfg(test)]").unwrap()];
    assert!(shown.lines().count() <= 90, "{}", shown.lines().count());
    let tutorial = fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    assert!(tutorial.contains(shown.trim_end()), "run scripts/tell_stories.sh tutorial");
}

#[test]
fn links_and_anchors_are_found() {
    let page = "# A `b-c`, d_e?\n[x](y.md#z) `[no](code)` ![p](q.svg)\n```\n[no](code)\n# no\n```\n## A `b-c`, d_e?\n#none";
    assert_eq!(links(page), ["y.md#z", "q.svg"]);
    assert_eq!(anchors(page), ["a-b-c-d_e", "a-b-c-d_e-1"].map(str::to_owned).into());
    let pages = BTreeMap::from([(PathBuf::from("docs/a.md"), page.to_owned())]);
    let of = |link| fault(Path::new("docs/a.md"), link, &pages);
    assert_eq!(of("https://example.org/x"), None);
    assert_eq!(of("#a-b-c-d_e-1"), None);
    assert_eq!(of("../README.md"), None);
    assert!(of("#a-b").unwrap().contains("no heading a-b"));
    assert!(of("missing.md").unwrap().contains("no docs/missing.md"));
    assert!(of("../../etc/passwd").unwrap().contains("out of the workspace"));
}
