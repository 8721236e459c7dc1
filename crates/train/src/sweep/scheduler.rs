//! What runs next: asynchronous successive halving (ASHA), Algorithm 2 of Li et al. 2018, "A System for Massively Parallel
//! Hyperparameter Tuning" (arXiv:1810.05934).
//!
//! A rung is a number of steps; the last is the end of a run. Of the trials that came to a rung the best `1 / factor`
//! go on to the next, as soon as they are among the best so far; where nobody can go on, a new trial begins. A
//! search with one rung is a plain queue: grid and random search.
//!
//! The paper never runs out of new trials. Here there is an end, and small rungs promote nobody; so when nothing else is
//! left to do the best trial of the highest rung goes on, until one trial has been trained to its end.
//!
//! Decisions are a function of the records, not of the order in which they came, so that a search that was ended is the
//! same search when it is given them again.

/// What is known of a trial.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialRecord {
    /// Its number.
    pub number: usize,
    /// Rungs it was sent to.
    pub started: usize,
    /// Its score at each rung it came to; lower is better.
    pub scores: Vec<f64>,
    /// It failed or was given up: it never runs again.
    pub over: bool,
}

/// Train `trial` until it has come to `rung`, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The trial's number.
    pub trial: usize,
    /// The rung.
    pub rung: usize,
}

/// A search in progress.
#[derive(Clone, Debug)]
pub struct Scheduler {
    rungs: usize,
    factor: usize,
    trials: Vec<TrialRecord>,
    running: Vec<Job>,
}

/// The rungs below `most` steps: `least`, `least * factor`, ...
pub fn rungs(least: u64, factor: u64, most: u64) -> Vec<u64> {
    std::iter::successors(Some(least), |rung| rung.checked_mul(factor))
        .take_while(|rung| *rung < most)
        .collect()
}

impl Scheduler {
    /// A search with that many rungs, the end of a run included, which goes on from `trials`.
    pub fn new(rungs: usize, factor: usize, trials: Vec<TrialRecord>) -> Self {
        Scheduler { rungs, factor, trials, running: Vec::new() }
    }

    /// What is to be run now, beside what is running. `None` where there is nothing until a result comes in, and for good
    /// when nothing is running.
    pub fn next_job(&mut self) -> Option<Job> {
        let job = self.interrupted().or_else(|| self.promotion()).or_else(|| self.fresh());
        let job = job.or_else(|| self.at_the_end())?;
        self.trial(job.trial).started = job.rung + 1;
        self.running.push(job);
        Some(job)
    }

    /// A running trial came to its rung with that score.
    pub fn came(&mut self, job: Job, score: f64) {
        self.running.retain(|running| *running != job);
        self.trial(job.trial).scores.push(score);
    }

    /// A running trial failed or was given up.
    pub fn gave_up(&mut self, job: Job) {
        self.running.retain(|running| *running != job);
        self.trial(job.trial).over = true;
    }

    /// Jobs that are running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    fn trial(&mut self, number: usize) -> &mut TrialRecord {
        self.trials.iter_mut().find(|trial| trial.number == number).expect("jobs are of its trials")
    }

    /// A trial that was on its way when the search ended.
    fn interrupted(&self) -> Option<Job> {
        let is_waiting = |t: &&TrialRecord| {
            !t.over && t.started > t.scores.len() && self.running.iter().all(|job| job.trial != t.number)
        };
        self.trials.iter().find(is_waiting).map(|t| Job { trial: t.number, rung: t.started - 1 })
    }

    fn promotion(&self) -> Option<Job> {
        (0..self.rungs - 1).rev().find_map(|rung| {
            let ranked = self.ranked(rung);
            let best = &ranked[..ranked.len() / self.factor];
            best.iter()
                .find(|t| !t.over && t.started == rung + 1)
                .map(|t| Job { trial: t.number, rung: rung + 1 })
        })
    }

    fn fresh(&self) -> Option<Job> {
        let trial = self.trials.iter().find(|t| !t.over && t.started == 0)?;
        Some(Job { trial: trial.number, rung: 0 })
    }

    /// The best trial of the highest rung, if nothing is running and none was trained to its end.
    fn at_the_end(&self) -> Option<Job> {
        if !self.running.is_empty() || !self.ranked(self.rungs - 1).is_empty() {
            return None;
        }
        (0..self.rungs - 1).rev().find_map(|rung| {
            let ranked = self.ranked(rung);
            let best = ranked.iter().find(|t| !t.over && t.started == rung + 1)?;
            Some(Job { trial: best.number, rung: rung + 1 })
        })
    }

    /// The trials that came to a rung, the best first; of equal ones the lower number.
    fn ranked(&self, rung: usize) -> Vec<&TrialRecord> {
        let mut ranked: Vec<&TrialRecord> = self.trials.iter().filter(|t| t.scores.len() > rung).collect();
        ranked.sort_by(|a, b| a.scores[rung].total_cmp(&b.scores[rung]).then(a.number.cmp(&b.number)));
        ranked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lorafit_kernels::random::mix;

    fn waiting(trials: usize) -> Vec<TrialRecord> {
        (0..trials).map(|number| TrialRecord { number, ..TrialRecord::default() }).collect()
    }

    #[test]
    fn rungs_grow_by_the_factor_and_stay_below_the_end() {
        assert_eq!(rungs(10, 3, 100), [10, 30, 90]);
        assert_eq!(rungs(10, 3, 90), [10, 30]);
        assert_eq!(rungs(10, 3, 10), [0u64; 0]);
        assert_eq!(rungs(1 << 62, 4, u64::MAX), [1 << 62], "no overflow");
    }

    /// Worked out by hand: nine trials whose score is their number, one worker, three rungs, factor 3. After every third
    /// result at rung 0 one more trial may go on; at rung 1 the third result lets trial 0 go on to the end.
    #[test]
    fn a_hand_worked_search_is_followed_to_the_letter() {
        let mut scheduler = Scheduler::new(3, 3, waiting(9));
        let mut order = Vec::new();
        while let Some(job) = scheduler.next_job() {
            order.push((job.trial, job.rung));
            scheduler.came(job, job.trial as f64);
        }
        let expected = [
            (0, 0),
            (1, 0),
            (2, 0),
            (0, 1),
            (3, 0),
            (4, 0),
            (5, 0),
            (1, 1),
            (6, 0),
            (7, 0),
            (8, 0),
            (2, 1),
            (0, 2),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn one_rung_is_a_queue() {
        let mut scheduler = Scheduler::new(1, 3, waiting(3));
        let jobs: Vec<Job> = std::iter::from_fn(|| scheduler.next_job()).collect();
        assert_eq!(jobs, [0, 1, 2].map(|trial| Job { trial, rung: 0 }));
        scheduler.gave_up(jobs[1]);
        scheduler.came(jobs[0], 1.0);
        scheduler.came(jobs[2], 2.0);
        assert_eq!((scheduler.next_job(), scheduler.running()), (None, 0));
    }

    #[test]
    fn a_search_too_small_to_promote_still_trains_its_best_to_the_end() {
        let mut scheduler = Scheduler::new(3, 4, waiting(2));
        let mut order = Vec::new();
        while let Some(job) = scheduler.next_job() {
            order.push((job.trial, job.rung));
            scheduler.came(job, [2.0, 1.0][job.trial]);
        }
        assert_eq!(order, [(0, 0), (1, 0), (1, 1), (1, 2)]);
    }

    #[test]
    fn a_trial_that_failed_is_neither_run_again_nor_promoted() {
        let mut scheduler = Scheduler::new(2, 2, waiting(3));
        let first = scheduler.next_job().expect("a job");
        scheduler.gave_up(first);
        let mut order = Vec::new();
        while let Some(job) = scheduler.next_job() {
            order.push((job.trial, job.rung));
            scheduler.came(job, job.trial as f64);
        }
        assert_eq!(order, [(1, 0), (2, 0), (1, 1)]);
    }

    /// Random searches with several workers that finish in any order, ended and begun again from their records at any time:
    /// no job runs twice, who goes on is among the best at that moment, and one trial comes to its end.
    #[test]
    fn simulated_searches_keep_their_promises() {
        for seed in 0..200 {
            let draw = |i: u64, n: u64| mix(seed ^ mix(i)) % n;
            let (trials, rungs) = (1 + draw(0, 30) as usize, 1 + draw(1, 4) as usize);
            let (factor, workers) = (2 + draw(2, 3) as usize, 1 + draw(3, 5) as usize);
            let score = |job: Job| draw(100 + job.trial as u64, 1000) as f64 - job.rung as f64;
            let mut scheduler = Scheduler::new(rungs, factor, waiting(trials));
            let (mut running, mut done, mut begun) = (Vec::new(), Vec::new(), Vec::new());
            for turn in 1000.. {
                while running.len() < workers
                    && let Some(job) = scheduler.next_job()
                {
                    // One that was on its way when the search ended was promoted at an earlier moment.
                    if job.rung > 0 && !begun.contains(&job) {
                        let rivals: Vec<&Job> =
                            done.iter().filter(|j: &&Job| j.rung + 1 == job.rung).collect();
                        let own = score(Job { rung: job.rung - 1, ..job });
                        let better = rivals.iter().filter(|rival| score(***rival) < own).count();
                        let is_last = running.is_empty() && better == 0;
                        assert!(better < rivals.len() / factor || is_last, "seed {seed}: {job:?}");
                    }
                    begun.push(job);
                    running.push(job);
                }
                if running.is_empty() {
                    break;
                }
                if draw(turn, 10) == 0 {
                    scheduler = Scheduler::new(rungs, factor, scheduler.trials);
                    running.clear();
                    continue;
                }
                let job: Job = running.swap_remove(draw(turn, running.len() as u64) as usize);
                scheduler.came(job, score(job));
                assert!(!done.contains(&job), "seed {seed}: {job:?} ran twice");
                done.push(job);
            }
            let at = |rung: usize| done.iter().filter(|job| job.rung == rung).count();
            assert_eq!(at(0), trials, "seed {seed}: every trial begins");
            assert!(at(rungs - 1) >= 1, "seed {seed}: one comes to its end");
        }
    }
}
