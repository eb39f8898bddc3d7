//! Where the status of a transaction is durable: an array of SCNs in its node's status file.
//!
//! Rules:
//! - an entry of 0 means "no commit record": with its transaction ended, that is an abort;
//! - an entry is written once, by redo of the commit (`SetStatus`), never back;
//! - page 0 of the file is the header (the lead's: sequence ranges); entries begin on page 1.

use crate::TxnId;
use aquifer_buffer_pool_proto::{PAGE_SIZE, Scn};

/// Bytes at the front of a status page that are not entries (the page header is 40 of them).
pub const STATUS_PAGE_HEADER: usize = 64;
/// Entries of a status page.
pub const STATUS_PER_PAGE: u64 = ((PAGE_SIZE - STATUS_PAGE_HEADER) / 8) as u64;

/// Place of a transaction's entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StatusPlace {
    /// Page of the node's status file, from 1.
    pub page: u32,
    /// Entry in the page.
    pub slot: u16,
}

/// Where the status of `txn` is, in the file of its node.
pub fn status_place(txn: TxnId) -> StatusPlace {
    let page = txn.sequence() / STATUS_PER_PAGE + 1;
    let page = u32::try_from(page).expect("four thousand milliard transactions fit a status file");
    StatusPlace { page, slot: (txn.sequence() % STATUS_PER_PAGE) as u16 }
}

/// The commit SCN in a page's entry, if there is one. Panics when `slot` is no entry.
pub fn read_status(page: &[u8], slot: u16) -> Option<Scn> {
    let at = entry_at(slot);
    let scn = u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"));
    (scn != 0).then_some(Scn(scn))
}

/// Writes a commit into a page's entry. Panics when the entry holds another SCN already: a commit is written once.
pub fn write_status(page: &mut [u8], slot: u16, scn: Scn) {
    assert!(scn.0 != 0, "SCN 0 is 'not known'");
    let before = read_status(page, slot);
    assert!(before.is_none_or(|before| before == scn), "a commit at {before:?} is written over with {scn:?}");
    let at = entry_at(slot);
    page[at..at + 8].copy_from_slice(&scn.0.to_le_bytes());
}

fn entry_at(slot: u16) -> usize {
    assert!(u64::from(slot) < STATUS_PER_PAGE, "slot {slot} of a status page");
    STATUS_PAGE_HEADER + usize::from(slot) * 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_dss_proto::NodeId;

    #[test]
    fn entries_tile_the_pages() {
        let node = NodeId::new(2).unwrap();
        let place = |sequence| status_place(TxnId::new(node, sequence));
        assert_eq!(place(0), StatusPlace { page: 1, slot: 0 });
        assert_eq!(place(STATUS_PER_PAGE - 1), StatusPlace { page: 1, slot: 1015 });
        assert_eq!(place(STATUS_PER_PAGE), StatusPlace { page: 2, slot: 0 });
        let mut page = [0u8; PAGE_SIZE];
        write_status(&mut page, 1015, Scn(77));
        assert_eq!(read_status(&page, 1015), Some(Scn(77)));
        assert_eq!(read_status(&page, 1014), None);
        assert_eq!(page[PAGE_SIZE - 8], 77);
    }
}
