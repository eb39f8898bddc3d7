//! Page cache over many nodes: frames, latches, eviction, possession and transfer of pages.

mod config;
mod pool;

pub use aquifer_buffer_pool_proto::{ImageInfo, Lsn, Mode, PAGE_SIZE, PageId, Psn, Scn, header};
pub use config::{Miss, PageStore, PageStoreError, PoolConfig, PoolCounters, PoolError, Redo, RedoTask};
pub use pool::{Hold, PageReadGuard, PageWriteGuard, Pool};
