//! The 8-bit dynamic codes of bitsandbytes (Dettmers 2016, "8-Bit Approximations for Parallelism in Deep Learning",
//! section 3): 256 values up to 1, a decimal exponent and an evenly divided fraction each. The signed one holds the
//! absmax of 4-bit blocks under double quantisation and the first moment of 8-bit AdamW, the unsigned one, with twice
//! as many fractions, the second moment.

use std::sync::LazyLock;

/// The code from -1 to 1, ascending.
pub fn signed() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| build(true));
    &MAP
}

/// The code from 0 to 1, ascending.
pub fn unsigned() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| build(false));
    &MAP
}

fn build(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for i in 0..7 {
        // The fraction of exponent i - 6 divides 0.1 to 1 into 2^i parts, or twice as many without a sign, represented
        // by their middles.
        let items = (1usize << if signed { i } else { i + 1 }) + 1;
        let step = (1.0f32 - 0.1) / (items - 1) as f32;
        // From both ends and rounded once, as torch.linspace computes it.
        let bound = |j: usize| match j < items / 2 {
            true => step.mul_add(j as f32, 0.1),
            false => (-step).mul_add((items - 1 - j) as f32, 1.0),
        };
        let power = 10f64.powi(i - 6) as f32;
        for j in 0..items - 1 {
            let middle = power * ((bound(j) + bound(j + 1)) / 2.0);
            values.push(middle);
            if signed {
                values.push(-middle);
            }
        }
    }
    values.sort_by(f32::total_cmp);
    values.try_into().expect("2 values, and 2 * (1 + 2 + ... + 64)")
}

/// The code of `value`, which lies between the first and the last of `map`.
///
/// As bitsandbytes does on the CPU, the value is first rounded to one of 65,536 evenly spaced ones and the code
/// nearest to that is taken, the lower of two equally near ones.
pub fn nearest(map: &[f32; 256], value: f32) -> u8 {
    const STEPS: f32 = 65_535.0;
    let place = ((value.clamp(-1.0, 1.0) + 1.0) * 0.5 * STEPS + 0.5).floor();
    let even = -1.0 + 2.0 * place / STEPS;
    let (mut low, mut high) = (0, 255);
    while low < high {
        let middle = (low + high) / 2;
        if 0.5 * (map[middle] + map[middle + 1]) < even { low = middle + 1 } else { high = middle }
    }
    low as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_beyond_the_even_steps_are_nearest_to_themselves() {
        for map in [signed(), unsigned()] {
            assert!(map.is_sorted());
            for (i, &value) in map.iter().enumerate() {
                // Codes closer to each other than the even steps cannot all be reached.
                if value.abs() > 1e-3 {
                    assert_eq!(usize::from(nearest(map, value)), i);
                }
            }
            assert_eq!(nearest(map, 1.0), 255);
        }
        assert_eq!(nearest(signed(), -1.0), 0);
    }
}
