//! The instructions, by family. Each file holds its handlers and ends with its rows.

mod aes;
mod alu;
mod branch;
mod fxsave;
pub(crate) mod invalid;
mod moves;
mod simd_integer;
mod simd_move;
mod sse_convert;
mod sse_float;
mod sse_string;
mod stack;
mod vector;
mod x87_arith;
mod x87_control;
mod x87_load;
mod x87_stack;

use crate::table::Row;

/// Every family's rows.
pub(crate) const FAMILIES: &[&[Row]] = &[
    alu::ROWS,
    branch::ROWS,
    branch::CONDITIONS,
    moves::ROWS,
    stack::ROWS,
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
];
