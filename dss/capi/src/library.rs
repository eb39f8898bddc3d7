//! Functions of the library as a whole: errors, log, end, figures, version.

use crate::abi::{AQ_EVENTS, aq_event, aq_exit_callback, aq_figures, aq_log_callback, aq_log_level};
use crate::border::{Failure, entry, give, last_error, last_text};
use crate::{exit, log, statistics};
use std::ffi::{c_char, c_void};

/// Grows with each change that a program could see.
const API_VERSION: u32 = 1;

/// The aq_error of this thread's last call that failed; 0 before the first.
#[unsafe(no_mangle)]
pub extern "C" fn aq_error_number() -> i64 {
    last_error()
}

/// What was wrong in this thread's last call that failed, as one line. The memory is good until the thread's next failure.
#[unsafe(no_mangle)]
pub extern "C" fn aq_error_text() -> *const c_char {
    last_text()
}

/// Version of the library as text.
#[unsafe(no_mangle)]
pub extern "C" fn aq_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Number of this interface: it grows with each change that a program could see.
#[unsafe(no_mangle)]
pub extern "C" fn aq_api_version() -> u32 {
    API_VERSION
}

/// Sends lines of the log up to `level`, an aq_log_level, to `callback` with `context`; nothing with a null callback. The callback comes
/// on any thread and must not call the library.
#[unsafe(no_mangle)]
pub extern "C" fn aq_log_set(level: i32, callback: aq_log_callback, context: *mut c_void) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let most = aq_log_level::AQ_LOG_DEBUG as i32;
        if !(0..=most).contains(&level) {
            return Err(Failure::invalid(format!("{level} is no level: 0 to {most}")));
        }
        log::set(level, callback, context);
        Ok(0)
    })
}

/// Has `callback` told, with `context`, why the process ends when this node may not go on. It has half a second, on a thread of its own;
/// then the process aborts. A null callback is told nothing.
#[unsafe(no_mangle)]
pub extern "C" fn aq_exit_set(callback: aq_exit_callback, context: *mut c_void) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        exit::set(callback, context);
        Ok(0)
    })
}

/// Writes the figures of events 0 up to `count` of this process; gives how many that were.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aq_statistics(figures: *mut aq_figures, count: usize) -> i64 {
    entry(aq_event::AQ_EVENT_STATUS, || {
        let count = count.min(AQ_EVENTS);
        for (index, answer) in statistics::all().take(count).enumerate() {
            // SAFETY: the header says that there is place for `count`.
            unsafe { give(figures.wrapping_add(index), answer, "figures")? };
        }
        Ok(count as i64)
    })
}

/// The name of an event, an aq_event; null when there is none.
#[unsafe(no_mangle)]
pub extern "C" fn aq_event_name(event: u32) -> *const c_char {
    const NAMES: [&std::ffi::CStr; AQ_EVENTS] = [
        c"pool",
        c"open",
        c"close",
        c"read",
        c"write",
        c"append",
        c"sync",
        c"size",
        c"prepare",
        c"finish",
        c"names",
        c"stat",
        c"directory",
        c"copy",
        c"status",
    ];
    let name = usize::try_from(event).ok().and_then(|event| NAMES.get(event));
    name.map_or(std::ptr::null(), |name| name.as_ptr())
}
