//! The same rows answered by several models: who is best on which.

use lorafit_remedy::amounts::counted;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

use super::{Metric, Scored};

/// Rows that several models answered.
pub struct SideBySide {
    /// What the models are called, in order.
    pub names: Vec<String>,
    /// By what they are compared.
    pub metrics: Vec<&'static Metric>,
    /// Rows that all of them answered.
    pub rows: Vec<Side>,
}

/// A row with the answers of all.
pub struct Side {
    /// Its number in the data.
    pub row: usize,
    /// The prompt as the first model saw it.
    pub prompt: String,
    /// The reply that the row has.
    pub expected: String,
    /// The answer of each model.
    pub answers: Vec<String>,
    /// By metric, the score of each model; `None` where the row cannot be judged.
    scores: Vec<Vec<Option<f64>>>,
}

impl SideBySide {
    /// Brings together what each of the models `names` made of the rows. A row that one of them was not given is left out.
    pub fn of(names: Vec<String>, scored: &[Scored]) -> Self {
        let numbers = |scored: &Scored| scored.rows.iter().map(|row| row.row).collect::<HashSet<usize>>();
        let of_all: Vec<HashSet<usize>> = scored.iter().map(numbers).collect();
        let is_common = |row: usize| of_all.iter().all(|rows| rows.contains(&row));
        let places = |scored: &Scored| {
            let all = scored.rows.iter().enumerate();
            all.filter(|(_, row)| is_common(row.row)).map(|(place, _)| place).collect::<Vec<usize>>()
        };
        let places: Vec<Vec<usize>> = scored.iter().map(places).collect();
        let metrics: Vec<&'static Metric> =
            scored.first().map(|scored| scored.metrics().collect()).unwrap_or_default();
        let count = places.iter().map(Vec::len).min().unwrap_or(0);
        let side = |i: usize| {
            let each = || scored.iter().zip(&places).map(move |(scored, places)| (scored, places[i]));
            let first = &scored[0].rows[places[0][i]];
            let score =
                |metric: usize| each().map(|(scored, at)| scored.scores[metric][at].clone().ok()).collect();
            Side {
                row: first.row,
                prompt: first.prompt.clone(),
                expected: first.expected.clone(),
                answers: each().map(|(scored, at)| scored.rows[at].answer.clone()).collect(),
                scores: (0..metrics.len()).map(score).collect(),
            }
        };
        SideBySide { names, rows: (0..count).map(side).collect(), metrics }
    }

    /// Which models are best on a row by the metric at that place; none where all are level.
    pub fn best(&self, row: &Side, metric: usize) -> Vec<usize> {
        let direction = self.metrics[metric].direction;
        let costs: Vec<Option<f64>> =
            row.scores[metric].iter().map(|score| score.map(|score| direction.score(score))).collect();
        let least = costs.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        match costs.iter().flatten().any(|cost| *cost > least) {
            true => (0..costs.len()).filter(|&i| costs[i] == Some(least)).collect(),
            false => Vec::new(),
        }
    }

    /// On how many rows each model alone is best by the metric at that place.
    pub fn wins(&self, metric: usize) -> Vec<usize> {
        let mut wins = vec![0; self.names.len()];
        for row in &self.rows {
            if let [alone] = self.best(row, metric)[..] {
                wins[alone] += 1;
            }
        }
        wins
    }

    /// A line for each metric: who wins on how many rows; a row without a single best is a tie.
    pub fn in_words(&self) -> Vec<String> {
        let line = |(i, metric): (usize, &&Metric)| {
            let wins = self.wins(i);
            let ties = self.rows.len() - wins.iter().sum::<usize>();
            let mut order: Vec<usize> = (0..wins.len()).filter(|&i| wins[i] > 0).collect();
            order.sort_by_key(|&i| std::cmp::Reverse(wins[i]));
            let mut words: Vec<String> =
                order.iter().map(|&i| format!("{} wins {}", self.names[i], wins[i])).collect();
            words.push(if ties == 0 { "no ties".to_owned() } else { counted(ties, "tie", "ties") });
            let rows = counted(self.rows.len(), "row", "rows");
            format!("{} on {rows}: {}", metric.name, words.join(", "))
        };
        self.metrics.iter().enumerate().map(line).collect()
    }

    /// The rows as JSON objects.
    pub fn to_json(&self) -> Vec<Value> {
        self.rows.iter().map(|row| self.row_to_json(row)).collect()
    }

    fn row_to_json(&self, row: &Side) -> Value {
        let by_name = |value: &dyn Fn(usize) -> Value| -> Value {
            let each = self.names.iter().enumerate().map(|(i, name)| (name.clone(), value(i)));
            Value::Object(each.collect())
        };
        let (mut scores, mut best) = (Map::new(), Map::new());
        for (i, metric) in self.metrics.iter().enumerate() {
            scores.insert(metric.name.to_owned(), by_name(&|run| json!(row.scores[i][run])));
            let names: Vec<&String> = self.best(row, i).into_iter().map(|run| &self.names[run]).collect();
            best.insert(metric.name.to_owned(), json!(names));
        }
        let Side { row: number, prompt, expected, answers, .. } = row;
        json!({ "row": number, "prompt": prompt, "expected": expected, "answers": by_name(&|run| json!(answers[run])),
            "scores": scores, "best": best })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answered, Criteria, Metrics};
    use super::*;

    fn scored(rows: &[(usize, &str)]) -> Scored {
        let answered = |&(row, answer): &(usize, &str)| {
            let [prompt, expected, answer] = ["?", "1", answer].map(str::to_owned);
            Answered { row, prompt, expected, answer, options: None }
        };
        let list = ["exact_match", "number"].map(|name| Metric::named(name).unwrap()).to_vec();
        let metrics = Metrics { list, criteria: Criteria::default() };
        metrics.score(rows.iter().map(answered).collect(), &mut || false).unwrap()
    }

    #[test]
    fn who_alone_is_best_wins_a_row() {
        let a = scored(&[(1, "1"), (2, "1"), (3, "2"), (5, "1")]);
        let b = scored(&[(1, "1.0"), (2, "1"), (3, "1"), (4, "1"), (5, "2")]);
        let c = scored(&[(1, "1"), (2, "1"), (3, "1.00"), (4, "1"), (5, "2")]);
        let both = SideBySide::of(["a", "b", "c"].map(str::to_owned).to_vec(), &[a, b, c]);
        assert_eq!(both.rows.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 2, 3, 5]);
        // Row 1: a and c. Row 2: level. Row 3: b alone. Row 5: a alone.
        assert_eq!(
            both.rows.iter().map(|row| both.best(row, 0)).collect::<Vec<_>>(),
            [vec![0, 2], vec![], vec![1], vec![0]]
        );
        assert_eq!([both.wins(0), both.wins(1)], [[1, 1, 0], [1, 0, 0]]);
        assert_eq!(both.in_words()[0], "exact_match on 4 rows: a wins 1, b wins 1, 2 ties");
        let row = &both.to_json()[2];
        assert_eq!(row["answers"], json!({ "a": "2", "b": "1", "c": "1.00" }));
        assert_eq!(row["scores"]["number"], json!({ "a": 0.0, "b": 1.0, "c": 1.0 }));
        assert_eq!(row["best"], json!({ "exact_match": ["b"], "number": ["b", "c"] }));
    }
}
