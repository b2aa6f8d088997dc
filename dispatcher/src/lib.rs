//! The cloud side of Muster: registers models, signs them, rolls them out and keeps track of devices.

pub mod config;

pub mod app;

pub mod domain;

pub mod broker;
pub mod ca;
mod repeats;
pub mod tls;

pub mod http;

pub mod cli;

#[cfg(test)]
mod golden;
