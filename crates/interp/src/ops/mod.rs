//! The instructions, by family. Each file holds its handlers and ends with its rows.

mod alu;
mod branch;
pub(crate) mod invalid;
mod moves;
mod stack;

use crate::table::Row;

/// Every family's rows.
pub(crate) const FAMILIES: &[&[Row]] = &[alu::ROWS, branch::ROWS, branch::CONDITIONS, moves::ROWS, stack::ROWS];
