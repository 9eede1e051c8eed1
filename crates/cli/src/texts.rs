//! Texts out of a file or standard input, one a line, with bounds and names for what is wrong.

use std::io::BufRead;

use anyhow::Context;

/// The longest line that is read as one text, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// The lines of `reader`, which errors call `name`, without their ends.
pub(crate) fn lines(mut reader: impl BufRead, name: String) -> impl Iterator<Item = anyhow::Result<String>> {
    let mut number = 0_u64;
    std::iter::from_fn(move || {
        number += 1;
        let mut bytes = Vec::new();
        let limited = &mut std::io::Read::take(&mut reader, LONGEST_LINE + 1);
        match limited.read_until(b'\n', &mut bytes) {
            Ok(0) => return None,
            Ok(n) if n as u64 > LONGEST_LINE => {
                return Some(Err(anyhow::anyhow!("{name}, line {number}: longer than {LONGEST_LINE} bytes")));
            }
            Ok(_) => {}
            Err(error) => return Some(Err(error).with_context(|| format!("{name}, line {number}"))),
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Some(String::from_utf8(bytes).map_err(|e| {
            let column = e.utf8_error().valid_up_to() + 1;
            anyhow::anyhow!("{name}, line {number}, byte {column}: not UTF-8")
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_not_utf8_is_named() {
        let texts: Vec<_> = lines(&b"fine\r\nb\xffd\n"[..], "reviews.txt".into()).collect();
        assert_eq!(texts[0].as_ref().ok().map(String::as_str), Some("fine"));
        let error = texts[1].as_ref().map_err(|e| e.to_string());
        assert_eq!(error.err().as_deref(), Some("reviews.txt, line 2, byte 2: not UTF-8"));
    }
}
