//! All rows of a run as batches: where each begins depends on nothing but the inputs and the size of a batch, so that a
//! run that goes on cuts them as one that was never stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::inputs::Unit;
use super::options::{Format, Shard};
use super::progress::Progress;
use super::read::{self, Context, Row, Rows};
use super::transfer::Fetcher;

/// A place between two batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The unit.
    pub unit: usize,
    /// How many rows of it are behind.
    pub row: u64,
}

/// Rows that are run at once.
#[derive(Debug)]
pub struct Batch {
    /// The rows' file, for all but images.
    pub unit: usize,
    /// The number of the first row in its unit.
    pub first: u64,
    /// The rows.
    pub rows: Vec<Row>,
    /// What the columns are called, where there are any.
    pub features: Option<Arc<Vec<String>>>,
    /// What comes after it.
    pub next: Position,
    /// Bytes of the inputs that are behind it, of all that are known.
    pub bytes: (u64, u64),
}

/// Gives batches.
pub struct Source<'a> {
    units: &'a [Unit],
    context: Context<'a>,
    size: u64,
    deal: Deal,
    fetcher: Fetcher,
    stop: &'a AtomicBool,
    progress: &'a dyn Progress,
    at: Position,
    open: Option<Box<dyn Rows + 'a>>,
    /// Bytes of the units that are behind, and of all.
    behind: u64,
    total: u64,
}

/// Which batches belong to this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deal {
    /// Those of whole files.
    Files(Shard),
    /// Every so-manieth of each file.
    Batches(Shard),
}

impl Deal {
    /// Whole files where there are enough for all; images are many anyway, and are dealt out by batches.
    fn of(units: &[Unit], shard: Shard) -> Self {
        let only_tables = units.iter().all(|unit| matches!(unit, Unit::Table(_)));
        let enough = only_tables && units.len() as u64 >= shard.count;
        if enough { Deal::Files(shard) } else { Deal::Batches(shard) }
    }

    fn has_unit(self, unit: usize) -> bool {
        match self {
            Deal::Files(shard) => unit as u64 % shard.count == shard.index,
            Deal::Batches(_) => true,
        }
    }

    fn has_batch(self, unit: usize, batch: u64) -> bool {
        match self {
            Deal::Files(_) => true,
            // Files of one batch each would else all fall to the first shard.
            Deal::Batches(shard) => (unit as u64 + batch) % shard.count == shard.index,
        }
    }
}

impl<'a> Source<'a> {
    /// The batches of `size` rows from `at` on.
    pub fn new(
        units: &'a [Unit],
        context: Context<'a>,
        (size, shard): (u64, Shard),
        at: Position,
        fetcher: Fetcher,
        stop: &'a AtomicBool,
        progress: &'a dyn Progress,
    ) -> Self {
        let deal = Deal::of(units, shard);
        let bytes = |unit: &Unit| unit.files().iter().map(|input| input.size).sum::<u64>();
        let sizes = |(index, unit): (usize, &Unit)| if deal.has_unit(index) { bytes(unit) } else { 0 };
        let total = units.iter().enumerate().map(sizes).sum();
        let behind = units.iter().enumerate().take(at.unit).map(sizes).sum();
        Self { units, context, size, deal, fetcher, stop, progress, at, open: None, behind, total }
    }

    /// The next batch; none at the end, and where the run was asked to stop.
    pub fn next(&mut self) -> Result<Option<Batch>, Error> {
        while self.at.unit < self.units.len() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if !self.deal.has_unit(self.at.unit) {
                self.at = Position { unit: self.at.unit + 1, row: 0 };
                continue;
            }
            if self.open.is_none() {
                self.open_unit()?;
            }
            if let Some(batch) = self.cut()? {
                return Ok(Some(batch));
            }
            self.close_unit();
        }
        Ok(None)
    }

    fn open_unit(&mut self) -> Result<(), Error> {
        let unit = self.fetcher.fetch(&self.units[self.at.unit])?;
        let here = unit.as_ref().unwrap_or(&self.units[self.at.unit]);
        if let Some(fetched) = &unit {
            self.total += fetched.files().iter().map(|input| input.size).sum::<u64>();
        }
        let mut rows = read::open(here, self.context)?;
        if self.at.row > 0 {
            rows.skip(self.at.row)?;
        }
        self.open = Some(rows);
        Ok(())
    }

    fn close_unit(&mut self) {
        let unit = &self.units[self.at.unit];
        if let (0, Unit::Table(input)) = (self.at.row, unit) {
            self.progress.note(&format!("note: {} has no rows", input.name));
        }
        self.behind += unit.files().iter().map(|input| input.size).sum::<u64>();
        (self.open, self.at) = (None, Position { unit: self.at.unit + 1, row: 0 });
        self.fetcher.forget();
    }

    /// The next batch of the unit that is open; none at its end.
    fn cut(&mut self) -> Result<Option<Batch>, Error> {
        let Some(open) = &mut self.open else { return Ok(None) };
        while !self.deal.has_batch(self.at.unit, self.at.row / self.size) {
            // Whether there are more is seen by reading one.
            open.skip(self.size - 1)?;
            self.at.row += self.size;
            if open.next()?.is_none() {
                return Ok(None);
            }
        }
        let mut rows = Vec::new();
        while (rows.len() as u64) < self.size {
            match open.next()? {
                Some(row) => rows.push(row),
                None => break,
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let first = self.at.row;
        self.at.row += rows.len() as u64;
        let bytes = (self.behind + open.behind(), self.total);
        let (unit, features, next) = (self.at.unit, open.features(), self.at);
        Ok(Some(Batch { unit, first, rows, features, next, bytes }))
    }
}

/// Whether any of the inputs are images.
pub fn has_images(units: &[Unit]) -> bool {
    units.iter().flat_map(Unit::files).any(|input| input.format == Format::Images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_belongs_to_one_shard() {
        for deal in [Deal::Files as fn(Shard) -> Deal, Deal::Batches] {
            for (unit, batch) in [(0, 0), (0, 7), (5, 0), (6, 3)] {
                let owners = (0..4).filter(|index| {
                    let deal = deal(Shard { index: *index, count: 4 });
                    deal.has_unit(unit) && deal.has_batch(unit, batch)
                });
                assert_eq!(owners.count(), 1);
            }
        }
    }
}
