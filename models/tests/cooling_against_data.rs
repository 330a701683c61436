//! The compressor law against a recorded chilled-water plant.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

mod recorded;

use heliostat_models::Celsius;
use heliostat_models::cooling::coefficient_of_performance;
use recorded::recorded;

#[test]
fn chillers_reach_the_share_of_carnot_that_the_model_takes() {
    let celsius = |fahrenheit: f64| Celsius((fahrenheit - 32.0) / 1.8);
    for file in ["TableData23_12.csv", "TableData24_03.csv"] {
        let Some(text) = recorded(&format!("cooling/chilled_water_plant/efficiency/{file}")) else {
            continue;
        };
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
        let (rt, chillers, supply, condenser) = (
            column("RT"),
            column("kW_CHH"),
            column("CHWS"),
            column("CDHI"),
        );
        let (mut absolute, mut model_sum, mut real_sum, mut rows) = (0.0, 0.0, 0.0, 0usize);
        for line in lines {
            let f: Vec<f64> = line
                .split(',')
                .map(|x| x.parse().unwrap_or(f64::NAN))
                .collect();
            // A ton of refrigeration is 3.517 kW; small loads are control noise.
            let heat = f[rt] * 3.517;
            if !(heat > 200.0 && f[chillers] > 20.0) {
                continue;
            }
            let real = heat / f[chillers];
            // Evaporation a little below the supply, condensation at the condenser's outlet.
            let model = coefficient_of_performance(
                celsius(f[supply]) - Celsius(5.0),
                celsius(f[condenser]) + Celsius(2.0),
            );
            absolute += (model - real).abs();
            model_sum += model;
            real_sum += real;
            rows += 1;
        }
        let n = rows as f64;
        println!(
            "{file}: COP recorded {:.2}, model {:.2}, mean absolute error {:.2} ({rows} readings)",
            real_sum / n,
            model_sum / n,
            absolute / n
        );
        assert!(rows > 1_000);
        assert!(
            (model_sum / real_sum - 1.0).abs() < 0.10,
            "{}",
            model_sum / real_sum
        );
    }
}
