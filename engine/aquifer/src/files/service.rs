//! Requests for files, done by a member of the cluster.

use super::protocol::{Bytes, CHUNK, EXTENTS, FileInfo, FileRequest, Listing, PAGE};
use crate::failure::{Exit, Failure};
use aquifer_dss::group::{FileStat, FileType, OpenOptions, Owner, StorageError, VolumeGroup};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{AttributeChange, NewNode, OperationError, extents};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use std::ops::Bound;
use std::sync::Arc;

/// Permissions of a directory that the commands make.
const DIRECTORY_MODE: u16 = 0o755;

/// Does one request.
pub async fn handle(group: &Arc<VolumeGroup>, request: FileRequest) -> Result<Value, Failure> {
    let about = subject(&request);
    answer(group, request).await.map_err(|error| match error {
        Trouble::Storage(error) => failure(&about, &error),
        Trouble::Failure(failure) => failure,
    })
}

/// What went wrong in a request.
enum Trouble {
    Storage(StorageError),
    Failure(Failure),
}

impl From<StorageError> for Trouble {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// The path that a request is about, for the text of an error.
fn subject(request: &FileRequest) -> String {
    match request {
        FileRequest::Stat { path, .. }
        | FileRequest::List { path, .. }
        | FileRequest::Create { path, .. }
        | FileRequest::MakeDirectory { path, .. }
        | FileRequest::Symlink { path, .. }
        | FileRequest::Link { path, .. }
        | FileRequest::Unlink { path }
        | FileRequest::RemoveDirectory { path }
        | FileRequest::SetSize { path, .. }
        | FileRequest::Touch { path } => path.clone(),
        FileRequest::Move { from, to, .. } => format!("{from} to {to}"),
        FileRequest::Read { id, .. } | FileRequest::Write { id, .. } | FileRequest::Sync { id } => {
            format!("file {id}")
        }
    }
}

/// One line for a refusal, and the exit code: what the caller asked for wrongly is a failure of usage.
fn failure(about: &str, error: &StorageError) -> Failure {
    match error {
        StorageError::Operation { error, .. } => {
            let exit = match error {
                OperationError::Protected => Exit::Refused,
                OperationError::Busy => Exit::Unavailable,
                OperationError::Invalid => Exit::Usage,
                _ => Exit::Failed,
            };
            Failure::new(exit, format!("{about}: {error}"))
        }
        StorageError::Unavailable => Failure::new(Exit::Unknown, format!("{about}: {error}")),
        StorageError::Device(_) => Failure::unavailable(format!("{about}: {error}")),
        error => Failure::failed(format!("{about}: {error}")),
    }
}

async fn answer(group: &Arc<VolumeGroup>, request: FileRequest) -> Result<Value, Trouble> {
    let done = match request {
        FileRequest::Stat { path, follow } => {
            let stat = if follow {
                group.stat_path(&path).await?
            } else {
                group.stat_link(&path).await?
            };
            serde_json::to_value(info(group, path, stat))
        }
        FileRequest::List { path, after } => serde_json::to_value(list(group, &path, &after).await?),
        FileRequest::Create { path, exclusive } => {
            let options = OpenOptions {
                create: true,
                exclusive,
                ..OpenOptions::default()
            };
            let file = group.open_path(&path, options).await?;
            let stat = file.stat()?;
            file.close().await?;
            serde_json::to_value(info(group, path, stat))
        }
        FileRequest::Read { id, offset, length } => {
            let file = group.open_file(FileId(id)).await?;
            let bytes = file.read_at(offset, length.min(CHUNK) as usize).await?;
            serde_json::to_value(Bytes {
                data: BASE64.encode(&*bytes),
            })
        }
        FileRequest::Write { id, offset, data } => {
            let data = BASE64
                .decode(data)
                .map_err(|_| Trouble::Failure(Failure::usage("the data is not base64")))?;
            let file = group.open_file(FileId(id)).await?;
            file.write_at(offset, &data).await?;
            // The time is set by what comes last, `sync` or `touch`: not by each piece.
            file.report_size().await?;
            Ok(Value::Null)
        }
        FileRequest::Sync { id } => {
            group.open_file(FileId(id)).await?.sync().await?;
            Ok(Value::Null)
        }
        change => {
            change_names(group, change).await?;
            Ok(Value::Null)
        }
    };
    done.map_err(|error| Trouble::Failure(Failure::failed(error)))
}

/// Requests that change names and attributes, and answer nothing.
async fn change_names(group: &Arc<VolumeGroup>, request: FileRequest) -> Result<(), StorageError> {
    match request {
        FileRequest::MakeDirectory { path, parents: true } => group.mkdir(&path).await.map(drop),
        FileRequest::MakeDirectory { path, .. } => {
            make(group, &path, NewNode::Directory, DIRECTORY_MODE).await
        }
        FileRequest::Symlink { target, path } => make(group, &path, NewNode::Symlink { target }, 0o777).await,
        FileRequest::Link { existing, path } => {
            let file = group.stat_link(&existing).await?.id;
            group.link(file, group.entry(&path).await?).await
        }
        FileRequest::Move { from, to, replace } => {
            group
                .move_entry(group.entry(&from).await?, group.entry(&to).await?, replace)
                .await
        }
        FileRequest::Unlink { path } => group.unlink(group.entry(&path).await?).await,
        FileRequest::RemoveDirectory { path } => group.remove_directory(group.entry(&path).await?).await,
        FileRequest::SetSize { path, size } => {
            group
                .open_path(&path, OpenOptions::default())
                .await?
                .set_len(size)
                .await
        }
        FileRequest::Touch { path } => {
            let file = group.stat_path(&path).await?.id;
            let now = group.wall_clock();
            let change = AttributeChange {
                modified: Some(now),
                ..AttributeChange::default()
            };
            group.set_attributes(file, change).await
        }
        other => unreachable!("{other:?} is answered before"),
    }
}

async fn make(group: &VolumeGroup, path: &str, node: NewNode, mode: u16) -> Result<(), StorageError> {
    let owner = Owner {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    group
        .make(group.entry(path).await?, node, owner, true)
        .await
        .map(drop)
}

/// A page: no message grows with the directory.
async fn list(group: &VolumeGroup, path: &str, after: &str) -> Result<Listing, StorageError> {
    let named = page_of(group, path, after).await?;
    let next = named.last().filter(|_| named.len() == PAGE);
    let next = next.map(|(name, _)| name.clone());
    let mut entries = Vec::new();
    for (name, id) in named {
        // What went meanwhile is not listed.
        if let Some(stat) = group.stat_open(id) {
            let mut info = info(group, name, stat);
            // Of a single file it is asked by its path.
            info.extents = Vec::new();
            entries.push(info);
        }
    }
    Ok(Listing { entries, next })
}

/// Names and ids in a directory after a name, as of now; at most [`PAGE`].
async fn page_of(
    group: &VolumeGroup,
    path: &str,
    after: &str,
) -> Result<Vec<(String, FileId)>, StorageError> {
    group.catch_up().await?;
    let page = group.with_catalog(|catalog| {
        let entries = catalog.entries_of(catalog.lookup(path)?)?;
        let later = entries.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        Ok(later
            .take(PAGE)
            .map(|(name, id)| ((**name).to_owned(), *id))
            .collect())
    });
    page.map_err(|error| StorageError::Operation {
        path: path.into(),
        error,
    })
}

fn info(group: &VolumeGroup, name: String, stat: FileStat) -> FileInfo {
    let target = group.with_catalog(|catalog| match &catalog.inode(stat.id)?.node {
        aquifer_dss_proto::catalog::Node::Symlink { target } => Some(target.clone()),
        _ => None,
    });
    FileInfo {
        name,
        kind: match (stat.what, stat.kind) {
            (FileType::Directory, _) => "directory".into(),
            (FileType::Symlink, _) => "link".into(),
            (FileType::File, kind) => format!("{:?}", kind.unwrap_or_default()).to_lowercase(),
        },
        id: stat.id.0,
        size: stat.size,
        allocated: extents::units(&stat.extents) * group.label().au_bytes,
        mode: stat.attributes.mode,
        uid: stat.attributes.uid,
        gid: stat.attributes.gid,
        modified: stat.attributes.modified,
        links: stat.links,
        target,
        extent_count: stat.extents.len() as u64,
        extents: stat
            .extents
            .iter()
            .take(EXTENTS)
            .map(|e| (e.unit, e.volume, e.start, e.count))
            .collect(),
    }
}

/// Base64 of bytes, for requests.
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Bytes of base64, from answers.
pub fn decode(text: &str) -> Result<Vec<u8>, Failure> {
    BASE64
        .decode(text)
        .map_err(|_| Failure::failed("the node answered what is not base64"))
}
