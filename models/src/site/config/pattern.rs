//! Patterns of names: `r{rack:02}` makes `r01`, `r02`, …

use std::fmt::Write;

/// A pattern, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Literal(String),
    Place { name: &'static str, width: usize },
}

/// What a place holder stands for in one name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filling<'a> {
    Number(u32),
    Text(&'a str),
}

impl Pattern {
    /// Takes a pattern apart. Only `allowed` place holders may stand in it and
    /// at least one of `one_of` must, or all names would be equal. An error is
    /// (what is wrong, what to do).
    pub(crate) fn parse(
        text: &str,
        allowed: &[&'static str],
        one_of: &[&str],
    ) -> Result<Self, (String, String)> {
        let usage = || {
            let allowed: Vec<String> = allowed.iter().map(|a| format!("{{{a}}}")).collect();
            format!(
                "place holders here: {}; a width pads with zeros, e.g. {{{}:03}}",
                allowed.join(", "),
                allowed[0].trim_matches(['{', '}'])
            )
        };
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                parts.push(Part::Literal(rest[..open].to_owned()));
            }
            let Some(close) = rest[open..].find('}').map(|at| at + open) else {
                return Err((format!("`{text}` has a brace that is not closed"), usage()));
            };
            let inner = &rest[open + 1..close];
            let (name, width) = inner.split_once(':').unwrap_or((inner, "0"));
            let Some(name) = allowed.iter().find(|a| **a == name) else {
                return Err((format!("`{text}`: `{name}` is no place holder"), usage()));
            };
            let width = match width.parse::<usize>() {
                Ok(width) if width <= 9 => width,
                _ => {
                    return Err((
                        format!("`{text}`: `{width}` is no width from 0 to 9"),
                        usage(),
                    ));
                }
            };
            parts.push(Part::Place { name, width });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        let pattern = Self { parts };
        if one_of.iter().any(|name| pattern.has(name)) {
            Ok(pattern)
        } else {
            Err((
                format!("`{text}` gives the same name to all"),
                format!("put {{{}}} into it", one_of.join("} or {")),
            ))
        }
    }

    fn has(&self, wanted: &str) -> bool {
        (self.parts.iter()).any(|part| matches!(part, Part::Place { name, .. } if *name == wanted))
    }

    /// A name. A place holder that is not among the fillings stays empty.
    pub(crate) fn fill(&self, fillings: &[(&str, Filling<'_>)]) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Place { name, width } => {
                    match fillings.iter().find(|(filled, _)| filled == name) {
                        // Writing to a String cannot fail.
                        Some((_, Filling::Number(n))) => drop(write!(out, "{n:0width$}")),
                        Some((_, Filling::Text(text))) => out.push_str(text),
                        None => {}
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_numbers_with_zeros_and_names_as_they_are() {
        let pattern = Pattern::parse("{rack_id}-n{node:03}", &["rack_id", "node"], &["node"]);
        let name = pattern.unwrap().fill(&[
            ("rack_id", Filling::Text("r7")),
            ("node", Filling::Number(4)),
        ]);
        assert_eq!(name, "r7-n004");
    }

    #[test]
    fn refuses_what_would_give_equal_or_broken_names() {
        for (text, part) in [
            ("rack", "same name"),
            ("r{rack", "not closed"),
            ("r{wreck}", "no place holder"),
            ("r{rack:x}", "no width"),
            ("r{rack:12}", "no width"),
        ] {
            let (message, _) = Pattern::parse(text, &["rack"], &["rack"]).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
