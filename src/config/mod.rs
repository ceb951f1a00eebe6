//! The daemon's settings: `config/nightcrew.yaml`, prices, profiles. Parsed whole, all mistakes at once.

pub mod settings;
