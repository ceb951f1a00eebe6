//! Redaction: known secrets are replaced before anything is stored, sent or shown.
