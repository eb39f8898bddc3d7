//! Names, attributes and links of files, as programs ask for them: directory and name, or id.

use super::error::StorageError;
use super::volume_group::{FileStat, VolumeGroup, stat_inode};
use aquifer_dss_proto::FileId;
use aquifer_dss_proto::catalog::{
    AttributeChange, Entry, FileOperation, NewNode, Node, Operation, OperationError, Reply,
};

/// Owner and permissions of what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The twelve permission bits of POSIX.
    pub mode: u16,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl VolumeGroup {
    /// Has a file operation done; `about` is for the text of an error.
    pub(super) async fn submit_file(
        &self,
        about: &str,
        operation: FileOperation,
    ) -> Result<Reply, StorageError> {
        self.submit(about, Operation::Files(operation)).await
    }

    /// The directory and name that an absolute path ends in, as of now; links on the way are followed.
    pub async fn entry(&self, path: &str) -> Result<Entry, StorageError> {
        self.catch_up().await?;
        self.with_catalog(|catalog| catalog.locate(path))
            .map_err(|error| refused(path, error))
    }

    /// Makes a file, directory or link. Not `exclusive`: a file that exists is the answer.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` and `NotADirectory` of the directory, `Invalid` names, `NoMetadataSpace`.
    pub async fn make(
        &self,
        entry: Entry,
        node: NewNode,
        owner: Owner,
        exclusive: bool,
    ) -> Result<FileId, StorageError> {
        let about = entry.name.clone();
        let Owner { mode, uid, gid } = owner;
        let made = self.submit_file(
            &about,
            FileOperation::Make {
                entry,
                node,
                mode,
                uid,
                gid,
                exclusive,
            },
        );
        self.file_of(&about, made.await?)
    }

    /// Gives a file one more name, which must be free.
    pub async fn link(&self, file: FileId, entry: Entry) -> Result<(), StorageError> {
        let about = entry.name.clone();
        self.submit_file(&about, FileOperation::Link { file, entry })
            .await
            .map(drop)
    }

    /// Takes a name of a file or link away. Who has the file open goes on with it.
    pub async fn unlink(&self, entry: Entry) -> Result<(), StorageError> {
        let about = entry.name.clone();
        self.submit_file(&about, FileOperation::Unlink { entry })
            .await
            .map(drop)
    }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, entry: Entry) -> Result<(), StorageError> {
        let about = entry.name.clone();
        self.submit_file(&about, FileOperation::RemoveDirectory { entry })
            .await
            .map(drop)
    }

    /// Moves a name, as rename(2); `replace` lets a file or an empty directory that is there go in the same step.
    pub async fn move_entry(&self, from: Entry, to: Entry, replace: bool) -> Result<(), StorageError> {
        let about = from.name.clone();
        self.submit_file(&about, FileOperation::Move { from, to, replace })
            .await
            .map(drop)
    }

    /// Changes owner, permissions or the time of modification.
    pub async fn set_attributes(&self, file: FileId, change: AttributeChange) -> Result<(), StorageError> {
        self.submit_file("", FileOperation::SetAttributes { file, change })
            .await
            .map(drop)
    }

    /// What a symbolic link stands for, as it was given.
    pub async fn read_link(&self, file: FileId) -> Result<String, StorageError> {
        self.catch_up().await?;
        self.with_catalog(|catalog| match catalog.inode(file).map(|inode| &inode.node) {
            Some(Node::Symlink { target }) => Ok(target.clone()),
            Some(_) => Err(refused("", OperationError::Invalid)),
            None => Err(StorageError::NoSuchFile(file)),
        })
    }

    /// What is at a path itself, also when that is a link, as of now.
    pub async fn stat_link(&self, path: &str) -> Result<FileStat, StorageError> {
        self.catch_up().await?;
        let found = self.with_catalog(|catalog| {
            catalog
                .lookup_link(path)
                .map(|file| self.stat_open(file).expect("a name leads to an inode"))
        });
        found.map_err(|error| refused(path, error))
    }

    /// What this node knows of an inode, a removed file that is open included, with what was written here and is not in
    /// the catalogue yet.
    pub fn stat_open(&self, file: FileId) -> Option<FileStat> {
        let mut stat = self.with_catalog(|catalog| {
            let inode = catalog.open_inode(file)?;
            Some(stat_inode(catalog, file, inode))
        })?;
        if let Some(open) = self.open_files.get(file) {
            let progress = *open.progress.lock();
            stat.size = stat.size.max(progress.end);
            let attributes = &mut stat.attributes;
            attributes.modified = attributes.modified.max(progress.modified);
            attributes.changed = attributes.changed.max(progress.modified);
        }
        Some(stat)
    }
}

/// The catalogue's refusal as an error.
pub(super) fn refused(path: &str, error: OperationError) -> StorageError {
    StorageError::Operation {
        path: path.into(),
        error,
    }
}
