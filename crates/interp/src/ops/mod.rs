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
    aes::AES,
    alu::ROWS,
    bcd::ROWS,
    bits::ROWS,
    branch::CONDITIONS,
    branch::ROWS,
    flagops::ROWS,
    fxsave::STATE,
    io::ROWS,
    moves::ROWS,
    muldiv::ROWS,
    shift::ROWS,
    simd_integer::ARITH,
    simd_move::MOVE,
    sse_convert::CONVERT,
    sse_float::FLOAT,
    sse_string::STRING,
    stack::ROWS,
    string::ROWS,
    x87_arith::ARITH,
    x87_control::CONTROL,
    x87_load::LOAD,
    system::control::ROWS,
    system::far::ROWS,
    system::interrupt::ROWS,
    system::segment::ROWS,
];
