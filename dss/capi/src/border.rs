//! The border: what C gives is checked on its way in, and nothing but numbers and bytes goes out.
//!
//! Rules:
//! - CAPI-1 every function runs inside [`entry`]: a panic becomes `AQ_INTERNAL`, an error is kept for the thread;
//! - CAPI-2 a pointer is looked at here alone, after a check for null; that it is valid for what the header says is up to the
//!   caller, and the only thing that is.

use crate::abi::{AQ_MOST_BYTES, aq_error, aq_event};
use crate::statistics;
use aquifer_dss::group::StorageError;
use aquifer_dss::seam::DeviceError;
use aquifer_dss_proto::catalog::OperationError;
use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    code: aq_error,
    text: String,
}

/// What a call gives.
pub type Answer<T> = Result<T, Failure>;

impl Failure {
    /// With its code and a line of text.
    pub fn new(code: aq_error, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// A mistake of the caller.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(aq_error::AQ_INVALID, text)
    }

    /// With what it was about in front.
    pub fn about(self, what: &str) -> Self {
        let text = format!("{what}: {}", self.text);
        Self { text, ..self }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        Self::new(code(&error), error.to_string())
    }
}

fn code(error: &StorageError) -> aq_error {
    match error {
        StorageError::Operation { error, .. } => refusal(*error),
        StorageError::NoSuchFile(_) => aq_error::AQ_NOT_FOUND,
        StorageError::Device(DeviceError::Fenced(_)) => aq_error::AQ_FENCED,
        StorageError::Device(DeviceError::OutOfRange { .. })
        | StorageError::Invalid(_)
        | StorageError::OutsideFile { .. }
        | StorageError::Hole { .. } => aq_error::AQ_INVALID,
        StorageError::Damaged(_) | StorageError::DamagedLabel => aq_error::AQ_DAMAGED,
        StorageError::Unavailable | StorageError::NotLeader(_) => aq_error::AQ_UNKNOWN,
        _ => aq_error::AQ_DEVICE,
    }
}

const fn refusal(error: OperationError) -> aq_error {
    match error {
        OperationError::NotFound => aq_error::AQ_NOT_FOUND,
        OperationError::AlreadyExists => aq_error::AQ_EXISTS,
        OperationError::NotEmpty => aq_error::AQ_NOT_EMPTY,
        OperationError::NotADirectory => aq_error::AQ_NOT_A_DIRECTORY,
        OperationError::IsADirectory => aq_error::AQ_IS_A_DIRECTORY,
        OperationError::NoSpace | OperationError::NoMetadataSpace => aq_error::AQ_NO_SPACE,
        OperationError::Protected => aq_error::AQ_PROTECTED,
        OperationError::TooManyLinks => aq_error::AQ_TOO_MANY_LINKS,
        OperationError::TooLarge => aq_error::AQ_TOO_LARGE,
        OperationError::Busy => aq_error::AQ_BUSY,
        _ => aq_error::AQ_INVALID,
    }
}

thread_local! {
    /// The last failure of this thread.
    static LAST: RefCell<(i64, CString)> = RefCell::new((0, CString::default()));
}

/// Text for C, where a zero byte would end it early.
pub fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).expect("zero bytes were taken out")
}

/// Remembers a failure for the thread; the negative of its code.
fn keep(failure: Failure) -> i64 {
    let code = failure.code as i64;
    let text = c_text(&failure.text);
    // A thread that ends keeps nothing.
    let _ending = LAST.try_with(|last| *last.borrow_mut() = (code, text));
    -code
}

/// The last failure of this thread.
pub fn last_error() -> i64 {
    LAST.try_with(|last| last.borrow().0).unwrap_or_default()
}

/// Its text; the memory is good until the thread's next failure.
pub fn last_text() -> *const c_char {
    LAST.try_with(|last| last.borrow().1.as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
}

/// Runs a call: no panic leaves it, its failure is kept, its time is counted.
pub fn entry(event: aq_event, work: impl FnOnce() -> Answer<i64>) -> i64 {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = format!("a mistake of the library: {}", said(&*panic));
        Err(Failure::new(aq_error::AQ_INTERNAL, text))
    });
    statistics::count(event, begun.elapsed(), outcome.is_err());
    outcome.unwrap_or_else(keep)
}

fn null(what: &str) -> Failure {
    Failure::invalid(format!("{what} is a null pointer"))
}

/// Text of the caller.
///
/// # Safety
/// The pointer is null, or a C string that nobody changes during `'a`.
pub unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Answer<&'a str> {
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: not null, and otherwise as the caller of this function promises.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str()
        .map_err(|_| Failure::invalid(format!("{what} is not UTF-8")))
}

/// Text of the caller that may be left out.
///
/// # Safety
/// As [`text`].
pub unsafe fn optional_text<'a>(pointer: *const c_char, what: &str) -> Answer<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: as the caller of this function promises.
    unsafe { text(pointer, what) }.map(Some)
}

/// Something of the caller, copied.
///
/// # Safety
/// The pointer is null, or points to a value that nobody changes meanwhile.
pub unsafe fn value<T: Copy>(pointer: *const T, what: &str) -> Answer<T> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(null(what));
    }
    // SAFETY: not null, aligned, and otherwise as the caller of this function promises.
    Ok(unsafe { pointer.read() })
}

/// Whether there is a place for an answer: asked before the work is done.
pub fn wanted<T>(pointer: *mut T, what: &str) -> Answer<()> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(null(what));
    }
    Ok(())
}

/// Gives an answer.
///
/// # Safety
/// The pointer is null, or points to memory for a value that nobody else uses meanwhile.
pub unsafe fn give<T>(pointer: *mut T, value: T, what: &str) -> Answer<()> {
    wanted(pointer, what)?;
    // SAFETY: not null, aligned, and otherwise as the caller of this function promises. Nothing is read or dropped there.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Refuses lengths that no call takes.
pub fn bounded(length: usize) -> Answer<usize> {
    if length > AQ_MOST_BYTES as usize {
        return Err(Failure::new(
            aq_error::AQ_TOO_LARGE,
            format!("{length} bytes are more than one call takes"),
        ));
    }
    Ok(length)
}

/// An array of the caller.
///
/// # Safety
/// The pointer is null, or points to `count` values that nobody changes during `'a`.
pub unsafe fn slice<'a, T>(pointer: *const T, count: usize, what: &str) -> Answer<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(null(what));
    }
    bounded(count.saturating_mul(size_of::<T>()))?;
    // SAFETY: not null, aligned, not longer than an object may be, and otherwise as the caller of this function promises.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Copies bytes into memory of the caller.
///
/// # Safety
/// The pointer is null, or there are `bytes.len()` bytes that nobody else uses meanwhile.
pub unsafe fn fill(pointer: *mut u8, bytes: &[u8], what: &str) -> Answer<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: not null, and the memory is there and no part of `bytes`, which is the library's own.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
    Ok(())
}

/// Copies text into `size` bytes of the caller, with a zero byte; its length without that.
///
/// # Safety
/// The pointer is null, or there are `size` bytes that nobody else uses meanwhile.
pub unsafe fn fill_text(pointer: *mut c_char, size: usize, text: &str) -> Answer<i64> {
    if size <= text.len() {
        let needed = text.len() + 1;
        return Err(Failure::new(
            aq_error::AQ_SHORT_BUFFER,
            format!("{needed} bytes are needed, {size} are there"),
        ));
    }
    let with_end: Vec<u8> = text.bytes().chain([0]).collect();
    // SAFETY: there are `size` bytes, which are enough.
    unsafe { fill(pointer.cast(), &with_end, "the memory for the text")? };
    Ok(text.len() as i64)
}
