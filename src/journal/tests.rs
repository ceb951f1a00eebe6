//! The journal through its own handle, on a real directory.
