//! Which NaN comes out (SDM vol. 1, 4.8.3.5 and table 4-7).

use super::{Class, Env, NanRule, Num, flag};

/// The result of an operation with at least one operand that is a NaN or unsupported, and its flags; `None` when
/// neither is.
pub(crate) fn propagate(env: &Env, a: &Num, b: &Num) -> Option<(Num, u16)> {
    if a.class == Class::Unsupported || b.class == Class::Unsupported {
        return Some((Num::INDEFINITE, flag::IE));
    }
    let flags = if a.class == Class::SNan || b.class == Class::SNan { flag::IE } else { 0 };
    let n = match (a.is_nan(), b.is_nan()) {
        (false, false) => return None,
        (true, false) => a,
        (false, true) => b,
        (true, true) => match env.nan {
            NanRule::Sse => a,
            NanRule::X87 => larger(a, b),
        },
    };
    Some((n.quiet(), flags))
}

/// The x87's choice: a quiet NaN before a signalling one, then the larger significand, then the positive one.
fn larger<'a>(a: &'a Num, b: &'a Num) -> &'a Num {
    let key = |n: &Num| (n.class == Class::QNan, n.sig, !n.sign);
    if key(a) >= key(b) { a } else { b }
}
