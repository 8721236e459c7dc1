//! The colours of figures: eight that are told apart, grey for all beyond, and shades for what has an order.
//!
//! In a page a colour is a variable of its style (`shell.css`), which has one value on white and one on dark; in a file it is
//! the value on white.

/// Colours of things without an order, on white. Each has a contrast of 4.5 with the paper, in both themes, so that letters
/// in the colour of the paper are read on it.
pub const NAMED: [&str; 8] =
    ["#0072b2", "#b84300", "#007a55", "#a83e85", "#7d6000", "#6a3fb5", "#3d4148", "#8c2f2f"];
/// The colour of all further ones, on white.
pub const OTHER: &str = "#6b7177";
/// Shades of things with an order, on white: viridis up to where it is too bright for a line.
pub const SHADES: [&str; 8] =
    ["#440154", "#461d6d", "#44377f", "#3c4f8a", "#33648d", "#2a788e", "#238c8c", "#249f86"];

/// The colour of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// That of its number; grey from the ninth on.
    Number(usize),
    /// Its place between 0 and 1 in an order.
    Shade(f64),
    /// Grey.
    Other,
}

impl Colour {
    /// The name of its variable in a page, without dashes.
    pub fn variable(self) -> String {
        match self {
            Colour::Number(n) if n < NAMED.len() => format!("c{n}"),
            Colour::Shade(place) => format!("s{}", shade(place)),
            Colour::Number(_) | Colour::Other => "other".to_owned(),
        }
    }

    /// Its value on white.
    pub fn on_white(self) -> &'static str {
        match self {
            Colour::Number(n) => NAMED.get(n).copied().unwrap_or(OTHER),
            Colour::Shade(place) => SHADES[shade(place)],
            Colour::Other => OTHER,
        }
    }

    /// Whether it is the grey that many share.
    pub fn is_other(self) -> bool {
        match self {
            Colour::Number(n) => n >= NAMED.len(),
            Colour::Shade(_) => false,
            Colour::Other => true,
        }
    }
}

fn shade(place: f64) -> usize {
    (place.clamp(0.0, 1.0) * (SHADES.len() - 1) as f64).round() as usize
}

/// The colour of a place between 0 and 1 in a heat map: viridis (Smith and van der Walt 2015), of nine of its colours.
pub fn viridis(place: f64) -> String {
    const STOPS: [[u8; 3]; 9] = [
        [0x44, 0x01, 0x54],
        [0x47, 0x2d, 0x7b],
        [0x3b, 0x52, 0x8b],
        [0x2c, 0x72, 0x8e],
        [0x21, 0x91, 0x8c],
        [0x28, 0xae, 0x80],
        [0x5e, 0xc9, 0x62],
        [0xad, 0xdc, 0x30],
        [0xfd, 0xe7, 0x25],
    ];
    let at = place.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let (below, share) = ((at as usize).min(STOPS.len() - 2), at - (at as usize).min(STOPS.len() - 2) as f64);
    let mixed = |i: usize| {
        let (a, b) = (f64::from(STOPS[below][i]), f64::from(STOPS[below + 1][i]));
        (a + (b - a) * share).round() as u8
    };
    format!("#{:02x}{:02x}{:02x}", mixed(0), mixed(1), mixed(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heat_maps_go_from_dark_to_bright() {
        assert_eq!([0.0, 0.5, 1.0].map(viridis), ["#440154", "#21918c", "#fde725"]);
    }

    #[test]
    fn there_are_eight_colours_and_grey() {
        let variables: Vec<String> = (0..20).map(|n| Colour::Number(n).variable()).collect();
        assert_eq!(variables[7], "c7");
        assert!(variables[8..].iter().all(|name| name == "other"));
        assert!(Colour::Number(8).is_other() && !Colour::Number(7).is_other());
        assert_eq!(
            [0.0, 0.5, 1.0, 7.0].map(|place| Colour::Shade(place).variable()),
            ["s0", "s4", "s7", "s7"]
        );
    }
}
