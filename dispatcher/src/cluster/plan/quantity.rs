//! Quantities in the one form in which the API server stores them, so that what is read back compares equal.

/// Thousandths of a processor: `250m`, `2`.
pub fn millicores(thousandths: u64) -> String {
    if thousandths.is_multiple_of(1000) { (thousandths / 1000).to_string() } else { format!("{thousandths}m") }
}

/// Bytes by the largest binary unit that divides them: `512Mi`, `1Gi`, `1000`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 5] = [(50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.iter().find(|(bits, _)| bytes != 0 && bytes.is_multiple_of(1 << bits));
    unit.map_or_else(|| bytes.to_string(), |(bits, name)| format!("{}{name}", bytes >> bits))
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
        for (given, want) in [(100, "100m"), (1000, "1"), (1500, "1500m"), (2000, "2")] {
            assert_eq!(millicores(given), want);
        }
        for (given, want) in
            [(0, "0"), (1000, "1000"), (1024, "1Ki"), (512 << 20, "512Mi"), (1024 << 20, "1Gi"), (1536 << 20, "1536Mi")]
        {
            assert_eq!(bytes(given), want);
        }
        assert_eq!(whole_mebibytes(1), 1 << 20);
        assert_eq!(whole_mebibytes(2 << 20), 2 << 20);
    }
}
