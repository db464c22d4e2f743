//! The instructions, by family. Each file holds its handlers and ends with its rows.

mod aes;
mod alu;
mod bcd;
mod bits;
mod branch;
mod flagops;
mod fxsave;
pub(crate) mod invalid;
mod io;
mod moves;
mod muldiv;
mod shift;
mod simd_integer;
mod simd_move;
mod sse_convert;
mod sse_float;
mod sse_string;
mod stack;
mod string;
mod vector;
mod x87_arith;
mod x87_control;
mod x87_load;
mod x87_stack;

use crate::system;
use crate::table::Row;

/// Every family's rows.
pub(crate) const FAMILIES: &[&[Row]] = &[
    alu::ROWS,
    x87_arith::ARITH,
    x87_load::LOAD,
    x87_control::CONTROL,
    fxsave::STATE,
    simd_integer::ARITH,
    simd_move::MOVE,
    sse_float::FLOAT,
    sse_convert::CONVERT,
    sse_string::STRING,
    aes::AES,
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
