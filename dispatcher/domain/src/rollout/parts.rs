//! A fleet's parts by device, put together and found so that a million of them take no more memory than they have to.

use std::collections::BTreeMap;

use muster_proto::id::DeviceId;

use super::Part;

/// The fewest parts of one batch.
const MIN_BATCH: usize = 4096;
/// A batch is this part of what is there already: what is held twice for a moment stays small, and so does the work.
const BATCH: usize = 8;

/// Puts parts together, which come in the order of their devices' names. The map's nodes are full afterwards, which those
/// of one that grew part by part are not; and unlike one that is collected at once it never holds everything twice.
pub fn pack(mut parts: impl Iterator<Item = (DeviceId, Part)>) -> BTreeMap<DeviceId, Part> {
    let mut packed = BTreeMap::new();
    loop {
        let most = (packed.len() / BATCH).max(MIN_BATCH);
        let mut batch: BTreeMap<_, _> = parts.by_ref().take(most).collect();
        if batch.is_empty() {
            return packed;
        }
        packed.append(&mut batch);
    }
}

/// A device's part under the name that the map holds: who keeps a copy of that one shares its memory.
pub(super) fn find<'a>(
    parts: &'a mut BTreeMap<DeviceId, Part>,
    device: &DeviceId,
) -> Option<(&'a DeviceId, &'a mut Part)> {
    parts.range_mut::<DeviceId, _>(device..=device).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_what_came() {
        for count in [0, 1, MIN_BATCH - 1, MIN_BATCH, 3 * MIN_BATCH + 7, 12 * MIN_BATCH] {
            let name = |n: usize| format!("d{n:07}").parse::<DeviceId>().unwrap();
            let all = || (0..count).map(|n| (name(n), Part::waiting(n as u64, 0, 7)));
            let mut packed = pack(all());
            assert!(packed.clone().into_iter().eq(all()), "{count}");
            if let Some(last) = count.checked_sub(1) {
                assert_eq!(find(&mut packed, &name(last)).map(|(_, part)| part.place), Some(last as u64));
            }
            assert!(find(&mut packed, &name(count)).is_none());
        }
    }
}
