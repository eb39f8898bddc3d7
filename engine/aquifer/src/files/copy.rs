//! `fs cp`: into the volume group, out of it, and inside; checked by CRC32C, which is read back at the end.

use super::protocol::{CHUNK, FileRequest};
use super::session::Session;
use crate::failure::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;
use std::time::Instant;

/// What was copied.
#[derive(Clone, Debug, Serialize)]
pub struct Copied {
    /// Bytes.
    pub bytes: u64,
    /// CRC32C of the source, and of the copy as it was read back.
    pub crc32c: String,
    /// How long it took.
    pub seconds: f64,
}

/// Where bytes come from or go to.
pub enum Place {
    /// A path in the volume group.
    Inside(String),
    /// A path of this machine.
    Outside(std::path::PathBuf),
}

impl Place {
    /// A path as it is typed: `NAME:/path` is inside. A path without a name is inside when `inside` says so.
    pub fn parse(text: &str, inside: bool) -> Self {
        match text.split_once(':') {
            Some((group, path)) if !group.contains('/') && path.starts_with('/') => Self::Inside(path.into()),
            _ if inside => Self::Inside(text.into()),
            _ => Self::Outside(text.into()),
        }
    }
}

/// A bar on stderr with bytes, rate and time left; nothing without a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let style =
        ProgressStyle::with_template("{bytes} of {total_bytes}  {bar:30}  {bytes_per_sec}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// CRC32C of what comes piece by piece.
struct Sum(crc_fast::Digest);

impl Default for Sum {
    fn default() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn end(&self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Reads a file of this machine piece by piece.
fn read_piece(file: &mut File, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.clear();
    file.take(CHUNK).read_to_end(buffer).map(drop)
}

fn outside(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{what} {} failed: {error}", path.display()))
}

/// A file of this machine into the group. What was begun is taken away when it fails.
pub async fn copy_in(session: &mut Session, from: &Path, to: &str) -> Result<Copied, Failure> {
    let mut file =
        File::open(from).map_err(|e| Failure::usage(format!("cannot open {}: {e}", from.display())))?;
    let size = file
        .metadata()
        .map_err(|e| outside(from, "looking at", &e))?
        .len();
    let made = session.create(to, true).await?;
    let path = to.to_owned();
    // With its whole size first, the pieces need no metadata operation each.
    session.call(FileRequest::SetSize { path, size }).await?;
    let copied = write_in(session, &mut file, from, made.id, size).await;
    if copied.is_err() {
        let path = to.to_owned();
        let _ = session.call(FileRequest::Unlink { path }).await;
    }
    copied
}

async fn write_in(
    session: &mut Session,
    file: &mut File,
    from: &Path,
    id: u64,
    size: u64,
) -> Result<Copied, Failure> {
    let (began, bar) = (Instant::now(), bar(size));
    let (mut sum, mut offset, mut buffer) = (Sum::default(), 0, Vec::new());
    loop {
        read_piece(file, &mut buffer).map_err(|e| outside(from, "reading", &e))?;
        if buffer.is_empty() {
            break;
        }
        session.write(id, offset, &buffer).await?;
        sum.add(&buffer);
        offset += buffer.len() as u64;
        bar.set_position(offset);
    }
    session.call(FileRequest::Sync { id }).await?;
    bar.finish_and_clear();
    let found = sum_inside(session, id, offset).await?;
    finish(sum.end(), found, offset, began)
}

/// The sum of a file of the group.
async fn sum_inside(session: &mut Session, id: u64, size: u64) -> Result<u32, Failure> {
    let (mut sum, mut offset) = (Sum::default(), 0);
    while offset < size {
        let bytes = session.read(id, offset, CHUNK).await?;
        if bytes.is_empty() {
            break;
        }
        sum.add(&bytes);
        offset += bytes.len() as u64;
    }
    Ok(sum.end())
}

fn finish(wanted: u32, found: u32, bytes: u64, began: Instant) -> Result<Copied, Failure> {
    if wanted != found {
        return Err(Failure::failed(format!(
            "the copy is not what was read: CRC {found:08x} for {wanted:08x}; look at the device"
        )));
    }
    Ok(Copied {
        bytes,
        crc32c: format!("{wanted:08x}"),
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// A file of the group to this machine; the target must not exist.
pub async fn copy_out(session: &mut Session, from: &str, to: &Path) -> Result<Copied, Failure> {
    let info = session.stat(from, true).await?;
    if info.is_directory() {
        return Err(Failure::usage(format!("{from} is a directory")));
    }
    let mut file =
        File::create_new(to).map_err(|e| Failure::usage(format!("cannot make {}: {e}", to.display())))?;
    let copied = write_out(session, &mut file, to, info.id, info.size).await;
    if copied.is_err() {
        let _ = std::fs::remove_file(to);
    }
    copied
}

async fn write_out(
    session: &mut Session,
    file: &mut File,
    to: &Path,
    id: u64,
    size: u64,
) -> Result<Copied, Failure> {
    let (began, bar) = (Instant::now(), bar(size));
    let (mut sum, mut offset) = (Sum::default(), 0);
    while offset < size {
        let bytes = session.read(id, offset, CHUNK).await?;
        if bytes.is_empty() {
            break;
        }
        file.write_all(&bytes).map_err(|e| outside(to, "writing", &e))?;
        sum.add(&bytes);
        offset += bytes.len() as u64;
        bar.set_position(offset);
    }
    file.sync_all().map_err(|e| outside(to, "writing", &e))?;
    bar.finish_and_clear();
    let mut again = File::open(to).map_err(|e| outside(to, "reading", &e))?;
    let (mut found, mut buffer) = (Sum::default(), Vec::new());
    loop {
        read_piece(&mut again, &mut buffer).map_err(|e| outside(to, "reading", &e))?;
        if buffer.is_empty() {
            break;
        }
        found.add(&buffer);
    }
    finish(sum.end(), found.end(), offset, began)
}

/// A file of the group to another path there.
pub async fn copy_within(session: &mut Session, from: &str, to: &str) -> Result<Copied, Failure> {
    let info = session.stat(from, true).await?;
    if info.is_directory() {
        return Err(Failure::usage(format!("{from} is a directory")));
    }
    let made = session.create(to, true).await?;
    let (path, size) = (to.to_owned(), info.size);
    session.call(FileRequest::SetSize { path, size }).await?;
    let copied = write_within(session, info.id, made.id, info.size).await;
    if copied.is_err() {
        let path = to.to_owned();
        let _ = session.call(FileRequest::Unlink { path }).await;
    }
    copied
}

async fn write_within(session: &mut Session, from: u64, to: u64, size: u64) -> Result<Copied, Failure> {
    let (began, bar) = (Instant::now(), bar(size));
    let (mut sum, mut offset) = (Sum::default(), 0);
    while offset < size {
        let bytes = session.read(from, offset, CHUNK).await?;
        if bytes.is_empty() {
            break;
        }
        session.write(to, offset, &bytes).await?;
        sum.add(&bytes);
        offset += bytes.len() as u64;
        bar.set_position(offset);
    }
    session.call(FileRequest::Sync { id: to }).await?;
    bar.finish_and_clear();
    let found = sum_inside(session, to, offset).await?;
    finish(sum.end(), found, offset, began)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_the_name_of_a_group_is_inside() {
        let inside = |text: &str, default| matches!(Place::parse(text, default), Place::Inside(path) if path == "/a:b");
        assert!(inside("main:/a:b", false) && inside("/a:b", true) && !inside("/a:b", false));
        assert!(matches!(Place::parse("x/y:/z", false), Place::Outside(_)));
    }
}
