//! What a person sees: steps, sentences, and a progress bar per rollout. Where the result is for a machine,
//! all of it goes to standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(super) struct Show {
    to_stderr: bool,
}

impl Show {
    pub fn new(to_stderr: bool) -> Self {
        Self { to_stderr }
    }

    pub fn step(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    pub fn say(&self, text: &str) {
        if self.to_stderr {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }

    /// A bar that counts devices; invisible where nobody looks.
    pub fn bar(&self, devices: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(devices), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("  {bar:30} {pos}/{len} devices  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }
}
