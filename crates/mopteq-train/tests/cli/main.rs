//! The program as a user meets it: results, data, faults, kills.

mod data;
mod download;
mod faults;
mod mistakes;
mod resume;
mod runs;
mod support;
mod using;
