//! Amounts of a resource: `500m` of a CPU, `1Gi` of memory (upstream's `apimachinery/pkg/api/resource`).
//!
//! Exact down to a billionth (`1n`), as upstream: what is finer rounds away from zero, what is larger than 2^63-1 becomes
//! 2^63-1. Written in canonical form: no fraction, the largest suffix that needs none.

use std::{cmp::Ordering, fmt, iter::Sum, ops, str::FromStr};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = NANO / 1_000;
const NANO_DIGITS: i32 = 9;
/// 2^63-1 units, upstream's `maxAllowed`.
const NANOS_MAX: i128 = i64::MAX as i128 * NANO;
/// Digits of a mantissa, as many as [`NANOS_MAX`] has.
const DIGITS_MAX: usize = 28;
/// The same where a power of two follows: as many as fit an `i128` beside 2^60.
const BINARY_DIGITS_MAX: usize = 19;

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Why a text is no quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The suffix is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Which suffixes the amount is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1e3`.
    DecimalExponent,
    /// `1k`: powers of 1,000.
    Decimal,
    /// `1Ki`: powers of 1,024.
    Binary,
}

/// An amount. Equal and ordered by value, whatever the format.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// So many units, written with powers of 1,000.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANO, format: Format::Decimal }
    }

    /// So many thousandths of a unit.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * MILLI, format: Format::Decimal }
    }

    /// So many bytes, written with powers of 1,024.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Whole units, rounded up: bytes of memory, number of pods.
    pub fn units(self) -> i64 {
        saturate(ceiling(self.nanos, NANO))
    }

    /// Thousandths, rounded up: CPU.
    pub fn millis(self) -> i64 {
        saturate(ceiling(self.nanos, MILLI))
    }

    /// Whether this is nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether this is less than nothing.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether this is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// How the amount is written.
    pub fn format(self) -> Format {
        self.format
    }

    fn of(nanos: i128, format: Format) -> Self {
        Self { nanos: nanos.clamp(-NANOS_MAX, NANOS_MAX), format }
    }
}

fn ceiling(value: i128, unit: i128) -> i128 {
    value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || !well_formed(suffix) {
            return Err(Error::Format);
        }
        let (format, ten, two) = scale(suffix)?;
        let nanos = nanos(whole, fraction, ten, two);
        Ok(Self::of(if text.starts_with('-') { -nanos } else { nanos }, format))
    }
}

/// `[eEinumkKMGTP]*[-+]?[0-9]*`
fn well_formed(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    rest.strip_prefix(['-', '+']).unwrap_or(rest).bytes().all(|b| b.is_ascii_digit())
}

/// The format, the power of ten and the power of two that a suffix stands for.
fn scale(suffix: &str) -> Result<(Format, i32, u32), Error> {
    if let Some((_, ten)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::Decimal, *ten, 0));
    }
    if let Some((_, two)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Format::Binary, 0, *two));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
    Ok((Format::DecimalExponent, exponent.parse().map_err(|_| Error::Suffix)?, 0))
}

/// `whole.fraction * 10^ten * 2^two` in billionths, rounded up, at most [`NANOS_MAX`].
fn nanos(whole: &str, fraction: &str, ten: i32, two: u32) -> i128 {
    let digits = format!("{}{}", whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let point = i32::try_from(fraction.trim_end_matches('0').len()).unwrap_or(i32::MAX);
    let kept = &digits[..digits.len().min(if two == 0 { DIGITS_MAX } else { BINARY_DIGITS_MAX })];
    let dropped = &digits[kept.len()..];
    let mantissa: i128 = kept.parse().unwrap_or(0);
    if mantissa == 0 && dropped.trim_matches('0').is_empty() {
        return 0;
    }
    let cut = i32::try_from(dropped.len()).unwrap_or(i32::MAX);
    let power = NANO_DIGITS.saturating_add(ten).saturating_sub(point).saturating_add(cut);
    let sticky = !dropped.trim_matches('0').is_empty();
    let factor = |power: u32| 10_i128.checked_pow(power);
    let scaled = match u32::try_from(power) {
        Ok(power) => factor(power).and_then(|f| mantissa.checked_mul(f)).and_then(|n| n.checked_mul(1 << two)),
        Err(_) => mantissa.checked_mul(1 << two).map(|n| match factor(power.unsigned_abs()) {
            Some(divisor) => ceiling(n, divisor).max(1),
            None => 1,
        }),
    };
    scaled.map_or(NANOS_MAX, |n| n.saturating_add(i128::from(sticky && power >= 0)).min(NANOS_MAX))
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nanos > -1024 * NANO && self.nanos < 1024 * NANO;
        if self.format == Format::Binary && !small && self.is_whole() {
            let units = self.nanos / NANO;
            let (suffix, shift) =
                BINARY.iter().rev().find(|(_, shift)| units % (1_i128 << shift) == 0).copied().unwrap_or(("", 0));
            return write!(f, "{}{suffix}", units >> shift);
        }
        let (mut number, mut exponent) = (self.nanos, -NANO_DIGITS);
        if number == 0 {
            exponent = 0;
        }
        while number != 0 && number % 1_000 == 0 && exponent < 18 {
            number /= 1_000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (Format::DecimalExponent, 0) => write!(f, "{number}"),
            (Format::DecimalExponent, _) => write!(f, "{number}e{exponent}"),
            (Format::Decimal | Format::Binary, _) => {
                let suffix = DECIMAL.iter().find(|(_, ten)| *ten == exponent).map_or("", |(name, _)| name);
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl ops::Add for Quantity {
    type Output = Self;

    /// The sum, in the format of the first that is not zero; never beyond ±(2^63-1).
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self::of(self.nanos + other.nanos, format)
    }
}

impl ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: -self.nanos, format: self.format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, ops::Add::add)
    }
}

impl TryFrom<&Text> for Quantity {
    type Error = Error;

    fn try_from(text: &Text) -> Result<Self, Error> {
        text.0.parse()
    }
}

impl From<Quantity> for Text {
    fn from(quantity: Quantity) -> Self {
        Self(quantity.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sums_keep_the_first_format_that_says_something() {
        let sum: Quantity = ["1Gi", "512Mi"].iter().map(|t| t.parse::<Quantity>().unwrap()).sum();
        assert_eq!(sum.to_string(), "1536Mi");
        assert_eq!((Quantity::from_millis(1500) - Quantity::from_units(2)).to_string(), "-500m");
    }

    #[test]
    fn accessors_round_up() {
        let q: Quantity = "1500u".parse().unwrap();
        assert_eq!((q.units(), q.millis()), (1, 2));
        let q: Quantity = "-1500m".parse().unwrap();
        assert_eq!((q.units(), q.millis()), (-1, -1500));
    }

    proptest! {
        #[test]
        fn canonical_form_is_the_same_amount(nanos in -NANOS_MAX..=NANOS_MAX, binary: bool) {
            let q = Quantity::of(nanos, if binary { Format::Binary } else { Format::Decimal });
            let again: Quantity = q.to_string().parse().unwrap();
            prop_assert_eq!(again, q);
            prop_assert_eq!(again.to_string(), q.to_string());
        }
    }
}
