//! Which layers something is said of.

/// A pattern of layers that repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPattern(Vec<bool>);

impl LayerPattern {
    /// Every layer.
    pub(crate) fn all() -> Self {
        LayerPattern(vec![true])
    }

    /// No layer.
    pub(crate) fn none() -> Self {
        LayerPattern(vec![false])
    }

    /// Every layer but each `period`th.
    pub(crate) fn all_but_each(period: usize) -> Self {
        LayerPattern((1..=period).map(|layer| layer < period).collect())
    }

    /// The shortest pattern that says `of` of each of the first `layers` layers.
    pub(crate) fn over(layers: usize, of: impl Fn(usize) -> bool) -> Self {
        let list: Vec<bool> = (0..layers).map(of).collect();
        let repeats = |period: &usize| list.iter().enumerate().all(|(i, value)| *value == list[i % period]);
        let period = (1..layers).find(repeats).unwrap_or(layers);
        LayerPattern(if layers == 0 { vec![false] } else { list[..period].to_vec() })
    }

    /// Whether it is said of `layer`.
    pub fn contains(&self, layer: usize) -> bool {
        self.0[layer % self.0.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_equal_patterns() {
        let global = LayerPattern::all_but_each(3);
        assert_eq!(LayerPattern::over(7, |layer| global.contains(layer)), global);
        assert_eq!(LayerPattern::over(2, |layer| global.contains(layer)), LayerPattern::all());
        assert_eq!(LayerPattern::over(4, |layer| layer >= 2), LayerPattern(vec![false, false, true, true]));
        assert!(!global.contains(5) && global.contains(6));
    }
}
