//! Functions of a pool as a whole.

use crate::abi::{aq_error, aq_event, aq_pool, aq_pool_options, aq_space, aq_status};
use crate::border::{Answer, Failure, entry, fill_text, give, optional_text, slice, text, value, wanted};
use crate::directory::DIRECTORIES;
use crate::file::FILES;
use crate::pool::{POOLS, Pool};
use crate::prepare::PLACES;
use aquifer_dss_proto::NodeId;
use aquifer_member::{Address, MemberOptions};
use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr::null;
use std::sync::Arc;
use std::time::Duration;

/// Threads of the library when nothing is said.
const THREADS: u32 = 2;
/// How long joining may take when nothing is said.
const JOIN_TIMEOUT_MS: u32 = 30_000;

/// Writes the usual options: no device, node 0, both of which have to be set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_pool_options_default(options: *mut aq_pool_options) -> i64 {
    let usual = aq_pool_options {
        devices: null(),
        device_count: 0,
        node: 0,
        threads: THREADS,
        buffer_bytes: 0,
        runtime_directory: null(),
        peer: null(),
        join_timeout_ms: JOIN_TIMEOUT_MS,
        operation_timeout_ms: 0,
    };
    entry(aq_event::AQ_EVENT_POOL, || {
        // SAFETY: as the header says.
        unsafe { give(options, usual, "options") }.map(|()| 0)
    })
}

/// What the options say.
///
/// # Safety
/// Pointers in it are null or valid.
unsafe fn settled(options: &aq_pool_options) -> Answer<MemberOptions> {
    let node = u8::try_from(options.node).ok().and_then(NodeId::new);
    let node = node.ok_or_else(|| Failure::invalid("options: node is not 1 to 64"))?;
    // SAFETY: as the caller promises.
    let named = unsafe { slice(options.devices, options.device_count, "options: devices")? };
    let mut devices = Vec::with_capacity(named.len());
    for device in named {
        // SAFETY: as the caller promises.
        let path = unsafe { text(*device, "a device")? };
        let path = std::path::absolute(path).map_err(|error| Failure::invalid(format!("{path}: {error}")))?;
        devices.push(path);
    }
    if devices.is_empty() {
        return Err(Failure::invalid("options: no device is named"));
    }
    let mut settled = MemberOptions::new(node, devices);
    // SAFETY: as the caller promises.
    if let Some(directory) = unsafe { optional_text(options.runtime_directory, "runtime directory")? } {
        settled.peer = Address::Unix(PathBuf::from(directory).join(format!("node-{node}.peer")));
    }
    // SAFETY: as the caller promises.
    if let Some(peer) = unsafe { optional_text(options.peer, "peer")? } {
        settled.peer = Address::parse(peer).map_err(Failure::invalid)?;
    }
    if !settled.peer.is_local() {
        return Err(Failure::invalid(format!(
            "peer {}: nodes talk in the clear and fence each other, on this machine only in this version",
            settled.peer
        )));
    }
    settled.buffer = settled.buffer.max(options.buffer_bytes);
    Ok(settled)
}

/// Joins the cluster as the node of the options, or forms it when no node lives; gives the pool when this node serves.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_pool_open(options: *const aq_pool_options, pool: *mut aq_pool) -> i64 {
    entry(aq_event::AQ_EVENT_POOL, || {
        // SAFETY: as the header says.
        let options = unsafe { value(options, "options")? };
        wanted(pool, "pool")?;
        // SAFETY: as the header says.
        let settled = unsafe { settled(&options)? };
        let limit = Duration::from_millis(options.join_timeout_ms.into());
        let opened = Pool::open(settled, options.threads, limit, options.operation_timeout_ms)?;
        let handle = POOLS.open(opened)?;
        // SAFETY: as the header says.
        unsafe { give(pool, handle, "pool") }.map(|()| 0)
    })
}

/// Leaves the cluster and ends the library's threads. Files, directories and prepared places have to be closed before: otherwise
/// AQ_BUSY. After any other failure the pool is closed too, and the other nodes recover this one. The process may join again.
#[unsafe(no_mangle)]
pub extern "C" fn aq_pool_close(pool: aq_pool) -> i64 {
    entry(aq_event::AQ_EVENT_POOL, || {
        let closing = POOLS.get(pool)?;
        let is_mine = |other: &Arc<Pool>| Arc::ptr_eq(other, &closing);
        let used = FILES.any(|file| is_mine(&file.pool))
            || DIRECTORIES.any(|directory| is_mine(&directory.pool))
            || PLACES.any(|place| is_mine(&place.pool));
        if used {
            return Err(Failure::new(aq_error::AQ_BUSY, "handles of the pool are open"));
        }
        let closed = closing.close();
        // Closed by somebody else meanwhile: then it was told.
        let _gone = POOLS.close(pool);
        closed.map(|()| 0)
    })
}

/// Sets how long an operation on the pool may take, in milliseconds, before it is AQ_UNKNOWN and goes on alone; 0 is without end.
#[unsafe(no_mangle)]
pub extern "C" fn aq_pool_set_timeout(pool: aq_pool, milliseconds: u32) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        POOLS.get(pool)?.set_timeout(milliseconds);
        Ok(0)
    })
}

/// What this node knows of the cluster.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_pool_status(pool: aq_pool, status: *mut aq_status) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let pool = POOLS.get(pool)?;
        let known = pool.member().node().status();
        let lease = pool.member().lease_left();
        let answer = aq_status {
            node: known.node.get().into(),
            leader: known.view.leader.get().into(),
            members: known.view.members.len() as u32,
            serving: (known.serving && known.lease_valid).into(),
            incarnation: known.incarnation.0,
            epoch: known.view.epoch.0,
            lease_left_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        };
        // SAFETY: as the header says.
        unsafe { give(status, answer, "status") }.map(|()| 0)
    })
}

/// Space of the volume group, as this node knows it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_pool_space(pool: aq_pool, space: *mut aq_space) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let known = POOLS.get(pool)?.group().space();
        let answer = aq_space {
            unit_bytes: known.unit_bytes,
            units: known.units,
            free: known.free,
            waiting: known.waiting,
        };
        // SAFETY: as the header says.
        unsafe { give(space, answer, "space") }.map(|()| 0)
    })
}

/// Bytes of an allocation unit.
#[unsafe(no_mangle)]
pub extern "C" fn aq_pool_unit_bytes(pool: aq_pool) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let bytes = POOLS.get(pool)?.group().space().unit_bytes;
        i64::try_from(bytes).map_err(|_| Failure::invalid("a unit of more than 2^63 bytes"))
    })
}

/// 1 when `bytes` is a whole number of allocation units, 0 when not.
#[unsafe(no_mangle)]
pub extern "C" fn aq_pool_is_aligned(pool: aq_pool, bytes: u64) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let unit = POOLS.get(pool)?.group().space().unit_bytes;
        Ok(bytes.is_multiple_of(unit).into())
    })
}

/// `bytes`, rounded up to whole allocation units.
#[unsafe(no_mangle)]
pub extern "C" fn aq_pool_align(pool: aq_pool, bytes: u64) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let unit = POOLS.get(pool)?.group().space().unit_bytes;
        let aligned = bytes.checked_next_multiple_of(unit);
        aligned
            .and_then(|aligned| i64::try_from(aligned).ok())
            .ok_or_else(|| {
                Failure::new(
                    aq_error::AQ_TOO_LARGE,
                    format!("{bytes} bytes cannot be rounded up"),
                )
            })
    })
}

/// Copies an entry of the group's configuration into `size` bytes, with a zero byte; gives its length without that.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_config_get(
    pool: aq_pool,
    key: *const c_char,
    buffer: *mut c_char,
    size: usize,
) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let pool = POOLS.get(pool)?;
        // SAFETY: as the header says.
        let key = unsafe { text(key, "key")? }.to_owned();
        let group = pool.group().clone();
        let found = pool.wait(async move {
            let found = group.config(&key).await?;
            found.ok_or_else(|| {
                Failure::new(
                    aq_error::AQ_NOT_FOUND,
                    format!("{key}: no such configuration entry"),
                )
            })
        })?;
        // SAFETY: as the header says.
        unsafe { fill_text(buffer, size, &found) }
    })
}

/// Sets an entry of the group's configuration, which all nodes see; a null `value` takes it away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_config_set(pool: aq_pool, key: *const c_char, value: *const c_char) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let pool = POOLS.get(pool)?;
        // SAFETY: as the header says.
        let key = unsafe { text(key, "key")? }.to_owned();
        // SAFETY: as the header says.
        let value = unsafe { optional_text(value, "value")? }.map(str::to_owned);
        let group = pool.group().clone();
        pool.wait(async move { Ok(group.set_config(&key, value.as_deref()).await?) })?;
        Ok(0)
    })
}
