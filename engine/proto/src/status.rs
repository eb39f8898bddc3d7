//! Where the status of a transaction is durable: an entry in a page of its node's status file.
//!
//! Rules:
//! - an entry of 0 means "no commit record": with its transaction ended, that is an abort;
//! - page 0 of the file gives out sequence numbers; entries begin on page 1, [`status_per_page`] to a page.

use crate::TxnId;
use crate::page::status_per_page;
use aquifer_buffer_pool_proto::PageSize;

/// Place of a transaction's entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StatusPlace {
    /// Page of the node's status file, from 1.
    pub page: u32,
    /// Entry in the page.
    pub index: u16,
}

/// Where the status of `txn` is, in the file of its node. A sequence past the four million million that fit a file, as a peer or a damaged
/// row may name one, is on a page that no file has.
pub fn status_place(txn: TxnId, page_size: PageSize) -> StatusPlace {
    let per_page = status_per_page(page_size) as u64;
    let page = u32::try_from(txn.sequence() / per_page + 1);
    StatusPlace {
        page: page.unwrap_or(u32::MAX),
        index: (txn.sequence() % per_page) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::NodeId;

    #[test]
    fn entries_tile_the_pages() {
        for page_size in PageSize::ALL {
            let place = |sequence| status_place(TxnId::new(NodeId::new(2).unwrap(), sequence), page_size);
            let per_page = status_per_page(page_size) as u64;
            assert_eq!(place(0), StatusPlace { page: 1, index: 0 });
            assert_eq!(
                place(per_page - 1),
                StatusPlace {
                    page: 1,
                    index: per_page as u16 - 1
                }
            );
            assert_eq!(place((1 << TxnId::SEQUENCE_BITS) - 1).page, u32::MAX);
            assert_eq!(place(per_page), StatusPlace { page: 2, index: 0 });
        }
    }
}
