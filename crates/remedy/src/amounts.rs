//! Amounts as people read them: counts, memory, times, shares and perplexities.
//!
//! Everything that is printed for people is formatted here, so that an amount looks the same wherever it stands: one blank
//! between number and unit, thousands grouped, and no more digits than say something.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `1 row`, `2 rows`, `1,000 rows`.
pub fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{} {}", grouped(number as u64), if number == 1 { one } else { several })
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number that may lie between two whole ones, as a median does: `1,234`, `4.5`.
pub fn half(number: f64) -> String {
    match number.fract() == 0.0 {
        true => grouped(number as u64),
        false => format!("{}.{:.0}", grouped(number as u64), 10.0 * number.fract()),
    }
}

/// Bytes of memory or of a file: `900 B`, `12 KiB`, `385 MiB`, `1.74 GiB`, `1,536.00 GiB`.
pub fn memory(bytes: u64) -> String {
    match bytes {
        // What would round to the next unit is said in that.
        n if n >= GIB - MIB / 2 => {
            let hundredths = (n as f64 / GIB as f64 * 100.0).round() as u64;
            format!("{}.{:02} GiB", grouped(hundredths / 100), hundredths % 100)
        }
        n if n >= MIB - KIB / 2 => format!("{:.0} MiB", n as f64 / MIB as f64),
        n if n >= KIB => format!("{:.0} KiB", n as f64 / KIB as f64),
        n => format!("{n} B"),
    }
}

/// Two amounts of memory, of which the first is more, in digits in which they differ: `1.20 GiB` and `900 MiB`, but `38,401 KiB` and
/// `38,400 KiB` where both are `38 MiB`.
pub fn more_and_less(more: u64, less: u64) -> [String; 2] {
    let in_unit =
        |bytes: u64, unit: u64, name: &str| format!("{} {name}", grouped((bytes + unit / 2) / unit));
    let finer = [(MIB, "MiB"), (KIB, "KiB"), (1, "B")];
    let ways = finer.into_iter().filter(|(unit, _)| *unit <= less);
    let ways = ways.map(|(unit, name)| [more, less].map(|bytes| in_unit(bytes, unit, name)));
    let mut ways = std::iter::once([memory(more), memory(less)]).chain(ways);
    let told = ways.find(|[more, less]| more != less);
    told.unwrap_or_else(|| [more, less].map(|bytes| in_unit(bytes, 1, "B")))
}

/// Bytes that are sent, in decimal units as the hub shows them: `900 B`, `12 kB`, `385.1 MB`, `1.74 GB`.
pub fn transfer(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// A time: `0.4 s`, `59 s`, `1 min 30 s`, `1 h 02 min`, `2 d 03 h`. What is no time, such as a negative one, is `0 s`.
pub fn duration(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let whole = time.as_secs_f64().round() as u64;
    match (whole / 86400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        _ if (0.05..9.95).contains(&time.as_secs_f64()) => format!("{:.1} s", time.as_secs_f64()),
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, _, _) => format!("{days} d {hours:02} h"),
    }
}

/// A share between 0 and 1 with so many decimals: `12.5 %`.
pub fn percent(share: f64, decimals: usize) -> String {
    format!("{:.decimals$} %", 100.0 * share)
}

/// What is trained of all parameters: `2,442,240 of 136,957,248 (1.783 %)`.
pub fn trainable(trained: u64, all: u64) -> String {
    let share = percent(trained as f64 / all.max(1) as f64, 3);
    format!("{} of {} ({share})", grouped(trained), grouped(all))
}

/// A perplexity in four digits: `1.008`, `24.74`, `1,234`, `2.35e7`. An infinite one, which is that of a loss above 709, is
/// `infinite`.
pub fn perplexity(value: f64) -> String {
    match value {
        _ if value.is_nan() => "not a number".to_owned(),
        _ if value.is_infinite() => "infinite".to_owned(),
        // What would round to the next power of ten has a digit less.
        ..9.9995 => format!("{value:.3}"),
        ..99.995 => format!("{value:.2}"),
        ..999.95 => format!("{value:.1}"),
        ..999_999.5 => grouped(value.round() as u64),
        _ => format!("{value:.2e}"),
    }
}

/// How much larger or smaller `to` is than `from`, which is above 0: `-99.9 %`, `+3.0 %`.
pub fn change(from: f64, to: f64) -> String {
    let text = format!("{:+.1} %", 100.0 * (to - from) / from);
    // Nothing has no sign.
    if text[1..].starts_with("0.0 ") { text[1..].to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_more_is_told_as_more() {
        assert_eq!(more_and_less(2 * GIB, 900 * MIB), ["2.00 GiB", "900 MiB"]);
        assert_eq!(more_and_less(2 * GIB + MIB, 2 * GIB), ["2,049 MiB", "2,048 MiB"]);
        assert_eq!(more_and_less(37 * MIB, 37 * MIB - 200 * KIB), ["37,888 KiB", "37,688 KiB"]);
        assert_eq!(more_and_less(37 * MIB + 1, 37 * MIB), ["38,797,313 B", "38,797,312 B"]);
        for less in [0, 1, 1000, KIB, MIB - 1, 37_500 * KIB, 5 * GIB] {
            for more in [1, 2, 500, KIB, MIB, 300 * MIB].map(|bytes| less + bytes) {
                let [told, other] = more_and_less(more, less);
                assert_ne!(told, other, "{more} and {less}");
            }
        }
    }

    #[test]
    fn thousands_are_grouped_and_one_is_no_plural() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        let shown = [0, 1, 2, 1000].map(|number| counted(number, "row", "rows"));
        assert_eq!(shown, ["0 rows", "1 row", "2 rows", "1,000 rows"]);
    }

    #[test]
    fn halves_are_shown_where_there_are_some() {
        assert_eq!([0.0, 4.0, 4.5, 1234.0, 1234.5].map(half), ["0", "4", "4.5", "1,234", "1,234.5"]);
    }

    #[test]
    fn memory_is_in_the_unit_that_leaves_digits() {
        let shown = [0, 1023, 1024, 12 << 10, MIB - 1, 9 << 20, 385 << 20, GIB - 1, 7 << 28, 3 << 39];
        let expected = [
            "0 B",
            "1023 B",
            "1 KiB",
            "12 KiB",
            "1 MiB",
            "9 MiB",
            "385 MiB",
            "1.00 GiB",
            "1.75 GiB",
            "1,536.00 GiB",
        ];
        assert_eq!(shown.map(memory), expected);
        assert_eq!(
            [999, 1_500, 2_500_000, 1_740_000_000].map(transfer),
            ["999 B", "2 kB", "2.5 MB", "1.74 GB"]
        );
    }

    #[test]
    fn times_have_two_units_at_most() {
        let shown = [0.0, 0.01, 0.44, 9.96, 59.4, 59.6, 90.0, 3599.7, 3720.0, 183_600.0, -1.0, f64::NAN]
            .map(duration);
        let expected = [
            "0 s",
            "0 s",
            "0.4 s",
            "10 s",
            "59 s",
            "1 min 00 s",
            "1 min 30 s",
            "1 h 00 min",
            "1 h 02 min",
            "2 d 03 h",
            "0 s",
            "0 s",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn perplexities_have_four_digits_and_never_a_row_of_them() {
        for (value, text) in [
            (1.0, "1.000"),
            (1.0076, "1.008"),
            (9.9996, "10.00"),
            (24.7368, "24.74"),
            (99.996, "100.0"),
            (433.24, "433.2"),
            (999.96, "1,000"),
            (1234.5678, "1,235"),
            (999_999.0, "999,999"),
            (999_999.9, "1.00e6"),
            (23_456_789.0, "2.35e7"),
            (1e300, "1.00e300"),
            (f64::INFINITY, "infinite"),
            (f64::NAN, "not a number"),
        ] {
            assert_eq!(perplexity(value), text);
            assert!(perplexity(value).len() <= 12);
        }
    }

    #[test]
    fn shares_are_percentages() {
        assert_eq!([percent(0.125, 1), percent(1.0, 0)], ["12.5 %", "100 %"]);
        assert_eq!(trainable(2_442_240, 136_957_248), "2,442,240 of 136,957,248 (1.783 %)");
        assert_eq!([change(2.0, 1.0), change(1.0, 1.03)], ["-50.0 %", "+3.0 %"]);
        assert_eq!(
            [1.0, 0.9999, 1.0001, 0.9994].map(|to| change(1.0, to)),
            ["0.0 %", "0.0 %", "0.0 %", "-0.1 %"]
        );
    }
}
