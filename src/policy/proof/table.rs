//! Evidence, honest and not, and what is to be thought of it.
