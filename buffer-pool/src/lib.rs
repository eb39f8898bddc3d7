//! Page cache over many nodes: frames, latches, eviction, possession and transfer of pages.

mod ahead;
mod announce;
mod answers;
mod clean;
mod config;
mod copies;
mod dirty;
mod driver;
mod evict;
mod frame;
mod free;
mod guard;
mod huge_array;
mod huge_pages;
mod images;
mod pool;
mod receive;
mod recycle;
mod repair;
mod surrender;
mod table;
pub mod testing;
mod touch;
mod wire;

pub use aquifer_buffer_pool_proto::{ImageInfo, Lsn, Mode, PageId, PageSize, Psn, Scn, Stamp, header};
pub use config::{
    Eviction, Locality, Miss, PageStore, PageStoreError, PoolConfig, PoolCounters, PoolError, Redo, RedoTask,
};
pub use copies::CopyImage;
pub use guard::{Hold, PageReadGuard, PageWriteGuard};
pub use huge_pages::PoolMemory;
pub use pool::Pool;
pub use receive::PageReceiver;
