//! The text of a query: bounded, then parsed.

use super::Dialect;
use super::error::PromqlError;
use super::lower::Lowering;
use super::plan::Grid;
use promql_parser::label::Matcher;
use promql_parser::parser::Expr;

/// Longest query text, bytes.
const MAX_TEXT: usize = 64 << 10;
/// Brackets and operators of a query: bounds the depth of what is evaluated.
const MAX_OPERATORS: usize = 250;
/// Parses a query whose size is bounded, so that its evaluation cannot run out of stack.
pub(super) fn parse(text: &str) -> Result<Expr, PromqlError> {
    if text.len() > MAX_TEXT {
        return Err(PromqlError::Parse(format!(
            "the query is longer than {MAX_TEXT} bytes"
        )));
    }
    if operators(text) > MAX_OPERATORS {
        return Err(PromqlError::Parse(format!(
            "the query has more than {MAX_OPERATORS} brackets and operators"
        )));
    }
    promql_parser::parser::parse(text).map_err(PromqlError::Parse)
}

/// Opening brackets, operators and word operators outside of quotes.
fn operators(text: &str) -> usize {
    let mut count = 0;
    let mut quote = None;
    let mut word = String::new();
    let mut escaped = false;
    for c in text.chars().chain([' ']) {
        if let Some(open) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' && open != '`' {
                escaped = true;
            } else if c == open {
                quote = None;
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        count += usize::from(matches!(word.as_str(), "and" | "or" | "unless" | "atan2"));
        word.clear();
        match c {
            '"' | '\'' | '`' => quote = Some(c),
            '(' | '[' | '+' | '-' | '*' | '/' | '%' | '^' | '=' | '<' | '>' | '!' => count += 1,
            _ => {}
        }
    }
    count
}

/// The matchers of a selector that stands alone.
pub(super) fn matchers(text: &str) -> Result<Vec<Matcher>, PromqlError> {
    let expr = parse(text)?;
    if !matches!(expr, Expr::VectorSelector(_)) {
        return Err(PromqlError::Parse(format!(
            "`{text}` is no series selector such as metric{{label=\"value\"}}"
        )));
    }
    let grid = Grid {
        start: 0,
        step: 1,
        count: 1,
    };
    let mut lowering = Lowering {
        start: 0,
        end: 0,
        dialect: Dialect::default(),
        selectors: Vec::new(),
    };
    lowering.node(&expr, &grid)?;
    Ok(lowering
        .selectors
        .pop()
        .map(|s| s.matchers)
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_counted_outside_of_texts() {
        for (text, count) in [
            ("gpu_power_watts", 0),
            ("-(a + b) and c", 4),
            ("a{x=\"(((\", y='))', z=`\\`} or b", 4),
            ("a{x=\"\\\"(((\"}", 1),
            ("sand + order", 1),
            ("rate(a[5m])", 2),
        ] {
            assert_eq!(operators(text), count, "{text}");
        }
    }
}
