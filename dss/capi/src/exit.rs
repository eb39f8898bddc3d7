//! The end of the process, when going on would not be safe.

use crate::abi::aq_exit_callback;
use parking_lot::RwLock;
use std::ffi::{CString, c_char, c_void};

type Call = unsafe extern "C" fn(reason: *const c_char, context: *mut c_void);

/// Who is told.
#[derive(Clone, Copy)]
struct Receiver {
    call: Call,
    context: *mut c_void,
}

// SAFETY: the context is passed on and never looked at; the header says that the callback comes on any thread.
unsafe impl Send for Receiver {}
// SAFETY: as above.
unsafe impl Sync for Receiver {}

static RECEIVER: RwLock<Option<Receiver>> = RwLock::new(None);

/// Has `callback` told from now on; nobody without one.
pub fn set(callback: aq_exit_callback, context: *mut c_void) {
    *RECEIVER.write() = callback.map(|call| Receiver { call, context });
}

/// Tells the program. It runs on a thread that nobody waits for longer than the member does.
pub fn tell(reason: &str) {
    let Some(Receiver { call, context }) = *RECEIVER.read() else {
        return;
    };
    let reason = CString::new(reason.replace('\0', " ")).expect("zero bytes were taken out");
    // SAFETY: the program gave this function for this; the text lives until it returns.
    unsafe { call(reason.as_ptr(), context) };
}
