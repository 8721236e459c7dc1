//! Stop strings: found wherever tokens cut them, and never shown in part.

/// Text of an answer on its way to the client.
#[derive(Clone, Debug)]
pub struct StopFinder {
    stops: Vec<String>,
    /// What may be the beginning of a stop string.
    held: String,
}

/// What became certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Text that no stop string is part of.
    pub text: String,
    /// Whether a stop string follows it.
    pub stopped: bool,
}

impl StopFinder {
    /// For these stop strings, none of which is empty.
    pub fn new(stops: Vec<String>) -> Self {
        StopFinder { stops, held: String::new() }
    }

    /// Takes the next piece of the text.
    pub fn push(&mut self, piece: &str) -> Found {
        if self.stops.is_empty() {
            return Found { text: piece.to_owned(), stopped: false };
        }
        self.held.push_str(piece);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Found { text: std::mem::take(&mut self.held), stopped: true };
        }
        let keep = self.stops.iter().map(|stop| begun(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Found { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What is held back at the end, where no stop string follows any more.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are the beginning of `stop`: the most there are.
fn begun(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).skip(1);
    ends.filter(|&at| text.ends_with(&stop[..at])).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of `text` where it comes in pieces cut at `cuts`, and whether it was stopped.
    fn shown(text: &[char], cuts: usize, stops: &[&str]) -> (String, bool) {
        let mut finder = StopFinder::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut all = String::new();
        let mut piece = String::new();
        for (at, c) in text.iter().enumerate() {
            piece.push(*c);
            if cuts >> at & 1 == 1 || at + 1 == text.len() {
                let found = finder.push(&piece);
                all.push_str(&found.text);
                if found.stopped {
                    return (all, true);
                }
                piece.clear();
            }
        }
        all.push_str(&finder.finish());
        (all, false)
    }

    #[test]
    fn stops_are_found_wherever_tokens_cut_them() {
        let cases: [(&str, &[&str], &str, bool); 6] = [
            ("aabab", &["ab"], "a", true),
            ("aaaab", &["aab"], "aa", true),
            ("abcabd", &["abd", "x"], "abc", true),
            ("ab\nc", &["\n\n"], "ab\nc", false),
            ("größe", &["ß", "öß"], "gr", true),
            ("abcab", &["abx"], "abcab", false),
        ];
        for (text, stops, expected, stopped) in cases {
            let text: Vec<char> = text.chars().collect();
            for cuts in 0..1 << text.len() {
                let found = shown(&text, cuts, stops);
                assert_eq!(found, (expected.to_owned(), stopped), "{text:?} {cuts:b} {stops:?}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_that_begins_no_stop() {
        let mut finder = StopFinder::new(vec!["END".to_owned()]);
        assert_eq!(finder.push("the "), Found { text: "the ".to_owned(), stopped: false });
        assert_eq!(finder.push("E"), Found { text: String::new(), stopped: false });
        assert_eq!(finder.push("N"), Found { text: String::new(), stopped: false });
        assert_eq!(finder.push("T"), Found { text: "ENT".to_owned(), stopped: false });
    }
}
