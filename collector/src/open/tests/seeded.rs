//! Damage by seed: good bodies with bytes changed, cut, doubled and mixed, and
//! plain noise, through everything that a stranger's bytes reach. Nothing may
//! panic, and whatever is counted must add up.

use super::super::fuzz::Desk;
use super::*;
use fastrand::Rng;

fn sound_write(rng: &mut Rng) -> Vec<u8> {
    let names = [
        "DCGM_FI_DEV_POWER_USAGE",
        "DCGM_FI_DEV_GPU_TEMP",
        "nvidia_smi_index",
        "ipmi_sensor",
        "up",
        "heliostat_gpu_power_watts",
    ];
    let all: Vec<_> = (0..rng.usize(0..4))
        .map(|_| {
            let labels = [
                ("__name__", names[rng.usize(0..names.len())]),
                (
                    "Hostname",
                    ["r01-n1", "r02-n4.x.org:99", "?"][rng.usize(0..3)],
                ),
                ("UUID", "GPU-1"),
                ("gpu", ["0", "7", "8", "x"][rng.usize(0..4)]),
                ("name", "pwr_consumption"),
                ("device", "r01-n1-gpu0"),
            ];
            let samples: Vec<_> = (0..rng.usize(0..4))
                .map(|_| (f64::from_bits(rng.u64(..)), NOW.0 + rng.i64(-9_999..9_999)))
                .collect();
            series(&labels[..rng.usize(1..=labels.len())], &samples)
        })
        .collect();
    request(&all)
}

fn sound_lines(rng: &mut Rng) -> Vec<u8> {
    let pieces = [
        "nvidia_smi,host=r01-n1,index=3 power_draw=1.5,name=\"a\\\"b\" 1700000000\n",
        "cpu,cpu=cpu-total,host=r01-n1 usage_idle=5\n",
        "a\\ b,c\\,d=e\\=f g=1i,h=t,i=2u -5\n",
        "# comment\n",
        "prometheus,instance=r01-n1:9 DCGM_FI_DEV_GPU_TEMP=1e3 99999999999999\n",
    ];
    (0..rng.usize(0..5))
        .flat_map(|_| pieces[rng.usize(0..pieces.len())].bytes())
        .collect()
}

fn damage(bytes: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.usize(0..5) {
        let length = bytes.len();
        if length == 0 {
            bytes.push(rng.u8(..));
            continue;
        }
        let place = rng.usize(0..length);
        match rng.u8(0..6) {
            0 => bytes[place] ^= 1 << rng.u8(0..8),
            1 => bytes[place] = rng.u8(..),
            2 => bytes.truncate(place),
            3 => bytes.insert(place, *b"\\,= \"\n\r\xff\0".get(rng.usize(0..9)).unwrap()),
            4 => {
                let piece = bytes[place..].to_vec();
                bytes.extend(piece);
            }
            _ => {
                bytes.remove(place);
            }
        }
    }
}

fn torture(cases: u64, seed: u64) {
    let mut desk = Desk::new();
    let mut rng = Rng::with_seed(seed);
    let mut parsed = [0u64; 3];
    for _ in 0..cases {
        let mut message = sound_write(&mut rng);
        damage(&mut message, &mut rng);
        parsed[0] += u64::from(desk.remote_write(&message));
        let mut body = snap::raw::Encoder::new().compress_vec(&message).unwrap();
        damage(&mut body, &mut rng);
        parsed[1] += u64::from(desk.remote_write(&body));
        let mut text = sound_lines(&mut rng);
        damage(&mut text, &mut rng);
        parsed[2] += desk.line_protocol(&text);
    }
    // The damage must leave enough whole for the test to mean something.
    assert!(parsed.iter().all(|n| *n > cases / 20), "{parsed:?}");
}

#[test]
fn damaged_bodies_do_not_panic_and_add_up() {
    torture(3_000, 1);
}

#[test]
#[ignore = "a million cases; cargo test -p heliostat-collector --release -- --ignored a_million"]
fn a_million_damaged_bodies() {
    for seed in 0..10 {
        torture(100_000, seed);
    }
}
