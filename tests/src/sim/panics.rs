//! Keeps the text of a panic that the simulator catches, instead of printing it.

use std::cell::{Cell, RefCell};
use std::sync::Once;

thread_local! {
    static CAPTURING: Cell<bool> = const { Cell::new(false) };
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// From now on panics of this thread are kept, until [`release`].
pub fn capture() {
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAPTURING.get() {
                previous(info);
                return;
            }
            let place = info
                .location()
                .map(|place| format!("{}:{}", place.file(), place.line()));
            let payload = info.payload();
            let text = payload
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| payload.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            let place = place.unwrap_or_default();
            let mut message = format!("{text} ({place})");
            if std::env::var_os("RUST_BACKTRACE").is_some() {
                message.push_str(&format!("\n{}", std::backtrace::Backtrace::force_capture()));
            }
            LAST.with_borrow_mut(|last| *last = Some(message));
        }));
    });
    CAPTURING.set(true);
}

/// Panics of this thread are printed again.
pub fn release() {
    CAPTURING.set(false);
}

/// The last panic of this thread, once.
pub fn last() -> Option<String> {
    LAST.with_borrow_mut(Option::take)
}
