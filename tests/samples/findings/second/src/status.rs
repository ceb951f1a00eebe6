//! What the carriers' words mean.

/// Where a parcel is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Announced,
    OnItsWay,
    Delivered,
    Unknown,
}

impl Status {
    /// Reads a carrier's word.
    pub fn of(word: &str) -> Self {
        match word {
            // One carrier's word for a parcel that was not handed over yet.
            "TODO" => Self::Announced,
            "DEP" | "ARR" | "HUB" => Self::OnItsWay,
            "POD" => Self::Delivered,
            _ => Self::Unknown,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::OnItsWay => "on its way",
            Self::Delivered => "delivered",
            Self::Unknown => "unknown",
        }
    }
}
