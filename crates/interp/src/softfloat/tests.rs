//! The soft-float core against published vectors and, for single and double precision, against the host's arithmetic.

use super::*;

/// The IEEE flags of a vector in x87 positions.
fn flags_from_ieee(f: u16) -> u16 {
    [(0x01, flag::PE), (0x02, flag::UE), (0x04, flag::OE), (0x08, flag::ZE), (0x10, flag::IE)]
        .iter()
        .filter(|(bit, _)| f & bit != 0)
        .fold(0, |all, (_, x)| all | x)
}

fn parse_f80(s: &str) -> F80 {
    F80 { se: u16::from_str_radix(&s[..4], 16).unwrap(), sig: u64::from_str_radix(&s[4..], 16).unwrap() }
}

fn run_vectors(name: &str, op: Op2, text: &str) {
    let env = Env::x87(0x037f);
    let mut count = 0;
    for (n, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let mut next = || words.next().unwrap();
        let (a, b, want) = (parse_f80(next()), parse_f80(next()), parse_f80(next()));
        let want_flags = flags_from_ieee(u16::from_str_radix(next(), 16).unwrap());
        // The generator's reference accepts unsupported encodings; x87 doesn't.
        let (ua, ub) = (a.unpack(), b.unpack());
        if ua.class == Class::Unsupported || ub.class == Class::Unsupported {
            continue;
        }
        let (r, flags) = binary(op, &env, Format::F80, &ua, &ub);
        let what = format!("{name} line {}: {line}: {r:x?}", n + 1);
        assert_eq!(flags & !(flag::DE | flag::UP), want_flags, "{what}");
        if want.unpack().is_nan() {
            assert!(r.is_nan(), "{what}");
        } else {
            assert_eq!(F80::pack(&r), want, "{what}");
        }
        count += 1;
    }
    assert!(count > 2000, "{name}: only {count} vectors");
}

#[test]
fn extended_precision_vectors() {
    run_vectors("add", Op2::Add, include_str!("../../../../testdata/x87/add.near.p80.txt"));
    run_vectors("div", Op2::Div, include_str!("../../../../testdata/x87/div.near.p80.txt"));
}

/// Operands at the edges of a format with `precision` significant bits and `width` bits in all.
fn edges(width: u32, precision: u32) -> Vec<u64> {
    let fraction = precision - 1;
    let exponents = (1u64 << (width - precision)) - 1;
    let bias = exponents >> 1;
    let fractions = [0, 1, 1 << (fraction - 1), (1 << fraction) - 1, 0x5_5555_5555_5555 & ((1 << fraction) - 1)];
    let mut all = Vec::new();
    for e in
        [0, 1, 2, bias - fraction as u64, bias - 1, bias, bias + 1, bias + fraction as u64, exponents - 1, exponents]
    {
        for f in fractions {
            let v = e << fraction | f;
            all.extend([v, v | 1 << (width - 1)]);
        }
    }
    all
}

/// Every pair of edge operands through every operation; the host computes with default rounding and masked exceptions.
macro_rules! against_host {
    ($test:ident, $float:ty, $bits:ty, $width:expr) => {
        #[test]
        fn $test() {
            let env = Env::sse(0x1f80);
            let f = <$bits as Float>::FORMAT;
            let same = |got: &Num, want: $float, what: &dyn Fn() -> String| {
                let want_bits = want.to_bits();
                assert!(
                    <$bits>::pack(got) == want_bits || (want.is_nan() && got.is_nan()),
                    "{}: want {want_bits:x}",
                    what()
                );
            };
            for x in edges($width, f.precision) {
                let (a, na) = (<$float>::from_bits(x as $bits), (x as $bits).unpack());
                let (r, _) = sqrt(&env, f, &na);
                same(&r, a.sqrt(), &|| format!("sqrt {x:x}: {r:x?}"));
                let (r, _) = round_to_integral(&env, &na);
                same(&r, a.round_ties_even(), &|| format!("round {x:x}: {r:x?}"));
                for y in edges($width, f.precision) {
                    let (b, nb) = (<$float>::from_bits(y as $bits), (y as $bits).unpack());
                    for (op, want) in
                        [(Op2::Add, a + b), (Op2::Sub, a - b), (Op2::Mul, a * b), (Op2::Div, a / b), (Op2::DivR, b / a)]
                    {
                        let (r, _) = binary(op, &env, f, &na, &nb);
                        same(&r, want, &|| format!("{op:?} {x:x} {y:x}: {r:x?}"));
                    }
                    assert_eq!(compare(&env, &na, &nb, false).0, a.partial_cmp(&b), "compare {x:x} {y:x}");
                }
            }
        }
    };
}
against_host!(single_precision_matches_the_host, f32, u32, 32);
against_host!(double_precision_matches_the_host, f64, u64, 64);

#[test]
fn integers_and_decimals_round_trip() {
    let env = Env::x87(0x037f);
    for v in [0, 1, -1, 9, 10, 99, 123_456_789_012_345_678, -999_999_999_999_999_999] {
        let n = int_to_num(v);
        assert_eq!(num_to_int(&env, &n, 64), (v, 0));
        let (b, flags) = num_to_bcd(&env, &n);
        assert_eq!((bcd_to_num(b.unwrap()), flags), (n, 0));
    }
    assert_eq!(num_to_int(&env, &int_to_num(i64::MIN), 64), (i64::MIN, 0));
    assert_eq!(num_to_int(&env, &int_to_num(40000), 16), (-32768, flag::IE));
    assert_eq!(num_to_bcd(&env, &int_to_num(1_000_000_000_000_000_000)), (None, flag::IE));
}
