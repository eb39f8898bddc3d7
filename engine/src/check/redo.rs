//! Redo streams: both copies of the header, every group from the horizon on, every record in it.

use super::{FileOf, ImageFile, files_of};
use crate::wal::{StreamReader, WalError};
use aquifer_dss::check::{Pass, READ_AGAIN, Report};
use aquifer_dss::group::GroupImage;
use aquifer_dss::seam::BoxFuture;
use aquifer_dss_proto::catalog::FileKind;
use aquifer_engine_proto::page::decode_operation;
use std::sync::Arc;

const ADVICE: &str = "changes that were not written back are lost with it: restore the device from a backup, or copy out what is there \
     with `aquifer fs cp` and SQL";

/// Every redo stream.
pub(super) struct Redo;

/// What a stream has.
struct Stream {
    groups: u64,
    records: u64,
    horizon: u64,
    end: u64,
}

impl Pass for Redo {
    fn run<'a>(&'a self, image: &'a Arc<GroupImage>, report: &'a mut Report) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for file in files_of(image, &[FileKind::Redo]) {
                check_stream(image, &file, report).await;
            }
        })
    }
}

async fn check_stream(image: &Arc<GroupImage>, file: &FileOf, report: &mut Report) {
    let what = format!("redo stream {}", file.path);
    let mut found = read(image, file).await;
    for _ in 1..READ_AGAIN {
        // A node that runs writes over what lies before a later horizon: then the groups end early.
        if found.is_ok() {
            break;
        }
        found = read(image, file).await;
    }
    match found {
        Ok(stream) => report.sound(
            what,
            format!(
                "{} groups, {} records from {} to {}",
                stream.groups, stream.records, stream.horizon, stream.end
            ),
        ),
        Err(trouble) => report.wrong(what, trouble, ADVICE),
    }
}

async fn read(image: &Arc<GroupImage>, file: &FileOf) -> Result<Stream, String> {
    let node = file.node().ok_or("its name is not the number of a node")?;
    let text = |error: WalError| error.to_string();
    let content = ImageFile::new(image.clone(), file.id, file.size);
    let mut reader = StreamReader::open(&content, node).await.map_err(text)?;
    let (mut groups, mut records) = (0, 0);
    while let Some(group) = reader.next().await.map_err(text)? {
        groups += 1;
        records += group.records.len() as u64;
        for record in &group.records {
            decode_operation(&record.operation).map_err(|error| {
                let (at, page) = (group.stamp.lsn.0, record.page);
                format!(
                    "the group at {at} has a record of page {}:{} that cannot be read: {error}",
                    page.file.0, page.number
                )
            })?;
        }
    }
    Ok(Stream {
        groups,
        records,
        horizon: reader.header().horizon.0,
        end: reader.end().0,
    })
}
