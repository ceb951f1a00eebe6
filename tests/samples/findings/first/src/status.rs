//! What the carriers' words mean.

/// Where a parcel is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    OnItsWay,
    Delivered,
    Unknown,
}

impl Status {
    /// Reads a carrier's word.
    pub fn of(word: &str) -> Self {
        match word {
            "DEP" | "ARR" | "HUB" => Self::OnItsWay,
            "POD" => Self::Delivered,
            _ => Self::Unknown,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::OnItsWay => "on its way",
            Self::Delivered => "delivered",
            Self::Unknown => "unknown",
        }
    }
}
