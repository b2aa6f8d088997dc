//! End to end, simulation and fault injection; never published.

//STUB pub mod inprocess;
//STUB pub mod processes;

pub mod world;
