//! The instructions, by family. Each file holds its handlers and ends with its rows.

mod alu;
mod bcd;
mod bits;
mod branch;
mod flagops;
pub(crate) mod invalid;
mod io;
mod moves;
mod muldiv;
mod shift;
mod stack;
mod string;

use crate::system;
use crate::table::Row;

/// Every family's rows.
pub(crate) const FAMILIES: &[&[Row]] = &[
    alu::ROWS,
    bcd::ROWS,
    bits::ROWS,
    branch::ROWS,
    branch::CONDITIONS,
    flagops::ROWS,
    io::ROWS,
    moves::ROWS,
    muldiv::ROWS,
    shift::ROWS,
    stack::ROWS,
    string::ROWS,
    system::control::ROWS,
    system::far::ROWS,
    system::interrupt::ROWS,
    system::segment::ROWS,
];
