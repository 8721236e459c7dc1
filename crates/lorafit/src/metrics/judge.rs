//! `judge`: a command of the user scores the answers, a model that judges for example. It gets a line of JSON for each row on
//! standard input, `{"prompt": ..., "expected": ..., "answer": ...}`, and writes a line for each, in order, to standard output: a
//! number from 0 to 1, or an object with a `score`. A score that is null leaves the row out; `reason` says why.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lorafit_remedy::amounts::counted;
use serde_json::{Value, json};

use super::{Answered, Direction, Metric, Of, Score};
use crate::terminal::error::CliError;

/// See the module.
pub const METRIC: Metric = Metric {
    name: "judge",
    what: "The score, 0 to 1, that the command of --judge gives",
    needs: Some("judge"),
    reads: &["judge-timeout"],
    compares: false,
    direction: Direction::Maximize,
    of: Of::Command,
};

/// How often it is looked whether the command has to be ended.
const PAUSE: Duration = Duration::from_millis(50);
/// So much of what the command says of its own failure is shown.
const SHOWN_BYTES: usize = 2000;

/// Who judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judge {
    /// A line for the shell.
    pub command: String,
    /// How long it may take for all rows.
    pub timeout: Duration,
}

impl Judge {
    /// The score of each row. `None` if it is `interrupted`; the command is ended then, as it is on every error.
    ///
    /// # Errors
    /// A command that does not start, fails, takes too long, or does not write a score for each row.
    pub fn scores(
        &self,
        rows: &[Answered],
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Score>>, CliError> {
        let mut child = self.start().map_err(|error| self.wrong(format!("cannot be started: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { unreachable!("all are pipes") };
        let input: String = rows.iter().map(line).collect();
        let (sender, receiver) = channel();
        // Three threads, so that no pipe that is full makes the command wait for us while we wait for it.
        thread::spawn(move || {
            // A command may end before it has read all; what it wrote tells.
            let _ = stdin.write_all(input.as_bytes());
        });
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let said = thread::spawn(move || last_part(stderr));
        let deadline = Instant::now() + self.timeout;
        let found = self.follow(rows, &receiver, deadline, interrupted);
        let ended = match &found {
            Ok(Some(_)) => wait(&mut child, deadline),
            Ok(None) | Err(_) => None,
        };
        let Some(status) = ended else {
            end(&mut child);
            return match found {
                Ok(Some(scores)) => Err(self.late(scores.len(), rows)),
                other => other,
            };
        };
        let scores = found?.unwrap_or_default();
        if !status.success() {
            let said = said.join().unwrap_or_default();
            let said =
                if said.is_empty() { String::new() } else { format!("\n  {}", said.replace('\n', "\n  ")) };
            let next = Self::next(scores.len(), rows);
            return Err(self.wrong(format!("failed ({status}){said}\n  {next}")));
        }
        match scores.len() == rows.len() {
            true => Ok(Some(scores)),
            false => {
                let (lines, rows) =
                    (counted(scores.len(), "line", "lines"), counted(rows.len(), "row", "rows"));
                Err(self
                    .wrong(format!("wrote {lines} for {rows}"))
                    .hint("it has to write one line with a score for each line that it reads"))
            }
        }
    }

    /// The command, in a group of its own, so that what it starts can be ended with it.
    fn start(&self) -> io::Result<Child> {
        let mut command = match cfg!(windows) {
            true => Command::new("cmd"),
            false => Command::new("sh"),
        };
        command.arg(if cfg!(windows) { "/C" } else { "-c" }).arg(&self.command);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Reads scores until the command writes no more.
    fn follow(
        &self,
        rows: &[Answered],
        lines: &Receiver<io::Result<String>>,
        deadline: Instant,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<Score>>, CliError> {
        let mut scores = Vec::with_capacity(rows.len());
        let mut number = 0;
        loop {
            if interrupted() {
                return Ok(None);
            }
            match lines.recv_timeout(PAUSE) {
                Ok(line) => {
                    number += 1;
                    let line = line.map_err(|error| self.wrong(format!("wrote line {number}: {error}")))?;
                    let judged = rows.get(scores.len()).map_or(0, |answered| answered.row);
                    if line.trim().is_empty() {
                        continue;
                    }
                    if scores.len() == rows.len() {
                        let rows = counted(rows.len(), "row", "rows");
                        return Err(self.wrong(format!("wrote more lines than the {rows} that it was given")));
                    }
                    scores.push(score(&line).map_err(|why| {
                        let shown: String = line.chars().take(80).collect();
                        self.wrong(format!("wrote line {number}, for row {judged}: {why}, found `{}`", shown.escape_debug())).hint(
                            "a line is a number from 0 to 1, or an object such as {\"score\": 0.5}; other output belongs to \
                             standard error",
                        )
                    })?);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Some(scores)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= deadline {
                return Err(self.late(scores.len(), rows));
            }
        }
    }

    /// How far it came.
    fn next(scored: usize, rows: &[Answered]) -> String {
        let next = rows.get(scored).map(|answered| format!(", and row {} was the next", answered.row));
        let all = counted(rows.len(), "row", "rows");
        format!("it had scored {scored} of {all}{}", next.unwrap_or_default())
    }

    fn late(&self, scored: usize, rows: &[Answered]) -> CliError {
        let seconds = self.timeout.as_secs();
        self.wrong(format!("took longer than {seconds} s; {}", Self::next(scored, rows)))
            .hint("allow it more with --judge-timeout, or have it write each score as soon as it has it to see where it waits")
    }

    fn wrong(&self, what: String) -> CliError {
        CliError::new(format!("the judge `{}` {what}", self.command))
    }
}

/// What the command reads of a row.
fn line(row: &Answered) -> String {
    let Answered { prompt, expected, answer, .. } = row;
    format!("{}\n", json!({ "prompt": prompt, "expected": expected, "answer": answer }))
}

/// Reads a line of the command.
fn score(line: &str) -> Result<Score, &'static str> {
    let value: Value = serde_json::from_str(line).map_err(|_| "expected a score")?;
    let (score, reason) = match &value {
        Value::Object(object) => {
            (object.get("score").ok_or("expected an object with a `score`")?, object.get("reason"))
        }
        other => (other, None),
    };
    match (score, score.as_f64()) {
        (Value::Null, _) => {
            let reason = reason.and_then(Value::as_str).unwrap_or("the judge gives no score");
            Ok(Err(reason.to_owned()))
        }
        (_, Some(score)) if (0.0..=1.0).contains(&score) => Ok(Ok(score)),
        (_, Some(_)) => Err("expected a score from 0 to 1"),
        (_, None) => Err("expected a score that is a number"),
    }
}

/// The end of what a stream has.
fn last_part(mut stream: impl io::Read) -> String {
    let (mut kept, mut block) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut block) {
        kept.extend_from_slice(&block[..read]);
        let beyond = kept.len().saturating_sub(SHOWN_BYTES);
        kept.drain(..beyond);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}

/// How the command ended; `None` if it does not until the deadline.
fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(PAUSE / 10),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Ends the command and what it started.
fn end(child: &mut Child) {
    #[cfg(unix)]
    // SAFETY: sends a signal to a group that we made and whose leader has not been waited for.
    unsafe {
        libc::kill(-(child.id() as i32), libc::SIGKILL);
    }
    // Where there are no groups, or it has ended meanwhile.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<Answered> {
        let row = |row| Answered {
            row,
            prompt: "why?".to_owned(),
            expected: "so".to_owned(),
            answer: "so".repeat(row),
            options: None,
        };
        (1..=count).map(row).collect()
    }

    fn judge(command: &str, count: usize) -> Result<Vec<Score>, String> {
        let judge = Judge { command: command.to_owned(), timeout: Duration::from_secs(20) };
        let found = judge.scores(&rows(count), &mut || false);
        found.map(|scores| scores.expect("nobody interrupts it")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_for_each_row_is_its_score() {
        assert_eq!(judge("while read -r row; do echo 0.5; done", 3), Ok(vec![Ok(0.5); 3]));
        let objects =
            r#"echo '{"score": 1, "why": "x"}'; echo; echo '{"score": null, "reason": "no"}'; echo null"#;
        let missing = Err("the judge gives no score".to_owned());
        assert_eq!(judge(objects, 3), Ok(vec![Ok(1.0), Err("no".to_owned()), missing]));
        // It gets what it is said to get, more than a pipe holds.
        let echo = r#"while read -r row; do case "$row" in
            '{"prompt":"why?","expected":"so","answer":"so'*) echo 1;; *) echo 0;; esac; done"#;
        assert_eq!(judge(echo, 600), Ok(vec![Ok(1.0); 600]));
    }

    #[test]
    fn what_a_judge_does_wrong_is_told() {
        for (command, told) in [
            ("echo 1; echo 2; cat >&2", "wrote line 2, for row 2: expected a score from 0 to 1, found `2`"),
            ("echo good", "wrote line 1, for row 1: expected a score, found `good`"),
            ("echo '{\"points\": 1}'", "expected an object with a `score`"),
            ("echo '\"1\"'", "expected a score that is a number"),
            ("cat > /dev/null; echo 1", "wrote 1 line for 2 rows"),
            ("echo 1; echo 1; echo 1; cat > /dev/null", "wrote more lines than the 2 rows"),
            (
                "echo 1; echo no key >&2; exit 3",
                "failed (exit status: 3)\n  no key\n  it had scored 1 of 2 rows, and row 2 was the next",
            ),
            ("no-such-command-here", "failed (exit status: 127)"),
        ] {
            let error = judge(command, 2).unwrap_err();
            assert!(error.contains(told) && error.starts_with("the judge `"), "{command}: {error}");
        }
    }

    #[test]
    fn a_judge_that_takes_too_long_is_ended_with_what_it_started() {
        let judge = |command: &str| {
            let judge = Judge { command: command.to_owned(), timeout: Duration::from_millis(300) };
            let started = Instant::now();
            let error = judge.scores(&rows(2), &mut || false).unwrap_err().to_string();
            assert!(started.elapsed() < Duration::from_secs(10), "{error}");
            error
        };
        let told = "took longer than 0 s; it had scored";
        assert!(judge("echo 1; sleep 60; echo 1").contains(&format!("{told} 1 of 2 rows")));
        // It writes no more, and does not end.
        assert!(judge("echo 1; echo 1; exec >&-; sleep 60").contains(&format!("{told} 2 of 2 rows")));
        let asked = Judge { command: "sleep 60".to_owned(), timeout: Duration::from_secs(60) };
        assert!(asked.scores(&rows(1), &mut || true).is_ok_and(|scores| scores.is_none()));
    }
}
