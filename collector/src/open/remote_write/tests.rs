use super::*;
use crate::open::encode::{field, fixed, number, request, series};
use proptest::prelude::*;

fn decompress(body: &[u8]) -> Result<Vec<u8>, RequestFault> {
    // A buffer that was used before.
    let mut buffer = vec![7; 3];
    let length = super::decompress(body, &mut buffer)?;
    Ok(buffer[..length].to_vec())
}

type Owned = (Vec<(String, String)>, Vec<(u64, i64)>);

fn read_all(message: &[u8]) -> Result<Vec<Owned>, WireFault> {
    let mut all = Vec::new();
    read(message, |s| {
        let labels = s.labels().unwrap_or_default();
        all.push((
            (labels
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
            .collect(),
            s.samples.iter().map(|(v, t)| (v.to_bits(), *t)).collect(),
        ));
    })?;
    Ok(all)
}

fn any_series() -> impl Strategy<Value = Owned> {
    (
        prop::collection::vec((".{0,12}", ".{0,20}"), 0..6),
        prop::collection::vec((any::<u64>(), any::<i64>()), 0..5),
    )
}

proptest! {
    /// What an encoder writes is read back bit by bit, through compression as well.
    #[test]
    fn reads_what_was_written(all in prop::collection::vec(any_series(), 0..6)) {
        let mut message = Vec::new();
        for (labels, samples) in &all {
            let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let samples: Vec<_> = samples.iter().map(|(v, t)| (f64::from_bits(*v), *t)).collect();
            message.extend(field(1, &series(&labels, &samples)));
        }
        let body = snap::raw::Encoder::new().compress_vec(&message).unwrap();
        prop_assert_eq!(&decompress(&body).unwrap(), &message);
        prop_assert_eq!(read_all(&message).unwrap(), all);
    }

    #[test]
    fn noise_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_all(&bytes);
        if let Ok(message) = decompress(&bytes) {
            prop_assert!(message.len() <= bytes.len() * MOST_EXPANSION);
            let _ = read_all(&message);
        }
    }

    /// A sample in the usual form reads as one whose fields stand the other way round.
    #[test]
    fn the_quick_way_reads_the_same(value in any::<u64>(), at in any::<i64>()) {
        let value = f64::from_bits(value);
        let usual = [fixed(1, value), number(2, at.cast_unsigned())].concat();
        let other = [number(2, at.cast_unsigned()), fixed(1, value)].concat();
        let (a, b) = (read_sample(&usual).unwrap(), read_sample(&other).unwrap());
        prop_assert_eq!((a.0.to_bits(), a.1), (value.to_bits(), at));
        prop_assert_eq!((b.0.to_bits(), b.1), (value.to_bits(), at));
    }

    /// Labels are recognised by their bytes exactly where they end there.
    #[test]
    fn labels_are_recognised_whole(one in any_series(), other in any_series()) {
        let labels = |s: &Owned| -> Vec<u8> {
            let pairs: Vec<_> = s.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            series(&pairs, &[])
        };
        let message = [labels(&one), series(&[], &[(1.0, 5)])].concat();
        let end = labels_end(&message).unwrap();
        prop_assert_eq!(end, labels(&one).len());
        prop_assert_eq!(begins_with(&message, &labels(&other)), labels(&one) == labels(&other));
    }

    /// Cut short it is a fault or a shorter list, never a panic.
    #[test]
    fn cut_anywhere(one in any_series(), cut in any::<prop::sample::Index>()) {
        let labels: Vec<_> = one.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let samples: Vec<_> = one.1.iter().map(|(v, t)| (f64::from_bits(*v), *t)).collect();
        let message = field(1, &series(&labels, &samples));
        let kept = &message[..cut.index(message.len())];
        prop_assert!(kept.is_empty() || read_all(kept).is_err());
    }
}

#[test]
fn a_bomb_is_refused_by_its_claim_unread() {
    // A head that claims 4 GiB - 1, and one that claims 60 MiB out of ten bytes.
    for head in [
        &[0xff, 0xff, 0xff, 0xff, 0x0f][..],
        &[0x80, 0x80, 0x80, 0x1e],
    ] {
        let mut body = head.to_vec();
        body.extend([0xfe; 6]);
        assert!(matches!(
            decompress(&body),
            Err(RequestFault::TooLong { .. })
        ));
    }
    // The densest block there is stays within the bound.
    let zeros = vec![0; 8 << 20];
    let body = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    assert_eq!(decompress(&body).unwrap().len(), zeros.len());
    let zeros = vec![0; MAX_DECODED + 1];
    let body = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    assert!(matches!(
        decompress(&body),
        Err(RequestFault::TooLong { .. })
    ));
}

#[test]
fn unknown_fields_are_passed_over_and_scattered_labels_have_no_key() {
    let mut one = series(&[("__name__", "up")], &[(1.0, 5)]);
    one.extend(number(9, 7));
    one.extend(fixed(10, 3.0));
    let message = request(&[one.clone()]);
    assert_eq!(
        read_all(&message).unwrap(),
        [(
            vec![("__name__".into(), "up".into())],
            vec![(1f64.to_bits(), 5)]
        )]
    );
    read(&message, |s| assert!(!s.scattered)).unwrap();
    one.extend(series(&[("late", "label")], &[]));
    read(&request(&[one]), |s| {
        assert!(s.scattered);
        assert_eq!(s.labels().unwrap().len(), 2);
    })
    .unwrap();
    // A native histogram is counted, not read.
    let mut histogram = series(&[("__name__", "h")], &[]);
    histogram.extend(field(4, &[1, 2, 3]));
    read(&request(&[histogram]), |s| {
        assert_eq!((s.histograms, s.samples.len()), (1, 0));
    })
    .unwrap();
}
