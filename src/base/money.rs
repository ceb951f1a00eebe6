//! Money in micro-dollars: exact sums, no floating point in a ledger.

use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

/// US dollars in millionths. Arithmetic saturates: a sum that large is a cap reached, never a wrap-around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UsdMicros(pub i64);

impl UsdMicros {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(i64::MAX);

    /// From dollars; rounds up to the next micro-dollar, so that an estimate is never too low.
    pub fn from_usd(usd: f64) -> Self {
        Self((usd * 1e6 - 1e-6).ceil() as i64)
    }

    /// For display and JSON only.
    pub fn as_usd(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// `part` in thousandths of this, rounded down.
    pub fn permille(self, part: u32) -> Self {
        Self((i128::from(self.0) * i128::from(part) / 1000) as i64)
    }

    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

/// `$0.0004`, `$0.041`, `$5.00`: small amounts keep two significant digits.
impl std::fmt::Display for UsdMicros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, abs) = if self.0 < 0 { ("-", self.0.unsigned_abs()) } else { ("", self.0 as u64) };
        let usd = abs as f64 / 1e6;
        let digits = match abs {
            0 => 2,
            1..100 => 6,
            100..1_000 => 5,
            1_000..10_000 => 4,
            10_000..100_000 => 3,
            _ => 2,
        };
        let text = format!("{usd:.digits$}");
        f.pad(&format!("{sign}${text}"))
    }
}

impl Add for UsdMicros {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}
impl Sub for UsdMicros {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}
impl Neg for UsdMicros {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}
impl AddAssign for UsdMicros {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}
impl SubAssign for UsdMicros {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}
impl std::iter::Sum for UsdMicros {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_amounts_keep_their_digits() {
        let shown = [0, 40, 400, 4_100, 41_000, 110_000, 5_000_000, -2_000].map(|m| UsdMicros(m).to_string());
        assert_eq!(shown, ["$0.00", "$0.000040", "$0.00040", "$0.0041", "$0.041", "$0.11", "$5.00", "-$0.0020"]);
        assert_eq!(UsdMicros::from_usd(0.6), UsdMicros(600_000));
        assert_eq!(UsdMicros::from_usd(1.000_000_1), UsdMicros(1_000_001));
        assert_eq!(UsdMicros(600_000).permille(150), UsdMicros(90_000));
    }
}
