//! Tables with one row per iced code, filled row by row as codes are met.
//!
//! A program uses a few hundred of iced's thousands of codes; computing all rows at start would take longer than many programs run.

use iced_x86::Code;
use std::sync::OnceLock;

/// At least the number of codes (checked by a test).
const CODES: usize = 5120;

/// A table whose row for a code is `row(code)`.
pub struct PerCode<T> {
    rows: [OnceLock<T>; CODES],
    row: fn(Code) -> T,
}

impl<T> PerCode<T> {
    /// A table of what `row` gives, which must depend on nothing but its argument.
    #[must_use]
    pub const fn new(row: fn(Code) -> T) -> Self {
        PerCode { rows: [const { OnceLock::new() }; CODES], row }
    }

    /// The row of `code`.
    #[inline]
    pub fn get(&self, code: Code) -> &T {
        self.rows[code as usize].get_or_init(|| (self.row)(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_row_for_every_code() {
        assert!(Code::values().all(|c| (c as usize) < CODES));
    }
}
