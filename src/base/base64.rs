//! Base64 as it is written here, and as others write it.

use ::base64::Engine as _;
use ::base64::alphabet::{STANDARD, URL_SAFE};
use ::base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The usual alphabet and padding.
pub fn base64(bytes: &[u8]) -> String {
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// What [`base64`] made, or `None` where it is something else. The URL alphabet and missing padding are taken as well.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let padding = if text.contains('=') { DecodePaddingMode::RequireCanonical } else { DecodePaddingMode::RequireNone };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding).with_decode_allow_trailing_bits(true);
    // Whatever does not decode is none; where it went wrong nobody asks.
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4648() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|t| base64(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }

    #[test]
    fn what_was_encoded_is_decoded_and_nothing_else_is() {
        for length in 0..70 {
            let bytes: Vec<u8> = (0..length).map(|n: u32| (n * 89 + length) as u8).collect();
            assert_eq!(decoded(&base64(&bytes)), Some(bytes.clone()));
            assert_eq!(decoded(base64(&bytes).trim_end_matches('=')), Some(bytes));
        }
        assert_eq!(decoded("-_8="), decoded("+/8="));
        for bad in ["A", "AAAAA", "====", "AA=A", "AA===", "AAA==", "A A=", "Zm9v\n", "Zg=", "ä"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
