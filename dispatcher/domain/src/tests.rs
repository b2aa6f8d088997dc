//! Tables: what follows from each event on the fleet, and what does not. After every event of every table all that
//! always holds is checked, and what is stored is what is known.

mod audience;
pub(super) mod bench;
pub(super) mod check;
mod conflicts;
mod deletion;
mod denied;
mod devices;
mod generations;
mod offers;
mod proven;
mod recall;
mod reload;
mod reports;
mod scale;
pub(super) mod store;
mod telemetry;
