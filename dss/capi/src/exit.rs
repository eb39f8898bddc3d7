//! The end of the process, when going on would not be safe.

use crate::abi::aq_exit_callback;
use crate::border::c_text;
use crate::callback::Slot;
use std::ffi::{c_char, c_void};

type Call = unsafe extern "C" fn(reason: *const c_char, context: *mut c_void);

static RECEIVER: Slot<Call> = Slot::empty();

/// Has `callback` told from now on; nobody without one.
pub fn set(callback: aq_exit_callback, context: *mut c_void) {
    RECEIVER.set(callback, context);
}

/// Tells the program. It runs on a thread that nobody waits for longer than the member does.
pub fn tell(reason: &str) {
    let Some((call, context)) = RECEIVER.get() else {
        return;
    };
    let reason = c_text(reason);
    // SAFETY: the program gave this function for this; the text lives until it returns.
    unsafe { call(reason.as_ptr(), context) };
}
