//! How results are printed: tables for people, the API's JSON for machines, progress and hints on stderr.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Answer;

/// The width of a table where the terminal says nothing else.
const USUAL_WIDTH: u16 = 80;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Tables and sentences.
    Table,
    /// What the API answered, as it is.
    Json,
}

/// Where results go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    pub(super) fn new(format: Format, quiet: bool) -> Self {
        Self { format, quiet }
    }

    /// Whether machines read the results.
    pub(super) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether nobody wants to hear of progress.
    pub(super) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints an answer of the API: as it is, or as `human` puts it.
    pub(super) fn answer<T: DeserializeOwned>(
        self,
        answer: &Answer,
        human: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self.format {
            Format::Json => Ok(print(answer.text())?),
            Format::Table => Ok(print(&human(&answer.parse()?))?),
        }
    }

    /// Prints a value that the command itself made.
    pub(super) fn value(self, value: &impl Serialize, human: impl FnOnce() -> String) -> io::Result<()> {
        match self.format {
            Format::Json => print(&serde_json::to_string(value)?),
            Format::Table => print(&human()),
        }
    }

    /// Says something beside the result, on stderr; not to machines, and not when quiet.
    pub(super) fn note(self, text: &str) {
        if !self.quiet && !self.is_json() {
            eprintln!("{text}");
        }
    }

    /// Says what a person must not miss, on stderr, even when quiet.
    pub(super) fn warn(self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// A progress bar on stderr; invisible where nobody looks.
    pub(super) fn bar(self, length: u64, template: &str) -> ProgressBar {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let target = if self.shows_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        bar.set_style(style.progress_chars("━╸─"));
        bar
    }

    /// Whether anybody sees a progress bar.
    pub(super) fn shows_progress(self) -> bool {
        !self.quiet && !self.is_json() && io::stderr().is_terminal()
    }
}

/// To stdout; unlike `println!` it reports a reader that went away.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))
}

/// A table without borders. The last column takes what is left of the line and wraps; where stdout is no terminal
/// nothing wraps, so that `grep` sees whole lines.
pub(super) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let width = line_width();
    lay_out(header, rows, width)
}

pub(super) fn lay_out<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    width: u16,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table.set_header(header);
    let mut any = false;
    for row in rows {
        any = true;
        table.add_row(row.map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    if !any {
        return "none".to_owned();
    }
    let numbers: Vec<bool> = (0..N).map(|index| is_numeric(&table, index)).collect();
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers[index] {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Columns of plain numbers are aligned to the right.
fn is_numeric(table: &Table, index: usize) -> bool {
    let digits = |cell: &str| !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit());
    let mut cells = table.column_cells_iter(index).map(|cell| cell.map(|cell| cell.content()).unwrap_or_default());
    let mut any = false;
    cells.all(|cell| {
        any |= digits(&cell);
        digits(&cell) || cell == "-"
    }) && any
}

/// Names and values below one another, for one thing in full.
pub(super) fn facts(rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    let width = line_width();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([name.to_owned(), value]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(names) = table.column_mut(0) {
        names.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(14)));
    }
    table.trim_fmt()
}

/// The width of the terminal; no limit where stdout is none. Tests see the usual width wherever they run.
fn line_width() -> u16 {
    if cfg!(test) {
        return USUAL_WIDTH;
    }
    if !io::stdout().is_terminal() {
        return u16::MAX;
    }
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_WIDTH).max(40)
}

/// `key=value` pairs in one cell.
pub(super) fn pairs<'a>(map: impl IntoIterator<Item = (&'a String, &'a String)>) -> String {
    map.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// Items in one cell.
pub(super) fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

/// A size in bytes with a decimal unit.
pub(super) fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    // 999.95 would be printed as 1000.0.
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// A duration in microseconds.
pub(super) fn micros(us: u64) -> String {
    match us {
        0..1000 => format!("{us} µs"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// A time in seconds since 1970 as people say it; 0 is `never`.
pub(super) fn when(at: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    relative(at, now)
}

fn relative(at: u64, now: u64) -> String {
    if at == 0 {
        return "never".to_owned();
    }
    let span = match at.abs_diff(now) {
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..172_800 => format!("{} h", s / 3600),
        s @ 172_800..5_184_000 => format!("{} days", s / 86_400),
        _ => return date(at),
    };
    if at > now { format!("in {span}") } else { format!("{span} ago") }
}

fn date(at: u64) -> String {
    let time = i64::try_from(at).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| at.to_string(), |time| time.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_people_say_them() {
        let now = 1_800_000_000;
        let table = [
            (0, "never"),
            (now, "0 s ago"),
            (now - 59, "59 s ago"),
            (now - 180, "3 min ago"),
            (now + 3_500, "in 58 min"),
            (now - 7_300, "2 h ago"),
            (now - 12 * 86_400, "12 days ago"),
            (now - 100 * 86_400, "2026-10-07"),
            (u64::MAX, "18446744073709551615"),
        ];
        for (at, want) in table {
            assert_eq!(relative(at, now), want);
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        let table = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (10_857_958, "10.9 MB")];
        for (bytes, want) in table {
            assert_eq!(size(bytes), want);
        }
        assert_eq!([micros(7), micros(1500), micros(2_500_000)], ["7 µs", "1.5 ms", "2.5 s"]);
    }

    #[test]
    fn tables_have_no_borders_and_fit_the_line() {
        let row = |name: &str, n: &str, text: &str| [name.to_owned(), n.to_owned(), text.to_owned()];
        let rows = [row("digits", "7", "short"), row("vision/digits", "1200", "")];
        assert_eq!(
            lay_out(["NAME", "FILES", "NOTE"], rows, 80),
            "NAME           FILES  NOTE\ndigits             7  short\nvision/digits   1200  -"
        );
        let long = lay_out(["NAME", "FILES", "NOTE"], [row("digits", "7", &"word ".repeat(40))], 80);
        assert!(long.lines().all(|line| line.len() <= 80) && long.lines().count() > 2, "{long}");
        assert_eq!(lay_out(["NAME"], [], 80), "none");
    }
}
