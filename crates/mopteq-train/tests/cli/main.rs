//! The program as a user meets it: results, data, faults, kills.

mod ancestry;
mod answers;
mod changes;
mod data;
mod download;
mod faults;
mod finetune;
mod hostile;
mod inputs;
mod layouts;
mod litter;
mod mistakes;
mod resume;
mod runs;
mod ship;
mod support;
mod using;
