//! The log of the library, given to the program line by line.

use crate::abi::{aq_log_callback, aq_log_level};
use crate::border::c_text;
use crate::callback::Slot;
use std::ffi::{c_char, c_void};
use std::fmt::{Debug, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, Ordering};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

type Call =
    unsafe extern "C" fn(level: i32, target: *const c_char, text: *const c_char, context: *mut c_void);

/// Where lines go.
static RECEIVER: Slot<Call> = Slot::empty();
static LEVEL: AtomicI32 = AtomicI32::new(0);
static INSTALL: Once = Once::new();

const fn number(level: Level) -> i32 {
    match level {
        Level::ERROR => aq_log_level::AQ_LOG_ERROR as i32,
        Level::WARN => aq_log_level::AQ_LOG_WARN as i32,
        Level::INFO => aq_log_level::AQ_LOG_INFO as i32,
        Level::DEBUG | Level::TRACE => aq_log_level::AQ_LOG_DEBUG as i32,
    }
}

/// Sends the lines up to `level` to `callback` from now on; none without one.
pub fn set(level: i32, callback: aq_log_callback, context: *mut c_void) {
    RECEIVER.set(callback, context);
    LEVEL.store(if callback.is_some() { level } else { 0 }, Ordering::Relaxed);
    INSTALL.call_once(|| {
        // A program that has a subscriber of its own in this process sees the lines there.
        let _theirs = tracing::subscriber::set_global_default(Lines);
    });
    tracing::callsite::rebuild_interest_cache();
}

/// The subscriber: events are lines, spans are nothing.
struct Lines;

/// A line in the making.
#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _written = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && *metadata.level() != Level::TRACE
            && number(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn event(&self, event: &Event<'_>) {
        let Some((call, context)) = RECEIVER.get() else {
            return;
        };
        let mut line = Line::default();
        event.record(&mut line);
        let (target, text) = (c_text(event.metadata().target()), c_text(&line.0));
        // SAFETY: the program gave this function for this; both texts live until it returns.
        unsafe {
            call(
                number(*event.metadata().level()),
                target.as_ptr(),
                text.as_ptr(),
                context,
            )
        };
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}
