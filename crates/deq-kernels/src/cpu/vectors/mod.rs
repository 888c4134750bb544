//! The solvers' work on vectors in the host's memory: plain tensors on Burn's CPU backend.

mod columns;
mod conjugate;
mod floats;
mod history;
mod products;
mod real;
mod ring;

pub(crate) use columns::{join, split};
pub(crate) use conjugate::conjugate_step;
pub(crate) use history::history;
pub(crate) use products::{inner, square_distance};
pub(crate) use ring::ring;
