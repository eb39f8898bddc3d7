//! Heads of messages as bytes: a postcard [`Envelope`]. Behind a `Page` or `Copy` message the page is the tail.

use aquifer_buffer_pool_proto::{Envelope, Message};

/// Writes the head over what was in `head`, whose memory is used again.
pub(crate) fn encode(envelope: &Envelope, head: &mut Vec<u8>) {
    head.clear();
    *head = postcard::to_extend(envelope, std::mem::take(head)).expect("messages are plain data");
}

/// `None` when the bytes are not a head.
pub(crate) fn decode(head: &[u8]) -> Option<Envelope> {
    let (envelope, rest) = postcard::take_from_bytes(head).ok()?;
    rest.is_empty().then_some(envelope)
}

/// Whether a page comes with this message.
pub(crate) const fn has_page(envelope: &Envelope) -> bool {
    matches!(envelope.message, Message::Page { .. } | Message::Copy { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_buffer_pool_proto::{Message, Psn};
    use aquifer_dss_proto::{Epoch, NodeId};

    fn bytes() -> Vec<u8> {
        let by = NodeId::new(5).unwrap();
        let page = aquifer_buffer_pool_proto::PageId {
            file: aquifer_dss_proto::FileId(7),
            number: 9,
        };
        let message = Message::WrittenBack {
            by,
            pages: vec![(page, Psn(3))],
        };
        let epoch = Epoch(2);
        let mut head = vec![1; 1000];
        encode(&Envelope { epoch, message }, &mut head);
        head
    }

    /// A node out of range once was an index out of range.
    #[test]
    fn only_nodes_that_can_be_are_decoded() {
        let valid = bytes();
        let place = (0..valid.len()).find(|at| {
            let mut other = valid.clone();
            other[*at] = 64;
            matches!(decode(&other), Some(Envelope { message: Message::WrittenBack { by, .. }, .. }) if by.get() == 64)
        });
        let place = place.expect("one byte is the node");
        for node in 0..=u8::MAX {
            let mut other = valid.clone();
            other[place] = node;
            assert_eq!(decode(&other).is_some(), (1..=64).contains(&node), "node {node}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let valid = bytes();
        for length in 0..valid.len() {
            assert!(decode(&valid[..length]).is_none(), "cut at {length}");
        }
        let mut state = 1u64;
        for _ in 0..200_000 * aquifer_dss::testing::fuzz_rounds() {
            let mut other = valid.clone();
            for _ in 0..3 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = state as usize % other.len();
                other[at] = (state >> 32) as u8;
            }
            let _ = decode(&other);
        }
    }
}
