//! Numbers for people: counts, durations, bytes, estimates with their standard error. Display only; nothing here
//! feeds a computation. Units are spelled with a space ("3 min", "12 MB"); bytes are decimal (1 MB = 10^6).

/// "1,240" for exact counts.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Three significant digits with a suffix: 585k, 4.2M, 1.31B. Small values as [`number`].
pub fn short(v: f64) -> String {
    let a = v.abs();
    for (scale, suffix) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
        // 999.5 of the unit below would print as 1000
        if a >= scale * 0.9995 {
            return format!("{}{suffix}", significant(v / scale, 3));
        }
    }
    number(v)
}

/// Up to four significant digits, plain where it fits, else scientific. Not-a-number is said as such.
pub fn number(v: f64) -> String {
    if v.is_nan() {
        return "not a number".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "infinite".into() } else { "-infinite".into() };
    }
    let a = v.abs();
    if v == 0.0 {
        "0".into()
    } else if (1e-3..1e6).contains(&a) {
        significant(v, 4)
    } else {
        let s = format!("{v:.2e}");
        match s.split_once('e') {
            Some((m, e)) if m.contains('.') => {
                format!("{}e{e}", m.trim_end_matches('0').trim_end_matches('.'))
            }
            _ => s,
        }
    }
}

/// `digits` significant digits without trailing zeros after the point.
pub fn significant(v: f64, digits: i32) -> String {
    if v == 0.0 || !v.is_finite() {
        return format!("{v}");
    }
    let exponent = v.abs().log10().floor() as i32;
    let decimals = (digits - 1 - exponent).max(0) as usize;
    let s = format!("{v:.decimals$}");
    if s.contains('.') { s.trim_end_matches('0').trim_end_matches('.').to_string() } else { s }
}

/// "3.912 ± 0.0041": the error with two significant digits, the value with as many decimals.
pub fn plus_minus(value: f64, stderr: f64) -> String {
    if !value.is_finite() {
        return number(value);
    }
    if !(stderr.is_finite() && stderr > 0.0) {
        return format!("{value:.3}");
    }
    let decimals = (1 - stderr.abs().log10().floor() as i32).clamp(0, 6) as usize;
    format!("{value:.decimals$} ± {stderr:.decimals$}")
}

/// "45 s", "3 min 20 s", "2 h 05 min", "1 d 4 h".
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "unknown".into();
    }
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 9.95 {
        return format!("{} s", significant(seconds, 2));
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 if s.is_multiple_of(60) => format!("{} min", s / 60),
        60..600 => format!("{} min {:02} s", s / 60, s % 60),
        600..3600 => format!("{} min", (s + 30) / 60),
        3600..86400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ if s % 86400 < 3600 => format!("{} d", s / 86400),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// "just now", "3 min ago", "2 d ago": one unit.
pub fn ago(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..5 => "just now".into(),
        5..60 => format!("{s} s ago"),
        60..3600 => format!("{} min ago", s / 60),
        3600..86400 => format!("{} h ago", s / 3600),
        _ => format!("{} d ago", s / 86400),
    }
}

/// "12.3 MB"
pub fn bytes(n: u64) -> String {
    let v = n as f64;
    for (scale, unit) in [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")] {
        if v >= scale * 0.9995 {
            return format!("{} {unit}", significant(v / scale, 3));
        }
    }
    format!("{n} bytes")
}

/// "1.2 PFLOP"
pub fn flops(v: f64) -> String {
    for (scale, unit) in [(1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")] {
        if v >= scale * 0.9995 {
            return format!("{} {unit}", significant(v / scale, 3));
        }
    }
    format!("{} FLOP", number(v))
}

/// Labels of an axis: exactly the decimals that the step needs.
pub fn tick(v: f64, step: f64) -> String {
    if v == 0.0 {
        return "0".into();
    }
    let a = v.abs();
    if a >= 1e4 || (a >= 1e3 && step >= 500.0) {
        for (scale, suffix) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
            if a >= scale * 0.9995 {
                return format!("{:.*}{suffix}", decimals(step / scale), v / scale);
            }
        }
    }
    if a < 1e-4 {
        return number(v);
    }
    format!("{v:.*}", decimals(step))
}

/// The fewest decimals that write a multiple of `step` exactly, at most 8.
fn decimals(step: f64) -> usize {
    (0..8)
        .find(|d| {
            let scaled = step * 10f64.powi(*d);
            scaled >= 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled
        })
        .unwrap_or(8) as usize
}

/// "2026-11-24 13:50 UTC" of Unix seconds (days to civil date, Gregorian).
pub fn utc(unix: f64) -> String {
    if !unix.is_finite() {
        return "unknown".into();
    }
    let total = unix.floor() as i64;
    let (days, rest) = (total.div_euclid(86400), total.rem_euclid(86400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", rest / 3600, rest % 3600 / 60)
}

/// A tick of an axis whose ticks are `step` apart; 0 = not evenly.
pub fn axis_label(v: f64, step: f64) -> String {
    if step > 0.0 { tick(v, step) } else { short(v) }
}

/// Ticks of a time axis in the unit that suits its end.
pub fn time_label(v: f64, high: f64) -> String {
    let (unit, name) = match high {
        h if h < 180.0 => (1.0, "s"),
        h if h < 3.0 * 3600.0 => (60.0, "min"),
        _ => (3600.0, "h"),
    };
    format!("{} {name}", significant(v / unit, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_group_by_three() {
        assert_eq!([0, 7, 999, 1240, 1_000_000].map(count), ["0", "7", "999", "1,240", "1,000,000"]);
    }

    #[test]
    fn short_numbers_never_reach_a_thousand_of_their_unit() {
        assert_eq!(short(585_123.0), "585k");
        assert_eq!(short(999_960.0), "1M");
        assert_eq!(short(4_200_000.0), "4.2M");
        assert_eq!(short(-13_900_000.0), "-13.9M");
        assert_eq!(short(512.0), "512");
        assert_eq!(short(0.0003), "3e-4");
    }

    #[test]
    fn odd_values_are_words() {
        assert_eq!(number(f64::NAN), "not a number");
        assert_eq!(number(f64::NEG_INFINITY), "-infinite");
        assert_eq!(plus_minus(f64::NAN, 0.1), "not a number");
        assert_eq!(duration(f64::NAN), "unknown");
        assert_eq!(utc(f64::NAN), "unknown");
    }

    #[test]
    fn the_error_decides_the_digits() {
        assert_eq!(plus_minus(3.91234, 0.0041), "3.9123 ± 0.0041");
        assert_eq!(plus_minus(3.91234, 0.12), "3.91 ± 0.12");
        assert_eq!(plus_minus(3.91234, 0.0), "3.912");
        assert_eq!(plus_minus(120.0, 31.0), "120 ± 31");
    }

    #[test]
    fn durations_carry_two_units() {
        let cases = [
            (0.02, "20 ms"),
            (4.25, "4.2 s"),
            (45.0, "45 s"),
            (60.0, "1 min"),
            (200.0, "3 min 20 s"),
            (1830.0, "31 min"),
            (7500.0, "2 h 05 min"),
            (100_800.0, "1 d 4 h"),
            (172_900.0, "2 d"),
        ];
        for (s, text) in cases {
            assert_eq!(duration(s), text, "{s}");
        }
        assert_eq!([3.0, 64.0, 7300.0, 2e5].map(ago), ["just now", "1 min ago", "2 h ago", "2 d ago"]);
    }

    #[test]
    fn bytes_and_flops() {
        assert_eq!(bytes(950), "950 bytes");
        assert_eq!(bytes(12_345_678), "12.3 MB");
        assert_eq!(flops(1.23e15), "1.23 PFLOP");
    }

    #[test]
    fn neighbouring_ticks_differ() {
        for step in [2.5e-4, 0.001, 0.02, 0.5, 1.0, 25.0, 500.0, 2e4, 5e5, 2.5e6] {
            let mut seen = std::collections::BTreeSet::new();
            for i in 1..8 {
                assert!(seen.insert(tick(step * f64::from(i), step)), "{step} {i} {seen:?}");
            }
        }
        // a quarter step is not rounded away
        assert_eq!([1.0, 2.0, 3.0].map(|i| tick(i * 2.5e-4, 2.5e-4)), ["0.00025", "0.00050", "0.00075"]);
        assert_eq!(tick(1250.0, 250.0), "1250");
        assert_eq!(tick(12_500.0, 2500.0), "12.5k");
        assert_eq!(tick(2000.0, 500.0), "2.0k");
        assert_eq!(tick(2500.0, 500.0), "2.5k");
        assert_eq!(tick(3.5, 0.5), "3.5");
    }

    #[test]
    fn dates_known_from_elsewhere() {
        assert_eq!(utc(0.0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_796_000_000.0), "2026-11-30 00:53 UTC");
    }
}
