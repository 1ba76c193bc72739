//! Values as a user types them: sizes, durations, names of tiers.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::life::DetachKeys;
use crate::name::similar;
use crate::spec::{MAX_CPUS, MAX_PROCESSES, MIN_MEMORY_MIB, MIN_PROCESSES, Network, SpecError};
use crate::tier::{Isolation, Tier, UnknownName};

/// The tier that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TierWish {
    /// The strongest that this machine has.
    Auto,
    /// This one and no other.
    Named(Tier),
}

impl TierWish {
    /// The tier that is named, if one is.
    #[must_use]
    pub const fn named(self) -> Option<Tier> {
        match self {
            Self::Auto => None,
            Self::Named(tier) => Some(tier),
        }
    }
}

impl FromStr for TierWish {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "auto" {
            Ok(Self::Auto)
        } else {
            name.parse().map(Self::Named)
        }
    }
}

pub(super) fn tier_parser() -> impl TypedValueParser<Value = TierWish> {
    let names = std::iter::once("auto").chain(Tier::ALL.map(Tier::name));
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

pub(super) fn named_tier_parser() -> impl TypedValueParser<Value = Tier> {
    PossibleValuesParser::new(Tier::ALL.map(Tier::name)).try_map(|name| name.parse())
}

pub(super) fn isolation_parser() -> impl TypedValueParser<Value = Isolation> {
    let names = Isolation::ALL.map(Isolation::name).into_iter().rev();
    PossibleValuesParser::new(names).try_map(|name| name.parse())
}

pub(super) fn network_parser() -> impl TypedValueParser<Value = Network> {
    PossibleValuesParser::new(Network::ALL.map(Network::name)).map(|name| {
        // The parser before this one lets no other name pass.
        let named = Network::ALL.into_iter().find(|mode| mode.name() == name);
        named.unwrap_or_default()
    })
}

/// What is no size, duration or count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// Not a size.
    #[error("a size is a whole number and a unit: 64K, 512M, 2G")]
    Size,
    /// A size that does not fit.
    #[error("the size is too large")]
    SizeTooLarge,
    /// A size that is no number of MiB.
    #[error("memory comes in whole MiB: 128M, 2G")]
    NotMebibytes,
    /// Not a duration.
    #[error("a duration is a number and a unit: 500ms, 30s, 2m; a number alone means seconds")]
    Duration,
    /// No time at all.
    #[error("the duration must be longer than nothing")]
    NoTime,
    /// Not a label.
    #[error("a label is KEY=VALUE")]
    Label,
    /// Not a signal.
    #[error("a signal is a name or a number: TERM, SIGHUP, 9{}", did_you_mean(*.0))]
    Signal(Option<&'static str>),
    /// Not keys.
    #[error("keys are letters and ctrl-LETTER, with commas between: ctrl-p,ctrl-q")]
    Keys,
    /// Not a moment.
    #[error(
        "a moment is a time ago (10m), a date and time (2026-01-31T12:00:00Z), or a Unix time in seconds"
    )]
    Moment,
    /// Not a number of lines.
    #[error("a number of lines is a whole number, or all")]
    Lines,
    /// Not a number of CPUs.
    #[error("not a number of CPUs")]
    NotACount,
    /// Not a number of processes.
    #[error("not a number of processes")]
    NotProcesses,
    /// Out of what a sandbox can have.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

/// A size in bytes: `64K`, `512M`, `512MiB`, `2g`. Nothing is nothing in every unit.
pub(super) fn parse_size(text: &str) -> Result<u64, ValueError> {
    if text == "0" {
        return Ok(0);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or(ValueError::Size)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(ValueError::Size),
    };
    if number.is_empty() {
        return Err(ValueError::Size);
    }
    let number: u64 = number.parse().map_err(|_| ValueError::SizeTooLarge)?;
    number
        .checked_mul(1 << shift)
        .ok_or(ValueError::SizeTooLarge)
}

/// A size in MiB.
pub(super) fn parse_mib(text: &str) -> Result<u32, ValueError> {
    let bytes = parse_size(text)?;
    if bytes % (1 << 20) != 0 {
        return Err(ValueError::NotMebibytes);
    }
    u32::try_from(bytes >> 20).map_err(|_| ValueError::SizeTooLarge)
}

/// The memory of a sandbox in MiB.
pub(super) fn parse_memory(text: &str) -> Result<u32, ValueError> {
    let mib = parse_mib(text)?;
    if mib < MIN_MEMORY_MIB {
        return Err(SpecError::TooLittleMemory { mib: mib.into() }.into());
    }
    Ok(mib)
}

/// A number of CPUs.
pub(super) fn parse_cpus(text: &str) -> Result<u8, ValueError> {
    let cpus: u64 = text.parse().map_err(|_| ValueError::NotACount)?;
    match u8::try_from(cpus) {
        Ok(count @ 1..=MAX_CPUS) => Ok(count),
        _ => Err(SpecError::Cpus { cpus }.into()),
    }
}

/// A number of processes.
pub(super) fn parse_processes(text: &str) -> Result<u32, ValueError> {
    let processes: u64 = text.parse().map_err(|_| ValueError::NotProcesses)?;
    match u32::try_from(processes) {
        Ok(count @ MIN_PROCESSES..=MAX_PROCESSES) => Ok(count),
        _ => Err(SpecError::Processes { processes }.into()),
    }
}

/// A duration: `500ms`, `30s`, `1m 30s`; a number alone means seconds, as for timeout(1).
pub(crate) fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    match parse_grace(text)? {
        Duration::ZERO => Err(ValueError::NoTime),
        duration => Ok(duration),
    }
}

/// A duration that may be none at all.
pub(super) fn parse_grace(text: &str) -> Result<Duration, ValueError> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|_| ValueError::Duration),
    }
}

/// A number of lines: one that is never reached for all of them.
pub(super) fn parse_lines(text: &str) -> Result<usize, ValueError> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| ValueError::Lines),
    }
}

/// A label: `key=value`, or a key alone.
pub(super) fn parse_label(text: &str) -> Result<(String, String), ValueError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(ValueError::Label);
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A signal: `KILL`, `SIGKILL` or `9`.
pub(super) fn parse_signal(text: &str) -> Result<u8, ValueError> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = match text.parse::<u8>() {
        Ok(number) => Some(number).filter(|number| (1..=64).contains(number)),
        Err(_) => SIGNALS
            .iter()
            .position(|known| *known == name)
            .and_then(|index| u8::try_from(index + 1).ok()),
    };
    number.ok_or_else(|| ValueError::Signal(similar(name, SIGNALS)))
}

fn did_you_mean(similar: Option<&str>) -> String {
    similar.map_or_else(String::new, |similar| format!("; did you mean {similar}?"))
}

/// The signals of a Linux sandbox by their numbers, from 1 on (signal(7), the x86 column).
pub(in crate::cli) const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Keys, with commas between: `ctrl-p`, `ctrl-]`, `a`. Nothing for none.
pub(super) fn parse_detach_keys(text: &str) -> Result<DetachKeys, ValueError> {
    let key = |key: &str| -> Result<u8, ValueError> {
        match key.as_bytes() {
            [letter] if letter.is_ascii() => Ok(*letter),
            [b'c', b't', b'r', b'l', b'-', key] => match key.to_ascii_uppercase() {
                // ECMA-48: the control characters are the columns 4 and 5 with bit 7 cleared.
                key @ b'@'..=b'_' => Ok(key & 0x1f),
                _ => Err(ValueError::Keys),
            },
            _ => Err(ValueError::Keys),
        }
    };
    if text.is_empty() {
        return Ok(DetachKeys::default());
    }
    text.split(',')
        .map(key)
        .collect::<Result<_, _>>()
        .map(DetachKeys)
}

/// A moment: so long ago, RFC 3339, or a Unix time.
pub(super) fn parse_since(text: &str) -> Result<SystemTime, ValueError> {
    if let Some(time) = text.parse().ok().filter(|seconds| *seconds > LONG_AGO) {
        let since = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time));
        return since.ok_or(ValueError::Moment);
    }
    if let Ok(ago) = parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or(ValueError::Moment);
    }
    let (moment, east) = split_offset(text).unwrap_or((text, 0));
    let moment = humantime::parse_rfc3339_weak(moment).map_err(|_| ValueError::Moment)?;
    let offset = Duration::from_secs(east.unsigned_abs());
    let moment = match east {
        0.. => moment.checked_sub(offset),
        _ => moment.checked_add(offset),
    };
    moment.ok_or(ValueError::Moment)
}

/// Nothing is asked for that is so many seconds old (ten years): such a number is a Unix time.
const LONG_AGO: u64 = 10 * 365 * 24 * 60 * 60;

/// A date and time, and how many seconds its clock is ahead of UTC, if it says so (`+01:00`).
fn split_offset(text: &str) -> Option<(&str, i64)> {
    let (moment, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    // Without a time, what looks like it is a part of the date.
    moment.contains(':').then_some(())?;
    let (sign, offset) = offset.split_at_checked(1)?;
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, max: i64| -> Option<i64> {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number)?;
        (number <= max).then_some(number)
    };
    let seconds = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    match sign {
        "+" => Some((moment, seconds)),
        "-" => Some((moment, -seconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_need_a_unit() {
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("512m"), Ok(512 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert_eq!(parse_size("7b"), Ok(7));
        assert_eq!(parse_size("0"), Ok(0));
        for bad in ["", "512", "M", "1.5G", "-1M", "1 M", "12X", "é"] {
            assert_eq!(parse_size(bad), Err(ValueError::Size), "{bad:?}");
        }
        assert_eq!(
            parse_size("99999999999999999999M"),
            Err(ValueError::SizeTooLarge)
        );
        assert_eq!(parse_size("99999999T"), Err(ValueError::SizeTooLarge));
    }

    #[test]
    fn memory_is_counted_in_mebibytes_and_has_a_floor() {
        assert_eq!(parse_memory("2G"), Ok(2048));
        assert_eq!(parse_memory("1025K"), Err(ValueError::NotMebibytes));
        let error = parse_memory("16M").unwrap_err().to_string();
        assert_eq!(error, "16 MiB of memory: a sandbox needs at least 32 MiB");
    }

    #[test]
    fn cpus_have_limits() {
        assert_eq!(parse_cpus("32"), Ok(32));
        assert_eq!(
            parse_cpus("33").unwrap_err().to_string(),
            "33 CPUs: a sandbox has 1 to 32"
        );
        assert_eq!(
            parse_cpus("0").unwrap_err().to_string(),
            "0 CPUs: a sandbox has 1 to 32"
        );
        assert_eq!(
            parse_cpus("99999").unwrap_err().to_string(),
            "99999 CPUs: a sandbox has 1 to 32"
        );
        assert_eq!(parse_cpus("two"), Err(ValueError::NotACount));
    }

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("soon"), Err(ValueError::Duration));
        assert_eq!(parse_duration("0s"), Err(ValueError::NoTime));
        assert_eq!(parse_duration("-1s"), Err(ValueError::Duration));
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["9", "KILL", "SIGKILL", "kill"] {
            assert_eq!(parse_signal(text), Ok(9), "{text}");
        }
        for text in ["", "0", "65", "SING"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
        let error = parse_signal("SIGTREM").unwrap_err().to_string();
        assert!(error.ends_with("did you mean TERM?"), "{error}");
    }

    #[test]
    fn keys_are_told_by_their_names() {
        let keys = |text| parse_detach_keys(text).map(|keys| keys.0);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(keys("ctrl-],q"), Ok(vec![29, b'q']));
        assert_eq!(keys(""), Ok(vec![]));
        for text in ["ctrl-", "ctrl-1", "enter", ","] {
            assert!(keys(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_have_a_key() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(parse_label("a=b=c"), pair("a", "b=c"));
        assert_eq!(parse_label("a"), pair("a", ""));
        assert_eq!(parse_label("=b"), Err(ValueError::Label));
    }

    #[test]
    fn moments_are_ago_or_dates() {
        assert!(parse_since("10m").unwrap() < SystemTime::now());
        let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31 06:30:00.000-05:30",
            "2026-01-31T12:00:00+00:00",
            "1769860800",
        ] {
            assert_eq!(parse_since(text), Ok(noon), "{text}");
        }
        for text in [
            "yesterday",
            "2026-01-31T13:00:00+1:00",
            "2026-01-31T13:00:00+01:60",
            "2026-01-31+01:00",
            "+01:00",
            "18446744073709551615",
        ] {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_are_counted_or_all() {
        assert_eq!(parse_lines("0"), Ok(0));
        assert_eq!(parse_lines("all"), Ok(usize::MAX));
        assert_eq!(parse_lines("-1"), Err(ValueError::Lines));
    }

    #[test]
    fn a_grace_may_be_none_at_all() {
        assert_eq!(parse_grace("0"), Ok(Duration::ZERO));
        assert_eq!(parse_grace("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_grace("-1"), Err(ValueError::Duration));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,30}") {
            let _ = (parse_size(&text), parse_memory(&text), parse_cpus(&text));
            let _ = (parse_duration(&text), text.parse::<TierWish>());
            let _ = (parse_since(&text), parse_since(&format!("1970-01-01T00:00:00{text}")));
        }
    }
}
