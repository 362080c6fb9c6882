//! JSON fragments written by hand: the streaming path pays no serializer. It knows bytes, not routes.

use bytes::{BufMut, BytesMut};

/// For each byte: 0 passes, `u` is written as `\u00XX`, anything else follows a backslash. serde_json's rules.
const ESCAPE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends `text` escaped for a JSON string, without the quotes.
pub(crate) fn escaped(out: &mut BytesMut, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPE[byte as usize];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&bytes[start..at]);
        if escape == b'u' {
            out.extend_from_slice(b"\\u00");
            out.put_u8(HEX[(byte >> 4) as usize]);
            out.put_u8(HEX[(byte & 15) as usize]);
        } else {
            out.put_u8(b'\\');
            out.put_u8(escape);
        }
        start = at + 1;
    }
    out.extend_from_slice(&bytes[start..]);
}

/// Appends `text` as a JSON string.
pub(crate) fn string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    escaped(out, text);
    out.put_u8(b'"');
}

/// Appends an integer.
pub(crate) fn integer(out: &mut BytesMut, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest decimal that reads back as the same f32; `null` when it is not finite.
pub(crate) fn float(out: &mut BytesMut, value: f32) {
    // Writing a number into memory cannot fail.
    let _ = serde_json::to_writer(out.writer(), &value);
}

/// Appends `true` or `false`.
pub(crate) fn boolean(out: &mut BytesMut, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_as_serde_json_does() {
        let every_byte: String = (0u8..128).map(char::from).collect();
        for text in [
            "",
            "plain",
            "\"\\/\n\r\t\u{8}\u{c}",
            "é 漢字 🦀",
            "a\u{1f}b\u{7f}",
            &every_byte,
        ] {
            let mut out = BytesMut::new();
            string(&mut out, text);
            assert_eq!(&out[..], serde_json::to_string(text).unwrap().as_bytes());
        }
    }

    #[test]
    fn floats_are_shortest_and_never_break_the_json() {
        let cases = [
            (-0.340_576_17, "-0.34057617"),
            (-2.0, "-2.0"),
            (0.0, "0.0"),
            (f32::NAN, "null"),
            (f32::NEG_INFINITY, "null"),
        ];
        for (value, text) in cases {
            let mut out = BytesMut::new();
            float(&mut out, value);
            assert_eq!(&out[..], text.as_bytes());
        }
    }
}
