//! HTML that cannot be broken by what is put into it: every argument of
//! [`html!`] is escaped; only this program's own markup goes in unescaped.

use std::fmt::{self, Display, Write as _};

/// Shows a value with `& < > " '` escaped.
pub(crate) struct Esc<T>(pub T);

impl<T: Display> Display for Esc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaper<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaper<'_, '_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                let mut from = 0;
                for (at, byte) in s.bytes().enumerate() {
                    let entity = match byte {
                        b'&' => "&amp;",
                        b'<' => "&lt;",
                        b'>' => "&gt;",
                        b'"' => "&quot;",
                        b'\'' => "&#39;",
                        _ => continue,
                    };
                    self.0.write_str(&s[from..at])?;
                    self.0.write_str(entity)?;
                    from = at + 1;
                }
                self.0.write_str(&s[from..])
            }
        }
        write!(Escaper(f), "{}", self.0)
    }
}

/// Appends to a `String`: the literal as it is, every argument escaped.
macro_rules! html {
    ($out:expr, $markup:literal $(, $arg:expr)* $(,)?) => {{
        use std::fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = write!($out, $markup $(, $crate::html::Esc(&$arg))*);
    }};
}
pub(crate) use html;

/// A path segment or query value, percent-encoded.
pub(crate) fn url_part(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_argument_opens_a_tag_or_leaves_its_attribute(text in "\\PC*") {
            let mut out = String::new();
            html!(out, "<p title=\"{}\">{}</p>", text, text);
            let inner = out.strip_prefix("<p title=\"").unwrap().strip_suffix("</p>").unwrap();
            prop_assert_eq!(inner.matches('<').count(), 0);
            prop_assert_eq!(inner.matches('"').count(), 1);
            prop_assert_eq!(inner.matches('>').count(), 1);
        }

        #[test]
        fn a_url_part_has_no_separators(text in "\\PC*") {
            let part = url_part(&text);
            prop_assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~:%".contains(&b)));
        }
    }
}
