use super::*;
use crate::open::encode::{field, fixed, number, request, series};
use proptest::prelude::*;

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

    /// Equal keys, equal labels; and cut short it is a fault or a shorter list, never a panic.
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
    read(&message, |s| assert!(s.key.is_some())).unwrap();
    one.extend(series(&[("late", "label")], &[]));
    read(&request(&[one]), |s| {
        assert_eq!(s.key, None);
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
