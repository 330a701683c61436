//! What the terminal shows while the demo runs. Silent where standard error
//! is no terminal.

use super::Args;
use super::stage::Stage;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A progress bar over the simulated span with the running figures behind it.
pub struct Screen {
    bar: ProgressBar,
}

impl Screen {
    /// Prints the address and begins the bar.
    pub fn open(args: &Args, stage: &Stage) -> Self {
        if !args.json {
            println!("dashboard http://{}", stage.server.web.address());
            println!(
                "{} GPUs in {} nodes; grid {} from {}",
                stage.site.devices.len(),
                stage.site.nodes.len(),
                args.zone,
                args.start
            );
        }
        let bar = ProgressBar::new(args.span.as_secs());
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Shows where the run stands.
    pub fn show(&self, stage: &Stage, passed: Duration, phase: &str) {
        self.bar.set_position(passed.as_secs());
        if self.bar.is_hidden() {
            return;
        }
        let view = stage.server.control.view().borrow().clone();
        let hall = stage.hall();
        let tally = hall.tally();
        self.bar.set_message(format!(
            "{}  {:.0} kW  PUE {}  {:.2} GPU-h/kWh  gap {:.0e}  violations {}  {phase}",
            hall.now(),
            hall.site_power().kilowatts(),
            hall.pue().map_or("–".to_owned(), |p| format!("{p:.3}")),
            tally.work_per_kilowatt_hour().unwrap_or_default(),
            view.max_gap,
            hall.violations().len(),
        ));
    }

    /// Ends the bar.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}
