//! Token ids in the narrowest type that holds them: a corpus of bytes takes one byte a token.

/// A growing sequence of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ids {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
}

impl Ids {
    pub(super) fn new() -> Ids {
        Ids::U8(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Ids::U8(ids) => ids.len(),
            Ids::U16(ids) => ids.len(),
            Ids::U32(ids) => ids.len(),
        }
    }

    /// Bytes of memory that the ids take.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Ids::U8(ids) => ids.capacity(),
            Ids::U16(ids) => 2 * ids.capacity(),
            Ids::U32(ids) => 4 * ids.capacity(),
        }
    }

    pub(super) fn extend(&mut self, more: &[u32]) {
        let largest = more.iter().copied().max().unwrap_or(0);
        self.widen(largest);
        match self {
            Ids::U8(ids) => ids.extend(more.iter().map(|&id| id as u8)),
            Ids::U16(ids) => ids.extend(more.iter().map(|&id| id as u16)),
            Ids::U32(ids) => ids.extend_from_slice(more),
        }
    }

    fn widen(&mut self, largest: u32) {
        let wide = match self {
            Ids::U8(ids) if largest > 0xFFFF => Ids::U32(ids.iter().map(|&id| id.into()).collect()),
            Ids::U8(ids) if largest > 0xFF => Ids::U16(ids.iter().map(|&id| id.into()).collect()),
            Ids::U16(ids) if largest > 0xFFFF => Ids::U32(ids.iter().map(|&id| id.into()).collect()),
            _ => return,
        };
        *self = wide;
    }

    pub(super) fn shrink(&mut self) {
        match self {
            Ids::U8(ids) => ids.shrink_to_fit(),
            Ids::U16(ids) => ids.shrink_to_fit(),
            Ids::U32(ids) => ids.shrink_to_fit(),
        }
    }

    /// The ids from `start` on, at most `count` of them.
    pub(super) fn window(&self, start: usize, count: usize) -> Vec<i32> {
        let end = start.saturating_add(count).min(self.len());
        let range = start.min(end)..end;
        match self {
            Ids::U8(ids) => ids[range].iter().map(|&id| id.into()).collect(),
            Ids::U16(ids) => ids[range].iter().map(|&id| id.into()).collect(),
            Ids::U32(ids) => ids[range].iter().map(|&id| id as i32).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_come_back_whatever_their_width(
            parts in proptest::collection::vec(proptest::collection::vec(0u32..1 << 18, 0..20), 0..6), narrow: bool
        ) {
            let mut ids = Ids::new();
            let mut all = Vec::new();
            for mut part in parts {
                if narrow {
                    part.iter_mut().for_each(|id| *id %= 256);
                }
                ids.extend(&part);
                all.extend(part.iter().map(|&id| id as i32));
            }
            ids.shrink();
            prop_assert_eq!(ids.window(0, usize::MAX), all.clone());
            prop_assert_eq!(ids.window(3, 4), all.iter().skip(3).take(4).copied().collect::<Vec<_>>());
            prop_assert!(!narrow || ids.held_bytes() == all.len());
        }
    }
}
