//! A function of the program that is called back.

use parking_lot::RwLock;
use std::ffi::c_void;

/// Whom to tell: a function, and what the program gave with it.
pub struct Slot<Call>(RwLock<Option<Receiver<Call>>>);

/// A function and its context.
#[derive(Clone, Copy)]
struct Receiver<Call> {
    call: Call,
    context: *mut c_void,
}

// SAFETY: the context is passed on and never looked at; the header says that callbacks come on any thread.
unsafe impl<Call: Send> Send for Receiver<Call> {}
// SAFETY: as above.
unsafe impl<Call: Sync> Sync for Receiver<Call> {}

impl<Call: Copy> Slot<Call> {
    /// Nobody.
    pub const fn empty() -> Self {
        Self(RwLock::new(None))
    }

    /// Has `call` told from now on; nobody without one.
    pub fn set(&self, call: Option<Call>, context: *mut c_void) {
        *self.0.write() = call.map(|call| Receiver { call, context });
    }

    /// Whom to tell now: copied, so that a callback may set another one.
    pub fn get(&self) -> Option<(Call, *mut c_void)> {
        self.0.read().map(|receiver| (receiver.call, receiver.context))
    }
}
