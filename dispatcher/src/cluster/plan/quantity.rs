//! Quantities in the one form in which the API server stores them, so that what is read back compares equal.

/// Thousandths of a processor: `250m`, `2`, `1k`.
pub fn millicores(thousandths: u64) -> String {
    if thousandths.is_multiple_of(1000) { decimal(thousandths / 1000) } else { format!("{thousandths}m") }
}

/// Bytes by the largest binary unit that divides them, else by the largest decimal one: `512Mi`, `1Gi`, `500M`, `7`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 6] = [(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.iter().find(|(bits, _)| bytes != 0 && bytes.is_multiple_of(1 << bits));
    unit.map_or_else(|| decimal(bytes), |(bits, name)| format!("{}{name}", bytes >> bits))
}

/// A number by the largest decimal unit that divides it: the server stores `1k` for what was sent as `1000`.
fn decimal(number: u64) -> String {
    const UNITS: [(u32, &str); 6] = [(18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")];
    let unit = UNITS.iter().find(|(zeros, _)| number != 0 && number.is_multiple_of(10u64.pow(*zeros)));
    unit.map_or_else(|| number.to_string(), |(zeros, name)| format!("{}{name}", number / 10u64.pow(*zeros)))
}

/// `bytes` rounded up to whole MiB.
pub fn whole_mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20) << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_their_canonical_form() {
        for (given, want) in
            [(100, "100m"), (1000, "1"), (1500, "1500m"), (2000, "2"), (1_000_000, "1k"), (100_000_000, "100k")]
        {
            assert_eq!(millicores(given), want);
        }
        for (given, want) in [
            (0, "0"),
            (7, "7"),
            (1000, "1k"),
            (500_000_000, "500M"),
            (1_024_000_000, "1000000Ki"),
            (1024, "1Ki"),
            (512 << 20, "512Mi"),
            (1024 << 20, "1Gi"),
            (1536 << 20, "1536Mi"),
            (1 << 60, "1Ei"),
        ] {
            assert_eq!(bytes(given), want);
        }
        assert_eq!(whole_mebibytes(1), 1 << 20);
        assert_eq!(whole_mebibytes(2 << 20), 2 << 20);
    }
}
