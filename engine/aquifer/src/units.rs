//! Sizes, durations and addresses as people write them, and the clock of this machine.

use crate::failure::Failure;
pub use aquifer_member::Address;

/// A size in bytes from "256M", "4G", "8192", "1MiB". Units are binary.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size; write 256M or 4G"))?;
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(format!("`{text}` is not a size; its unit is one of K, M, G, T")),
    };
    number
        .checked_mul(1u64 << shift)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// A size for people: "4.0 GiB".
pub fn show_size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// Something that can be had or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// With it.
    On,
    /// Without it.
    Off,
}

/// Nanoseconds of CLOCK_BOOTTIME: the clock of node timelines, the same for all processes of this machine.
pub fn boottime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).expect("boot time is not negative") * 1_000_000_000
        + u64::try_from(now.tv_nsec).expect("nanoseconds are not negative")
}

/// Milliseconds from `origin` to `instant`, both nanoseconds of CLOCK_BOOTTIME; negative when it came before.
pub fn milliseconds_after(origin: u64, instant: u64) -> f64 {
    let nanoseconds = instant as f64 - origin as f64;
    (nanoseconds / 1e5).round() / 10.0
}

/// A node id from the command line.
pub fn node_id(id: u8) -> Result<aquifer_dss_proto::NodeId, Failure> {
    aquifer_dss_proto::NodeId::new(id).ok_or_else(|| {
        Failure::usage(format!(
            "{id} is not a node id; ids are 1 to {}",
            aquifer_dss_proto::NodeId::MAX
        ))
    })
}

/// Wall clock in UTC as RFC 3339, for people and logs only; no decision is taken from it.
pub fn wall_clock() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map(|d| d.as_secs())
        .unwrap_or_default();
    show_time(seconds, 'T')
}

/// Seconds since 1970 as date and time in UTC, with `between` them.
pub fn show_time(seconds: u64, between: char) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days since 1970-01-01 (Howard Hinnant's algorithm, years from 0000-03-01).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let part = (5 * of_year + 2) / 153;
    let day = of_year - (153 * part + 2) / 5 + 1;
    let month = if part < 10 { part + 3 } else { part - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}{between}{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A path from the command line, from the root on.
pub fn absolute(path: &std::path::Path) -> Result<std::path::PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(show_time(0, ' '), "1970-01-01 00:00:00Z");
        assert_eq!(show_time(1_709_210_096, 'T'), "2024-02-29T12:34:56Z");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("512"), Ok(512));
        assert!(parse_size("4X").is_err());
        assert!(parse_size("").is_err());
        assert!(parse_size("99999999999T").is_err());
    }
}
