//! A device by io_uring with O_DIRECT: the ring's descriptor sits in the runtime's poller, no thread in between.
//!
//! Rules:
//! - an operation and its buffer belong to the ring's table from submission to completion, so that a future that is
//!   dropped leaves nothing behind that the kernel could still touch;
//! - whoever finds the ring free takes completions and submits everything that waits; whoever finds it taken goes on, since
//!   the other one looks again after he let go of it. Nobody waits for the ring. While the kernel is busy with others, a new
//!   operation first lets the other tasks run: those that a completion woke then go in one system call;
//! - the ring goes only when nothing is in flight (the table's drop waits);
//! - the file is not registered with the ring: a registered file, and with it the slot's lock (HZ-17), outlives a killed
//!   process by the kernel's deferred end of the ring, 20 to 30 ms. An operation in flight keeps the file open by itself.

use super::file::{OpenFile, io_error};
use crate::in_place;
use crate::seam::{BlockDevice, BoxFuture, DeviceError, Geometry, IoBuffer, write_zeros};
use io_uring::{IoUring, opcode, squeue, types};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// Operations in the kernel at once; more wait here.
const DEPTH: u32 = 256;

type Finished = Result<Option<IoBuffer>, DeviceError>;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
        }
    }
}

/// One operation with all that it needs until its completion.
struct Operation {
    kind: Kind,
    offset: u64,
    /// Bytes of the buffer that are done; the kernel may do a part at a time.
    done: usize,
    buffer: Option<IoBuffer>,
    finished: Option<oneshot::Sender<Finished>>,
}

impl Operation {
    fn length(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    fn entry(&mut self, number: u64, file: types::Fd) -> squeue::Entry {
        let (offset, done) = (self.offset + self.done as u64, self.done);
        let entry = match (self.kind, &mut self.buffer) {
            (Kind::Read, Some(buffer)) => {
                let rest = &mut buffer[done..];
                opcode::Read::new(file, rest.as_mut_ptr(), rest.len() as u32)
                    .offset(offset)
                    .build()
            }
            (Kind::Write, Some(buffer)) => {
                let rest = &buffer[done..];
                opcode::Write::new(file, rest.as_ptr(), rest.len() as u32)
                    .offset(offset)
                    .build()
            }
            _ => opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        };
        entry.user_data(number)
    }

    fn finish(mut self, errno: i32) {
        let result = match errno {
            0 => Ok(self.buffer.take()),
            errno => Err(io_error(self.kind.name(), self.offset, self.length(), errno)),
        };
        if let Some(finished) = self.finished.take() {
            // The caller may have gone; then nobody wants the buffer.
            let _gone = finished.send(result);
        }
    }
}

struct Table {
    ring: IoUring,
    /// The device: [`Shared::open`] keeps it open longer than the table lives.
    file: types::Fd,
    in_kernel: InKernel,
    again: VecDeque<Operation>,
    /// Completions that are being taken, kept for its memory.
    completions: Vec<(u64, i32)>,
}

/// Operations that the kernel has, each under the number that its completion will name.
#[derive(Default)]
struct InKernel {
    places: Vec<Option<Operation>>,
    free: Vec<u32>,
}

impl InKernel {
    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The number that the next operation will have.
    fn next(&self) -> u64 {
        self.free
            .last()
            .map_or(self.places.len() as u64, |place| u64::from(*place))
    }

    /// Keeps an operation under [`next`](Self::next).
    fn insert(&mut self, operation: Operation) {
        match self.free.pop() {
            Some(place) => self.places[place as usize] = Some(operation),
            None => self.places.push(Some(operation)),
        }
    }

    fn remove(&mut self, number: u64) -> Option<Operation> {
        let operation = self.places.get_mut(usize::try_from(number).ok()?)?.take()?;
        self.free.push(number as u32);
        Some(operation)
    }
}

/// What is to be done by whoever has the table next.
#[derive(Default)]
struct Waiting {
    operations: VecDeque<Operation>,
    /// The kernel said that it has completions.
    completed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// Operations in the kernel when the table was last let go of.
    busy: AtomicUsize,
    table: Mutex<Table>,
    /// After the ring so that it goes later.
    open: OpenFile,
}

impl Table {
    /// Moves as much as fits from the waiting operations to the kernel.
    fn submit(&mut self, waiting: &Mutex<Waiting>) -> std::io::Result<()> {
        let mut pushed = false;
        while self.in_kernel.len() < DEPTH as usize {
            let next = self.again.pop_front();
            let next = next.or_else(|| waiting.lock().operations.pop_front());
            let Some(mut operation) = next else { break };
            let entry = operation.entry(self.in_kernel.next(), self.file);
            self.in_kernel.insert(operation);
            // SAFETY: the buffer is in `in_kernel` until the completion of this entry is seen; its memory does not
            // move with the map. The file is open for longer than the ring.
            let pushing = unsafe { self.ring.submission().push(&entry) };
            pushing.expect("the submission queue is as deep as the table");
            pushed = true;
        }
        if pushed || !self.ring.submission().is_empty() {
            self.enter()?;
        }
        Ok(())
    }

    /// Hands the submission queue to the kernel. When it is short of memory the entries stay queued and the next
    /// completion tries again.
    fn enter(&mut self) -> std::io::Result<()> {
        loop {
            match self.ring.submit() {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    Some(libc::EAGAIN | libc::EBUSY)
                        if self.in_kernel.len() > self.ring.submission().len() =>
                    {
                        return Ok(());
                    }
                    Some(libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes completions; partly done operations wait to go again.
    fn reap(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let arrived = self.ring.completion();
        completions.extend(arrived.map(|entry| (entry.user_data(), entry.result())));
        for (number, result) in completions.drain(..) {
            let mut operation = self
                .in_kernel
                .remove(number)
                .expect("a completion belongs to an operation");
            if result < 0 {
                match -result {
                    libc::EINTR | libc::EAGAIN => self.again.push_back(operation),
                    errno => operation.finish(errno),
                }
                continue;
            }
            operation.done += result as usize;
            if operation.done == operation.length() {
                operation.finish(0);
            } else if result == 0 {
                operation.finish(libc::EIO); // The device ends early: it shrank under us.
            } else {
                self.again.push_back(operation);
            }
        }
        self.completions = completions;
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.again.clear();
        while self.in_kernel.len() > 0 {
            // The kernel still uses buffers of the table: wait for it.
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.raw_os_error() != Some(libc::EINTR)
            {
                // Freeing the buffers now would let the kernel write into memory that is not ours.
                std::mem::forget(std::mem::take(&mut self.in_kernel));
                return;
            }
            self.reap();
            self.again.clear();
        }
    }
}

impl Shared {
    /// Takes completions and submits what waits, unless somebody else is about to: he looks here again after he let go of
    /// the table, so what was put here before his table was found taken is seen by him.
    fn work(&self) {
        loop {
            let mut waiting = self.waiting.lock();
            let is_room = self.busy.load(Ordering::Acquire) < DEPTH as usize;
            if !waiting.completed && (waiting.operations.is_empty() || !is_room) {
                return;
            }
            let Some(mut table) = self.table.try_lock() else {
                return;
            };
            waiting.completed = false;
            drop(waiting);
            table.reap();
            if let Err(error) = table.submit(&self.waiting) {
                tracing::error!(%error, "io_uring refuses submissions");
            }
            self.busy.store(table.in_kernel.len(), Ordering::Release);
        }
    }

    fn complete(&self) {
        self.waiting.lock().completed = true;
        self.work();
    }
}

/// Takes completions whenever the kernel posts some, until the device is gone.
async fn drive(shared: Weak<Shared>, polled: AsyncFd<OwnedFd>) {
    loop {
        let Ok(mut ready) = polled.readable().await else {
            return;
        };
        // Cleared first: what completes from here on makes the descriptor ready again.
        ready.clear_ready();
        let Some(shared) = shared.upgrade() else { return };
        shared.complete();
    }
}

/// The device.
pub struct UringDevice {
    shared: Arc<Shared>,
    driver: tokio::task::AbortHandle,
}

impl UringDevice {
    /// Opens a file, loop device or block device. Call it inside the tokio runtime that will use it.
    pub fn open(path: &std::path::Path) -> Result<Arc<Self>, DeviceError> {
        Self::over(OpenFile::open(path)?).map_err(|(_, error)| error)
    }

    /// Over an open file; gives it back when there is no io_uring.
    pub(super) fn over(open: OpenFile) -> Result<Arc<Self>, (OpenFile, DeviceError)> {
        let ring = IoUring::<squeue::Entry>::builder()
            .dontfork()
            .setup_cqsize(DEPTH * 2)
            .build(DEPTH);
        let refuse =
            |error: std::io::Error| io_error("open", 0, 0, error.raw_os_error().unwrap_or(libc::ENOSYS));
        let ring = match ring {
            Ok(ring) => ring,
            Err(error) => return Err((open, refuse(error))),
        };
        // The poller gets a second descriptor of the ring, so that the number cannot be reused under it.
        // SAFETY: the ring is open, and stays so during the call.
        let number = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let polled = match rustix::io::fcntl_dupfd_cloexec(number, 0) {
            Ok(polled) => polled,
            Err(errno) => return Err((open, refuse(errno.into()))),
        };
        // SAFETY: an `OwnedFd` always has the same number, which is open until it is dropped with the `AsyncFd`.
        let polled = match unsafe { AsyncFd::register_with_interest(polled, Interest::READABLE) } {
            Ok(polled) => polled,
            Err(error) => return Err((open, refuse(error.into_parts().1))),
        };
        let table = Table {
            ring,
            file: types::Fd(open.file.as_raw_fd()),
            in_kernel: InKernel::default(),
            again: VecDeque::new(),
            completions: Vec::new(),
        };
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            busy: AtomicUsize::new(0),
            table: Mutex::new(table),
            open,
        });
        let driver = tokio::spawn(drive(Arc::downgrade(&shared), polled)).abort_handle();
        Ok(Arc::new(Self { shared, driver }))
    }

    /// The open file description of all its I/O, for the slot lock (HZ-17).
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.shared.open.descriptor()
    }

    async fn run(&self, kind: Kind, offset: u64, buffer: Option<IoBuffer>) -> Finished {
        if in_place::is_allowed() {
            return self.run_in_place(kind, offset, buffer);
        }
        let (finished, outcome) = oneshot::channel();
        let operation = Operation {
            kind,
            offset,
            done: 0,
            buffer,
            finished: Some(finished),
        };
        self.shared.waiting.lock().operations.push_back(operation);
        if self.shared.busy.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        self.shared.work();
        let gone = || io_error(kind.name(), offset, 0, libc::ECANCELED);
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    fn run_in_place(&self, kind: Kind, offset: u64, mut buffer: Option<IoBuffer>) -> Finished {
        match (kind, &mut buffer) {
            (Kind::Read, Some(buffer)) => self.shared.open.read(offset, buffer),
            (Kind::Write, Some(buffer)) => self.shared.open.write(offset, buffer),
            _ => self.shared.open.flush(),
        }
        .map(|()| buffer)
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl BlockDevice for UringDevice {
    fn geometry(&self) -> Geometry {
        self.shared.open.geometry()
    }

    fn read(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.shared.open.check("read", offset, buffer.len())?;
            let read = self.run(Kind::Read, offset, Some(buffer)).await?;
            Ok(read.expect("a read gives its buffer back"))
        })
    }

    fn write(&self, offset: u64, buffer: IoBuffer) -> BoxFuture<'_, Result<IoBuffer, DeviceError>> {
        Box::pin(async move {
            self.shared.open.check("write", offset, buffer.len())?;
            let written = self.run(Kind::Write, offset, Some(buffer)).await?;
            Ok(written.expect("a write gives its buffer back"))
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move { self.run(Kind::Flush, 0, None).await.map(drop) })
    }

    fn discard(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.shared
                .open
                .check("discard", offset, usize::try_from(length).unwrap_or(usize::MAX))?;
            let shared = self.shared.clone();
            let job = tokio::task::spawn_blocking(move || shared.open.discard(offset, length));
            job.await.expect("device work does not panic")
        })
    }

    fn discards_to_zeros(&self) -> bool {
        self.shared.open.discards_to_zeros()
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.shared
                .open
                .check("zero", offset, usize::try_from(length).unwrap_or(usize::MAX))?;
            let shared = self.shared.clone();
            let job = tokio::task::spawn_blocking(move || shared.open.zero(offset, length));
            if job.await.expect("device work does not panic")? {
                return Ok(());
            }
            write_zeros(self, offset, length).await
        })
    }
}
