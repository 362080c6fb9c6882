//! AVX-512: one step of a matrix product in registers, up to fourteen rows times two vectors.
//!
//! In assembly, since compilers go over the rows back and forth from one step to the next, so that each begins with sums that
//! are not finished, and spend registers and instructions on the rows' addresses.
//!
//! Refuses to know where the operands lie and what becomes of the sums.

#![cfg(target_arch = "x86_64")]

/// Most rows: with two vectors and what is multiplied they fill the registers.
pub(crate) const MAX_ROWS: usize = 14;

/// How a row's value is addressed: from the first row or from the middle one, and from there by none or one of three distances,
/// times 1, 2 or 4. So fourteen rows take five registers.
pub(crate) struct Address {
    /// Counted from the middle row.
    pub(crate) high: bool,
    /// Rows that the distance spans: 0 for none, 1, 3 or 5.
    pub(crate) distance: usize,
    pub(crate) scale: usize,
}

impl Address {
    pub(crate) const fn of(row: usize, rows: usize) -> Self {
        let middle = Self::middle(rows);
        let (distance, scale) = match row % middle {
            0 => (0, 1),
            3 => (3, 1),
            5 => (5, 1),
            6 => (3, 2),
            others => (1, others),
        };
        Self {
            high: row >= middle,
            distance,
            scale,
        }
    }

    /// The middle row.
    pub(crate) const fn middle(rows: usize) -> usize {
        rows.div_ceil(2)
    }
}

/// Adds to `$sums`, `[[__m512; 2]; $rows]`, each row's value at `$step` times the two vectors `$columns`. The rows' values of step 0 are
/// f32 at `$low` and, from the middle row on, at `$high`; `$stride` is the distance of two rows in bytes, `$three` and `$five` that
/// of three and five more.
macro_rules! outer_product {
    (
        $sums:ident[$rows:ident] += ($low:ident, $high:ident)[$stride:ident, $three:ident, $five:ident][$step:literal]
            * $columns:ident
    ) => {
        outer_product!(
            @rows 0 1 2 3 4 5 6 7 8 9 10 11 12 13;
            $sums, $rows, $low, $high, $stride, $three, $five, $step, $columns
        )
    };
    (
        @rows $($row:literal)*;
        $sums:ident, $rows:ident, $low:ident, $high:ident, $stride:ident, $three:ident, $five:ident, $step:literal,
        $columns:ident
    ) => {
        $(if $row < $rows {
            use $crate::outer_product::Address;
            let address = const { Address::of($row, $rows) };
            let from: *const u8 = if address.high { $high } else { $low };
            let [sum, next] = &mut $sums[$row];
            // Named, since a register without a type is printed wrong.
            let _value: std::arch::x86_64::__m512;
            match address.distance {
                0 => outer_product!(
                    @add "[{from} + {offset}]"; _value, from, $step, sum, next, $columns;
                ),
                distance => outer_product!(
                    @add "[{from} + {distance} * {scale} + {offset}]"; _value, from, $step, sum, next, $columns;
                    distance = in(reg) match distance { 1 => $stride, 3 => $three, _ => $five },
                    scale = const { Address::of($row, $rows).scale },
                ),
            }
        })*
    };
    (
        @add $address:literal;
        $value:ident, $from:ident, $step:literal, $sum:ident, $next:ident, $columns:ident;
        $($operands:tt)*
    ) => {
        std::arch::asm!(
            concat!("vbroadcastss {value}, dword ptr ", $address),
            "vfmadd231ps {sum}, {value}, {column}",
            "vfmadd231ps {next}, {value}, {next_column}",
            $($operands)*
            value = out(zmm_reg) $value,
            from = in(reg) $from,
            offset = const { 4 * $step },
            sum = inout(zmm_reg) *$sum,
            next = inout(zmm_reg) *$next,
            column = in(zmm_reg) $columns[0],
            next_column = in(zmm_reg) $columns[1],
            options(readonly, nostack, preserves_flags)
        )
    };
}
pub(crate) use outer_product;
