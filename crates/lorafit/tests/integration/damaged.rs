//! Runs whose folders are damaged or oddly named, which of a run's results is compared, and errors as JSON.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{chat_model, json_of, lorafit, place, trains, well};

/// What the program prints on standard error, whatever it comes to.
fn told(place: &Path, arguments: &[&str]) -> String {
    String::from_utf8(lorafit(place, arguments).stderr).expect("text")
}

const TRAIN: [&str; 8] = ["--max-steps", "6", "--validation", "12", "--eval-every", "2", "--lr", "1e-2"];

#[test]
fn what_is_missing_in_a_run_is_said_wherever_the_run_is_shown() {
    let place = place(40);
    let at = place.path();
    for (break_it, warning) in [
        (
            (|run| fs::write(run.join("metrics.jsonl"), "")) as fn(&Path) -> std::io::Result<()>,
            "metrics.jsonl has no steps",
        ),
        (|run| fs::remove_file(run.join("run.json")), "run.json is missing"),
        (|run| fs::write(run.join("run.json"), "{"), "run.json cannot be read"),
        (|run| fs::write(run.join("plan.json"), "no JSON"), "plan.json cannot be read"),
        (|run| fs::remove_dir_all(run.join("best")), "best/ is missing"),
        (
            |run| {
                let path = run.join("metrics.jsonl");
                let text = fs::read_to_string(&path)?;
                fs::write(path, format!("no record\n{text}"))
            },
            "1 line of metrics.jsonl and evaluations.jsonl cannot be read",
        ),
    ] {
        trains(at, "rows.jsonl", "runs/one", &[&TRAIN[..], &["--overwrite"]].concat());
        let all = [
            &["runs"][..],
            &["status", "runs/one"],
            &["report", "runs/one", "--out", "page.html"],
            &["compare", "--runs", "runs/one", "--data", "rows.jsonl"],
        ];
        for arguments in all {
            let output = lorafit(at, arguments);
            let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && !said.contains("warning"), "{arguments:?}: {said}");
        }
        break_it(&at.join("runs/one")).expect("damaged");
        for arguments in all {
            let output = lorafit(at, arguments);
            assert!(output.status.success(), "{warning}, {arguments:?}: {output:?}");
            let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
            let page = if arguments[0] == "report" {
                fs::read_to_string(at.join("page.html")).expect("a page")
            } else {
                String::new()
            };
            assert!(said.contains(warning) || page.contains(warning), "{warning}, {arguments:?}: {said}");
        }
        let status = json_of(&well(at, &["status", "runs/one", "--json"]));
        assert!(status["warnings"][0].as_str().is_some_and(|found| found.starts_with(warning)), "{status}");
    }
    // What lost all its records is a run yet.
    fs::remove_file(at.join("runs/one/metrics.jsonl")).expect("removed");
    let (shown, warned) = (well(at, &["runs"]), told(at, &["runs"]));
    assert!(shown.contains("runs/one") && shown.contains("damaged"), "{shown}");
    assert!(warned.contains("warning: runs/one: ") && warned.contains("it has no metrics.jsonl"), "{warned}");
}

#[test]
fn the_best_of_a_run_is_compared_and_parts_of_it_by_themselves() {
    let place = place(40);
    let at = place.path();
    trains(at, "rows.jsonl", "run", &TRAIN);
    let evaluations = fs::read_to_string(at.join("run/evaluations.jsonl")).expect("read");
    let records: Vec<Value> = evaluations.lines().map(json_of).collect();
    let best = records.iter().rfind(|one| one["best"] == true).expect("a best");
    let compare = |run: &str| {
        let output = lorafit(at, &["compare", "--runs", run, "--data", "rows.jsonl", "--json"]);
        let table = json_of(&String::from_utf8(output.stdout).expect("text"));
        (table["runs"][1].clone(), String::from_utf8(output.stderr).expect("text"))
    };
    let (row, said) = compare("run");
    assert!(
        said.contains(&format!("run: the adapter of its best step, {}: run/best", best["step"])),
        "{said}"
    );
    assert_eq!(row["path"], "run/best");
    let (of_best, said) = compare("run/best");
    assert!(of_best["loss"] == row["loss"] && !said.contains("its best step"), "{of_best} {row} {said}");
    let checkpoint =
        fs::read_dir(at.join("run/checkpoints")).expect("a folder").next().expect("one").expect("one");
    let name = format!("run/checkpoints/{}", checkpoint.file_name().to_string_lossy());
    assert_eq!(compare(&name).0["path"], name.as_str());
    // Where no best was kept, what the run ended with is.
    fs::remove_dir_all(at.join("run/best")).expect("removed");
    assert_eq!(compare("run").0["path"], "run");
}

#[test]
fn an_error_is_a_json_object_where_json_is_asked_for() {
    let place = place(4);
    let (at, model) = (place.path(), chat_model());
    for arguments in [
        &["status", "nowhere", "--json"][..],
        &["runs", "nowhere", "--json"],
        &["inspect", "nowhere", "--json"],
        &["sweep", "--out", "nowhere", "--status", "--json"],
        &["compare", "--runs", "nowhere", "--data", "rows.jsonl", "--json"],
        &["eval", "--model", &model, "--data", "nowhere.jsonl", "--json"],
        &["data", "nowhere.jsonl", "--model", &model, "--json"],
        &["plan", "--model", "nowhere", "--json"],
        &["status", "--json"],
        &["plan", "--json", "--rnak", "3"],
    ] {
        let output = lorafit(at, arguments);
        let (code, text) = (output.status.code(), String::from_utf8(output.stderr).expect("text"));
        let found = json_of(&String::from_utf8(output.stdout).expect("text"));
        let error = found["error"].as_str().expect("a message");
        assert!(
            !error.is_empty() && text.contains(error.lines().next().expect("a line")),
            "{arguments:?}: {found} {text}"
        );
        assert_eq!(found["exit_code"].as_i64(), code.map(i64::from), "{arguments:?}");
        assert!(found.get("hint").is_some() && code != Some(0));
    }
    for arguments in [
        &["train", "--model", &model, "--data", "nowhere.jsonl", "--out", "run", "--log", "json"][..],
        &["train", "--data", "rows.jsonl", "--out", "run", "--log=json"],
        &["train", "--log", "json", "--rnak", "3"],
    ] {
        let said = told(at, arguments);
        let last = json_of(said.lines().last().expect("a line"));
        assert_eq!(last["event"], "error", "{arguments:?}: {said}");
        assert!(last["error"].as_str().is_some_and(|error| !error.is_empty()), "{said}");
        assert!(said.lines().all(|line| line.starts_with('{')), "{said}");
    }
}

#[cfg(unix)]
#[test]
fn control_characters_in_the_name_of_a_run_reach_no_terminal_and_no_page() {
    let place = place(20);
    let at = place.path();
    let name = "runs/a\u{1b}[2J\u{7}\nb";
    trains(at, "rows.jsonl", name, &["--max-steps", "4"]);
    trains(at, "rows.jsonl", "runs/c", &["--max-steps", "4"]);
    let is_plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
    let table = well(at, &["runs"]);
    assert!(is_plain(&table) && table.lines().count() == 3 && table.contains("\\u{1b}[2J"), "{table}");
    assert!(is_plain(&well(at, &["status", name])));
    let said = told(at, &["status", &format!("{name}x")]);
    assert!(is_plain(&said) && said.contains("\\u{1b}[2J"), "{said}");
    well(at, &["report", name, "runs/c", "--out", "page.html", "--figures", "figures"]);
    let page = fs::read_to_string(at.join("page.html")).expect("a page");
    assert!(is_plain(&page) && page.contains("a\\u{1b}[2J"), "not on the page");
    for figure in
        fs::read_dir(at.join("figures")).expect("a folder").map(|entry| entry.expect("a file").path())
    {
        let is_text = figure.extension().is_some_and(|end| end == "svg" || end == "csv");
        assert!(!is_text || is_plain(&fs::read_to_string(&figure).expect("text")), "{}", figure.display());
    }
    assert!(fs::read_dir(at.join("figures")).expect("a folder").count() > 3);
    let said = told(at, &["compare", "--runs", name, "--data", "rows.jsonl"]);
    assert!(is_plain(&said), "{said:?}");
}

#[test]
fn every_table_has_the_training_loss_and_the_rate_of_the_same_definition() {
    let place = place(40);
    let at = place.path();
    trains(at, "rows.jsonl", "runs/a", &["--max-steps", "30", "--lr", "5e-3"]);
    let records = fs::read_to_string(at.join("runs/a/metrics.jsonl")).expect("read");
    let steps: Vec<Value> = records.lines().map(json_of).collect();
    let of = |key: &str| steps.iter().map(|step| step[key].as_f64().expect("a number")).collect::<Vec<_>>();
    let (losses, tokens, seconds) = (of("loss"), of("tokens"), of("seconds"));
    let (last, smoothed) = (losses[29], losses[10..].iter().sum::<f64>() / 20.0);
    let rate = tokens.iter().sum::<f64>() / seconds.iter().sum::<f64>();
    let status = well(at, &["status", "runs/a"]);
    let line = format!("loss {last:.4}  smoothed {smoothed:.4}  {rate:.0} tokens/s");
    assert!(status.contains(&line), "{line}: {status}");
    assert!(well(at, &["runs"]).contains(&format!("{last:.4} (training)")));
    well(at, &["report", "runs/a", "--out", "page.html"]);
    let page = fs::read_to_string(at.join("page.html")).expect("a page");
    for part in
        [format!("{last:.4}"), format!("smoothed over 20 steps: {smoothed:.4}"), format!(">{rate:.0}<")]
    {
        assert!(page.contains(&part), "no {part}");
    }
}
