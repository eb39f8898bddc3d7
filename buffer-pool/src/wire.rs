//! Messages as bytes: a postcard [`Envelope`], and behind a `Page` message the page.

use crate::pool::Image;
use aquifer_buffer_pool_proto::{Envelope, Message, PAGE_SIZE};
use std::sync::Arc;

pub(crate) fn encode(envelope: &Envelope, image: Option<&Image>) -> Vec<u8> {
    let mut body = postcard::to_allocvec(envelope).expect("messages are plain data");
    if let Some(image) = image {
        body.extend_from_slice(image);
    }
    body
}

/// `None` when the bytes are not a message.
pub(crate) fn decode(body: &[u8]) -> Option<(Envelope, Option<Image>)> {
    let (envelope, rest) = postcard::take_from_bytes::<Envelope>(body).ok()?;
    let expected = if matches!(envelope.message, Message::Page { .. }) {
        PAGE_SIZE
    } else {
        0
    };
    if rest.len() != expected {
        return None;
    }
    let image = (expected > 0).then(|| Arc::new(rest.to_vec()));
    Some((envelope, image))
}
