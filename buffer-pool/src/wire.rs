//! Messages as bytes: a postcard [`Envelope`], and behind a `Page` or `Copy` message the page.

use crate::pool::Image;
use aquifer_buffer_pool_proto::{Envelope, Message, PageSize};
use std::sync::Arc;

pub(crate) fn encode(envelope: &Envelope, image: Option<&Image>) -> Vec<u8> {
    let mut body = postcard::to_allocvec(envelope).expect("messages are plain data");
    if let Some(image) = image {
        body.extend_from_slice(image);
    }
    body
}

/// `None` when the bytes are not a message, or its page is not of this size.
pub(crate) fn decode(body: &[u8], page_size: PageSize) -> Option<(Envelope, Option<Image>)> {
    let (envelope, rest) = postcard::take_from_bytes::<Envelope>(body).ok()?;
    let expected = if matches!(envelope.message, Message::Page { .. } | Message::Copy { .. }) {
        page_size.bytes()
    } else {
        0
    };
    if rest.len() != expected {
        return None;
    }
    let image = (expected > 0).then(|| Arc::new(rest.to_vec()));
    Some((envelope, image))
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
        encode(
            &Envelope {
                epoch: Epoch(2),
                message,
            },
            None,
        )
    }

    /// A node out of range once was an index out of range.
    #[test]
    fn only_nodes_that_can_be_are_decoded() {
        let valid = bytes();
        let place = (0..valid.len()).find(|at| {
            let mut other = valid.clone();
            other[*at] = 64;
            matches!(decode(&other, PageSize::default()), Some((Envelope { message: Message::WrittenBack { by, .. }, .. }, _)) if by.get() == 64)
        });
        let place = place.expect("one byte is the node");
        for node in 0..=u8::MAX {
            let mut other = valid.clone();
            other[place] = node;
            assert_eq!(
                decode(&other, PageSize::default()).is_some(),
                (1..=64).contains(&node),
                "node {node}"
            );
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let valid = bytes();
        for length in 0..valid.len() {
            assert!(
                decode(&valid[..length], PageSize::default()).is_none(),
                "cut at {length}"
            );
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
            let _ = decode(&other, PageSize::default());
        }
    }
}
