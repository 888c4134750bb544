//! The program as a user meets it: results, data, faults, kills.

mod ancestry;
mod answers;
mod browser;
mod certify;
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
mod playing;
mod resume;
mod runs;
mod server;
mod serving;
mod ship;
mod stacks;
mod support;
mod using;
mod webdriver;
#[cfg(all(feature = "remote", not(feature = "gpu")))]
mod workers;
