//! `aquifer fs`: the files of a volume group, through a node or, while no node runs, as a member for the length of the
//! command.
//!
//! A path may be written `vg:/path`; the name before the colon is only for the reader, the node or the device says which
//! group it is.

mod copy;
mod protocol;
mod service;
mod session;
#[cfg(test)]
mod tests;
mod walk;

#[cfg(test)]
pub use protocol::{Bytes, Listing};
pub use protocol::{FileInfo, FileRequest};
#[cfg(test)]
pub use service::decode;
pub use service::handle;

use crate::failure::{Exit, Failure, Outcome};
use crate::output::{OutputOptions, note, print_bytes, print_line, table};
use crate::reach::GroupOptions;
use crate::units::{parse_size, show_size};
use copy::{Copied, Place};
use protocol::CHUNK;
use serde_json::json;
use session::Session;

/// `fs ...`.
#[derive(Debug, clap::Subcommand)]
pub enum FileCommand {
    /// List a directory
    Ls(PathOptions),
    /// Size, owner, times and extents of a file
    Stat(PathOptions),
    /// Content of a file on stdout
    Cat(ReadOptions),
    /// Copy a file in, out, or inside; checked by CRC32C
    Cp(CopyOptions),
    /// Make a directory
    Mkdir(DirectoryOptions),
    /// Make an empty file, or set its time of modification to now
    Touch(ChangeOptions),
    /// Move a file or directory; what is there is replaced
    Mv(MoveOptions),
    /// Remove a file or link; programs that have it open go on with it
    Rm(RemoveOptions),
    /// Remove an empty directory
    Rmdir(ChangeOptions),
    /// Cut a file, or make it longer by a hole
    Truncate(TruncateOptions),
    /// One more name for a file, or with -s a symbolic link
    Ln(LinkOptions),
    /// What a symbolic link stands for
    Readlink(PathOptions),
    /// Bytes that files have
    Du(PathOptions),
    /// Paths below a directory
    Find(FindOptions),
    /// Mount a volume group, so that any program can use it
    Mount(Box<crate::mount::MountOptions>),
}

/// A path that is looked at.
#[derive(Clone, Debug, clap::Args)]
pub struct PathOptions {
    /// Path in the volume group.
    #[arg(default_value = "/")]
    path: String,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// A path whose content is read.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadOptions {
    /// Path in the volume group.
    path: String,
    #[command(flatten)]
    group: GroupOptions,
}

/// A path that is changed.
#[derive(Clone, Debug, clap::Args)]
pub struct ChangeOptions {
    /// Path in the volume group.
    path: String,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs mkdir`.
#[derive(Clone, Debug, clap::Args)]
pub struct DirectoryOptions {
    /// Path in the volume group.
    path: String,
    /// Those above it too, and fine when it exists.
    #[arg(short, long)]
    parents: bool,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs rm`.
#[derive(Clone, Debug, clap::Args)]
pub struct RemoveOptions {
    /// Path in the volume group.
    path: String,
    /// A directory with everything below it.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs cp`.
#[derive(Clone, Debug, clap::Args)]
pub struct CopyOptions {
    /// Source: `NAME:/path` in the volume group, otherwise a path of this machine.
    from: String,
    /// Target, which must not exist.
    to: String,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    output: OutputOptions,
}

/// Options of `fs mv`.
#[derive(Clone, Debug, clap::Args)]
pub struct MoveOptions {
    /// From this path in the volume group.
    from: String,
    /// To this one.
    to: String,
    /// Refuse when something is there.
    #[arg(short, long)]
    no_clobber: bool,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs truncate`.
#[derive(Clone, Debug, clap::Args)]
pub struct TruncateOptions {
    /// Path in the volume group.
    path: String,
    /// Size, such as 0, 512K or 4G.
    #[arg(short, long, value_parser = parse_size)]
    size: u64,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs ln`.
#[derive(Clone, Debug, clap::Args)]
pub struct LinkOptions {
    /// What the new name leads to.
    target: String,
    /// The new name in the volume group.
    path: String,
    /// A symbolic link.
    #[arg(short, long)]
    symbolic: bool,
    #[command(flatten)]
    group: GroupOptions,
}

/// Options of `fs find`.
#[derive(Clone, Debug, clap::Args)]
pub struct FindOptions {
    /// Where to begin.
    #[arg(default_value = "/")]
    path: String,
    /// Only names like this; `*` is any text, `?` any character.
    #[arg(long)]
    name: Option<String>,
    /// Only f(iles), d(irectories) or l(inks).
    #[arg(long = "type", value_parser = ["f", "d", "l"])]
    kind: Option<String>,
    #[command(flatten)]
    group: GroupOptions,
    #[command(flatten)]
    output: OutputOptions,
}

impl FileCommand {
    /// Runs it.
    pub async fn run(self) -> Outcome {
        if let Self::Mount(options) = self {
            return crate::mount::run(*options).await;
        }
        let mut session = Session::open(self.group()).await?;
        let done = self.work(&mut session).await;
        // A member leaves also when the work failed.
        let left = session.close().await;
        let exit = done?;
        left.map(|()| exit)
    }

    fn group(&self) -> &GroupOptions {
        match self {
            Self::Ls(options) | Self::Stat(options) | Self::Readlink(options) | Self::Du(options) => {
                &options.group
            }
            Self::Cat(options) => &options.group,
            Self::Touch(options) | Self::Rmdir(options) => &options.group,
            Self::Cp(options) => &options.group,
            Self::Mkdir(options) => &options.group,
            Self::Mv(options) => &options.group,
            Self::Rm(options) => &options.group,
            Self::Truncate(options) => &options.group,
            Self::Ln(options) => &options.group,
            Self::Find(options) => &options.group,
            Self::Mount(_) => unreachable!("a mount is a member by itself"),
        }
    }

    async fn work(self, session: &mut Session) -> Outcome {
        let call = |request| request;
        let request = match self {
            Self::Ls(options) => return ls(session, options).await,
            Self::Stat(options) => return stat(session, options).await,
            Self::Cat(options) => return cat(session, inner(&options.path)).await,
            Self::Cp(options) => return cp(session, options).await,
            Self::Readlink(options) => return readlink(session, options).await,
            Self::Du(options) => return walk::du(session, inner(&options.path), options.output).await,
            Self::Find(options) => return walk::find(session, &options).await,
            Self::Rm(options) if options.recursive => {
                walk::remove(session, inner(&options.path)).await?;
                return Ok(Exit::Done);
            }
            Self::Touch(options) => return touch(session, own(&options.path)).await,
            Self::Mkdir(options) => call(FileRequest::MakeDirectory {
                path: own(&options.path),
                parents: options.parents,
            }),
            Self::Mv(options) => FileRequest::Move {
                from: own(&options.from),
                to: own(&options.to),
                replace: !options.no_clobber,
            },
            Self::Rm(options) => FileRequest::Unlink {
                path: own(&options.path),
            },
            Self::Rmdir(options) => FileRequest::RemoveDirectory {
                path: own(&options.path),
            },
            Self::Truncate(options) => FileRequest::SetSize {
                path: own(&options.path),
                size: options.size,
            },
            Self::Ln(options) if options.symbolic => FileRequest::Symlink {
                target: options.target,
                path: own(&options.path),
            },
            Self::Ln(options) => FileRequest::Link {
                existing: own(&options.target),
                path: own(&options.path),
            },
            Self::Mount(_) => unreachable!("a mount is a member by itself"),
        };
        session.call(request).await?;
        Ok(Exit::Done)
    }
}

/// The path without the name of its group.
fn inner(path: &str) -> &str {
    match path.split_once(':') {
        Some((group, path)) if !group.contains('/') => path,
        _ => path,
    }
}

fn own(path: &str) -> String {
    inner(path).to_owned()
}

async fn ls(session: &mut Session, options: PathOptions) -> Outcome {
    let path = inner(&options.path);
    let info = session.stat(path, true).await?;
    let entries = if info.is_directory() {
        session.list(path).await?
    } else {
        vec![info]
    };
    options.output.emit(json!({ "entries": entries }), || {
        table(
            &["mode", "links", "owner", "size", "modified", "kind", "name"],
            entries.iter().map(row).collect(),
        )
    })?;
    Ok(Exit::Done)
}

fn row(entry: &FileInfo) -> Vec<String> {
    let name = match &entry.target {
        Some(target) => format!("{} -> {target}", entry.name),
        None => entry.name.clone(),
    };
    vec![
        format!("{:04o}", entry.mode),
        entry.links.to_string(),
        format!("{}:{}", entry.uid, entry.gid),
        show_size(entry.size),
        walk::show_time(entry.modified),
        entry.kind.clone(),
        name,
    ]
}

async fn stat(session: &mut Session, options: PathOptions) -> Outcome {
    let entry = session.stat(inner(&options.path), false).await?;
    options.output.emit(json!(entry), || {
        let line = |name: &str, value: String| vec![name.to_owned(), value];
        let bytes = |bytes: u64| format!("{} ({bytes} bytes)", show_size(bytes));
        let mut lines = vec![
            line("name", entry.name.clone()),
            line("kind", entry.kind.clone()),
            line("id", entry.id.to_string()),
            line("size", bytes(entry.size)),
            line("allocated", bytes(entry.allocated)),
            line("mode", format!("{:04o}", entry.mode)),
            line("owner", format!("{}:{}", entry.uid, entry.gid)),
            line("links", entry.links.to_string()),
            line("modified", walk::show_time(entry.modified)),
        ];
        lines.extend(entry.target.iter().map(|target| line("target", target.clone())));
        lines.extend(entry.extents.iter().map(|(unit, volume, start, count)| {
            line(
                "extent",
                format!(
                    "from unit {unit}: volume {volume}, units {start} to {}",
                    start + count - 1
                ),
            )
        }));
        let shown = entry.extents.len() as u64;
        if entry.extent_count > shown {
            lines.push(line(
                "extents",
                format!("and {} more", entry.extent_count - shown),
            ));
        }
        table(&["", ""], lines)
    })?;
    Ok(Exit::Done)
}

async fn cat(session: &mut Session, path: &str) -> Outcome {
    let info = session.stat(path, true).await?;
    if info.is_directory() {
        return Err(Failure::usage(format!("{path} is a directory")));
    }
    let mut offset = 0;
    while offset < info.size {
        let bytes = session.read(info.id, offset, CHUNK).await?;
        if bytes.is_empty() {
            break;
        }
        print_bytes(&bytes)?;
        offset += bytes.len() as u64;
    }
    Ok(Exit::Done)
}

async fn cp(session: &mut Session, options: CopyOptions) -> Outcome {
    let to = Place::parse(&options.to, false);
    // Without any name the source is in the group, as `fs cp /redo/1 file` always was.
    let from = Place::parse(&options.from, matches!(to, Place::Outside(_)));
    let copied: Copied = match (&from, &to) {
        (Place::Outside(from), Place::Inside(to)) => copy::copy_in(session, from, to).await?,
        (Place::Inside(from), Place::Outside(to)) => copy::copy_out(session, from, to).await?,
        (Place::Inside(from), Place::Inside(to)) => copy::copy_within(session, from, to).await?,
        (Place::Outside(_), Place::Outside(_)) => {
            return Err(Failure::usage(
                "neither path is in a volume group: write NAME:/path",
            ));
        }
    };
    if options.output.json() {
        options.output.emit(json!(copied), String::new)?;
    } else {
        let rate = copied.bytes as f64 / copied.seconds.max(1e-9);
        note(format!(
            "copied {} in {:.2} s ({}/s), CRC32C {} read back and right",
            show_size(copied.bytes),
            copied.seconds,
            show_size(rate as u64),
            copied.crc32c
        ));
    }
    Ok(Exit::Done)
}

async fn readlink(session: &mut Session, options: PathOptions) -> Outcome {
    let info = session.stat(inner(&options.path), false).await?;
    let Some(target) = info.target else {
        return Err(Failure::failed(format!("{} is no link", options.path)));
    };
    options
        .output
        .emit(json!({ "target": target }), || target.clone())?;
    Ok(Exit::Done)
}

async fn touch(session: &mut Session, path: String) -> Outcome {
    session.create(&path, false).await?;
    session.call(FileRequest::Touch { path }).await?;
    Ok(Exit::Done)
}

/// Paths, one a line.
fn print_paths(paths: &[String]) -> Result<(), Failure> {
    paths.iter().try_for_each(|path| print_line(path))
}
