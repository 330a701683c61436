use super::*;
use proptest::prelude::*;
use std::fmt::Write as _;

fn escape(text: &str, escapable: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if escapable.contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn print(point: &Point<'_>) -> String {
    let mut out = escape(&point.measurement, ", ");
    for (key, value) in &point.tags {
        let _ = write!(out, ",{}={}", escape(key, ",= "), escape(value, ",= "));
    }
    for (place, (key, value)) in point.fields.iter().enumerate() {
        let _ = write!(
            out,
            "{}{}=",
            if place == 0 { ' ' } else { ',' },
            escape(key, ",= ")
        );
        let _ = match value {
            FieldValue::Float(v) => write!(out, "{v:?}"),
            FieldValue::Integer(v) => write!(out, "{v}i"),
            FieldValue::Unsigned(v) => write!(out, "{v}u"),
            FieldValue::Boolean(v) => write!(out, "{v}"),
            FieldValue::Text(v) => write!(out, "\"{}\"", escape(v, "\"\\")),
        };
    }
    if let Some(time) = point.time {
        let _ = write!(out, " {time}");
    }
    out
}

/// A name that line protocol can say: it does not begin like a comment, hold a
/// newline, or end in a backslash, and no backslash stands before what is escaped.
fn name() -> impl Strategy<Value = Cow<'static, str>> {
    "[a-zA-Z0-9_.äß🔥][a-zA-Z0-9_ ,=.\"#äß🔥-]{0,10}".prop_map(Cow::Owned)
}

fn value() -> impl Strategy<Value = FieldValue<'static>> {
    prop_oneof![
        any::<f64>()
            .prop_filter("finite", |v| v.is_finite())
            .prop_map(FieldValue::Float),
        any::<i64>().prop_map(FieldValue::Integer),
        any::<u64>().prop_map(FieldValue::Unsigned),
        any::<bool>().prop_map(FieldValue::Boolean),
        "[a-z \\\\\",=\n#ü]{0,12}".prop_map(|t| FieldValue::Text(Cow::Owned(t))),
    ]
}

fn point() -> impl Strategy<Value = Point<'static>> {
    (
        name(),
        prop::collection::vec((name(), name()), 0..4),
        prop::collection::vec((name(), value()), 1..4),
        any::<Option<i64>>(),
    )
        .prop_map(|(measurement, tags, fields, time)| Point {
            measurement,
            tags,
            fields,
            time,
            series: b"",
            line: 0,
        })
}

proptest! {
    /// parse(print(x)) == x, escapes and texts over several lines included,
    /// with a bad line, a comment and an empty line in between.
    #[test]
    fn reads_what_was_printed(points in prop::collection::vec(point(), 1..5), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mut body = String::new();
        let mut lines = Vec::new();
        for point in &points {
            body.push_str("# a comment\n\nbad line,\n");
            lines.push(body.bytes().filter(|b| *b == b'\n').count() + 1);
            body.push_str(&print(point));
            body.push_str(end);
        }
        let read: Vec<_> = Lines::new(body.as_bytes()).collect();
        prop_assert_eq!(read.len(), points.len() * 2);
        for (place, (point, line)) in points.iter().zip(lines).enumerate() {
            prop_assert_eq!(&read[place * 2], &Err((line - 1, LineFault::Field)));
            let found = read[place * 2 + 1].as_ref().unwrap();
            prop_assert_eq!(found.line, line);
            let bare = Point { series: b"", line: 0, ..found.clone() };
            prop_assert_eq!(&bare, point);
        }
    }

    #[test]
    fn noise_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        for point in Lines::new(&bytes).flatten() {
            prop_assert!(!point.fields.is_empty());
        }
    }

    /// Noise of the characters that mean something, and what is read can be said again.
    #[test]
    fn meaningful_noise(text in "[a1,= \\\\\"\n#tiu.-]{0,60}") {
        for point in Lines::new(text.as_bytes()).flatten() {
            prop_assert!(!point.measurement.is_empty());
        }
    }
}

#[test]
fn the_examples_of_the_documentation() {
    let body = br#"myMeasurement,tag1=value1,tag2=value2 fieldKey="fieldValue" 1556813561098000000
myMeasurement,tag\ Key1=tag\ Value1 fieldKey=100
my\ Measurement fieldKey="string value"
myMeasurement fieldKey=12485903u
myMeasurement fieldKey="\"string\" within a string"
m fieldKey="C:\path"
"#;
    let read: Vec<_> = Lines::new(body).map(Result::unwrap).collect();
    assert_eq!(read[0].time, Some(1_556_813_561_098_000_000));
    assert_eq!(read[0].series, b"myMeasurement,tag1=value1,tag2=value2");
    assert_eq!(
        read[1].tags,
        [(Cow::Borrowed("tag Key1"), Cow::Borrowed("tag Value1"))]
    );
    assert_eq!(read[1].fields[0].1, FieldValue::Float(100.0));
    assert_eq!(read[2].measurement, "my Measurement");
    assert_eq!(read[3].fields[0].1, FieldValue::Unsigned(12_485_903));
    assert_eq!(
        read[4].fields[0].1,
        FieldValue::Text(r#""string" within a string"#.into())
    );
    assert_eq!(read[5].fields[0].1, FieldValue::Text(r"C:\path".into()));
}

#[test]
fn each_fault_is_told_with_its_line() {
    for (line, fault) in [
        (&b",tag=1 f=1"[..], LineFault::NoMeasurement),
        (b"m,tag f=1", LineFault::Tag),
        (b"m,tag= f=1", LineFault::Tag),
        (b"m,=v f=1", LineFault::Tag),
        (b"m,a=b=c f=1", LineFault::Tag),
        (b"m", LineFault::NoFields),
        (b"m,a=b ", LineFault::NoFields),
        (b"m f", LineFault::Field),
        (b"m f=1,", LineFault::Field),
        (b"m f=\"a\"b", LineFault::Field),
        (b"m f=", LineFault::Value),
        (b"m f=nan", LineFault::Value),
        (b"m f=inf", LineFault::Value),
        (b"m f=1e999", LineFault::Value),
        (b"m f=99999999999999999999i", LineFault::Value),
        (b"m f=-1u", LineFault::Value),
        (b"m f=abc", LineFault::Value),
        (b"m f=\"abc", LineFault::OpenText),
        (b"m f=1 1.5", LineFault::Time),
        (b"m f=1 1 2", LineFault::Trailing),
        (b"m\xff f=1", LineFault::Encoding),
    ] {
        let body = [b"ok f=1\n", line].concat();
        let read: Vec<_> = Lines::new(&body).collect();
        assert_eq!(read.len(), 2, "{}", String::from_utf8_lossy(line));
        assert_eq!(
            read[1],
            Err((2, fault)),
            "{}",
            String::from_utf8_lossy(line)
        );
    }
}

#[test]
fn precision_rounds_towards_the_past_and_does_not_overflow() {
    assert_eq!(Precision::parse("ns").unwrap().millis(-1), Some(-1));
    assert_eq!(Precision::parse("us").unwrap().millis(1_999), Some(1));
    assert_eq!(Precision::parse("s").unwrap().millis(2), Some(2_000));
    assert_eq!(Precision::parse("h").unwrap().millis(i64::MAX), None);
    assert_eq!(Precision::parse("days"), None);
}
