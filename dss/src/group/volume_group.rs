//! An open volume group: its state, its role, and reading the metadata.
//!
//! Lock order: `journal` (async), then `known`, then the small mutexes. No small mutex is held across an await.

use super::barrier::Barrier;
use super::discard::Discards;
use super::error::StorageError;
use super::fill::Kept;
use super::fill_metadata::Filling;
use super::format::{self, GroupIdentity, GroupOptions, NewDevice};
use super::heal::Healer;
use super::in_flight::InFlight;
use super::intents::IntentSet;
use super::journal::Journal;
use super::leader::Leadership;
use super::mend::Mender;
use super::metadata_devices::MetadataDevices;
use super::moves::Mover;
use super::open_files::OpenFiles;
use super::open_metadata::Finding;
use super::open_volumes::OpenVolumes;
use super::request::Requests;
use super::resync::Syncer;
use super::scrub::Scrubber;
use super::sides::Judge;
use super::volumes::{self, Opening};
use crate::seam::{BlockDevice, Runtime, Transport, VolumeOpener};
use aquifer_dss_proto::catalog::{Attributes, Catalog, Extent, FileKind, HistoryEntry, Inode, Node};
use aquifer_dss_proto::label::Label;
use aquifer_dss_proto::{Epoch, FileId, Incarnation, Member, NodeId, NodeSet, PageSize};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use tokio::sync::watch;

/// How a file shall be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// Bytes, which get space at once in a file of the engine.
    pub size: u64,
    /// What it is for.
    pub kind: FileKind,
    /// Refuse when it exists; otherwise the existing file is the answer, as it is.
    pub exclusive: bool,
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A directory.
    Directory,
    /// A file.
    File,
    /// A symbolic link.
    Symlink,
}

/// What is known of a file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its id.
    pub id: FileId,
    /// What it is.
    pub what: FileType,
    /// Its absolute path, by the oldest of its names; empty when it is removed and still open.
    pub path: String,
    /// What it is for; `None` when it is no file.
    pub kind: Option<FileKind>,
    /// Bytes: of a file its length, of a link that of its target.
    pub size: u64,
    /// Its space.
    pub extents: Vec<Extent>,
    /// Owner, permissions, times.
    pub attributes: Attributes,
    /// Names that it has.
    pub links: u32,
}

/// Space of a group in allocation units, and the size of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of a unit.
    pub unit_bytes: u64,
    /// Units of all volumes.
    pub units: u64,
    /// Units that are free.
    pub free: u64,
    /// Units of removed files that wait until every member let go of them; files that are open count.
    pub waiting: u64,
}

/// What this node does with the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Reads it. Requests go to the leader, when one is known.
    Follower { leader: Option<NodeId> },
    /// Writes it in this epoch.
    Leader { epoch: Epoch },
}

/// The catalogue and the last journal entry that it contains.
pub(super) struct Known {
    pub(super) catalog: Catalog,
    pub(super) applied: u64,
}

/// An open volume group. One per node; everything in it is shared by the tasks of the node.
pub struct VolumeGroup {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) me: NodeId,
    pub(super) label: Label,
    /// The devices of volume 0, which have the metadata.
    pub(super) metadata: Arc<MetadataDevices>,
    pub(super) filling: Filling,
    pub(super) volumes: Arc<OpenVolumes>,
    pub(super) opening: Opening,
    pub(super) itself: Weak<Self>,
    pub(super) journal: tokio::sync::Mutex<Journal>,
    pub(super) known: RwLock<Known>,
    pub(super) role: watch::Sender<Role>,
    pub(super) transport: Mutex<Option<Arc<dyn Transport>>>,
    /// View changes, and how many of them the journal was read after: an extent map is not trusted across a view
    /// change (HZ-7).
    pub(super) views_followed: AtomicU64,
    pub(super) views_caught_up: AtomicU64,
    /// The epoch that was followed last: its leader's entry has to be read first.
    pub(super) epoch_followed: AtomicU64,
    pub(super) in_flight: InFlight,
    pub(super) discards: Discards,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) kept: Kept,
    pub(super) barrier: Barrier,
    pub(super) mover: Mover,
    pub(super) intents: IntentSet,
    pub(super) healer: Healer,
    pub(super) syncer: Syncer,
    pub(super) mender: Mender,
    pub(super) scrubber: Scrubber,
    pub(super) judge: OnceLock<Arc<dyn Judge>>,
    pub(super) requests: Requests,
    pub(super) leadership: Leadership,
}

impl VolumeGroup {
    /// Writes a fresh volume group onto a device.
    pub async fn format(
        device: &dyn BlockDevice,
        options: &GroupOptions,
    ) -> Result<GroupIdentity, StorageError> {
        let path = "";
        let devices = [NewDevice {
            device,
            path,
            failure_group: 0,
        }];
        format::format(&devices, options).await
    }

    /// Writes a fresh volume group onto several devices. The first gets the metadata.
    pub async fn format_all(
        devices: &[NewDevice<'_>],
        options: &GroupOptions,
    ) -> Result<GroupIdentity, StorageError> {
        format::format(devices, options).await
    }

    /// As [`open_with`](Self::open_with), with every volume among the devices.
    pub async fn open(
        runtime: Arc<dyn Runtime>,
        devices: Vec<Arc<dyn BlockDevice>>,
        me: NodeId,
    ) -> Result<Arc<Self>, StorageError> {
        Self::open_with(runtime, devices, None, me).await
    }

    /// Opens a group as a follower: labels (damaged copies are repaired), checkpoint, journal to its end. Labels say
    /// which device is which volume; those that are not among `devices` come from `opener`, by their path in the
    /// catalogue.
    pub async fn open_with(
        runtime: Arc<dyn Runtime>,
        devices: Vec<Arc<dyn BlockDevice>>,
        opener: Option<Arc<dyn VolumeOpener>>,
        me: NodeId,
    ) -> Result<Arc<Self>, StorageError> {
        Self::open_without(runtime, devices, opener, me, None).await
    }

    /// As [`open_with`](Self::open_with), when the operator says that a leg of volume 0 is `lost` for good: what the other one has is believed.
    /// When the lost leg was the one with everything, what is missing on the other one is lost with it.
    pub async fn open_without(
        runtime: Arc<dyn Runtime>,
        devices: Vec<Arc<dyn BlockDevice>>,
        opener: Option<Arc<dyn VolumeOpener>>,
        me: NodeId,
        lost: Option<u8>,
    ) -> Result<Arc<Self>, StorageError> {
        let (mut labelled, unreadable) = volumes::read_labels(devices).await?;
        let finding = Finding {
            runtime: &*runtime,
            opener: opener.as_deref(),
            lost,
        };
        let metadata = finding.metadata(&mut labelled).await?;
        let label = labelled[0].0.clone();
        let (journal, catalog) = Journal::load(metadata.clone(), label.clone()).await?;
        if let Some(error) = unreadable {
            if !catalog.is_mirrored() {
                return Err(error);
            }
            tracing::warn!(%error, "a device cannot be read: the group is opened without it");
        }
        let applied = journal.tail.sequence - 1;
        let first = (label.legs == 1).then(|| (label.volume_uuid, labelled[0].1.clone()));
        let session = runtime.random();
        let group = Arc::new_cyclic(|itself| Self {
            me,
            volumes: OpenVolumes::new(first),
            opening: Opening::new(opener),
            itself: itself.clone(),
            label,
            metadata,
            filling: Filling::new(false),
            journal: tokio::sync::Mutex::new(journal),
            known: RwLock::new(Known { catalog, applied }),
            role: watch::Sender::new(Role::Follower { leader: None }),
            transport: Mutex::new(None),
            views_followed: AtomicU64::new(0),
            views_caught_up: AtomicU64::new(0),
            epoch_followed: AtomicU64::new(0),
            in_flight: InFlight::default(),
            discards: Discards::default(),
            open_files: Arc::default(),
            kept: Kept::default(),
            barrier: Barrier::default(),
            mover: Mover::default(),
            intents: IntentSet::default(),
            healer: Healer::default(),
            syncer: Syncer::default(),
            mender: Mender::default(),
            scrubber: Scrubber::default(),
            judge: OnceLock::new(),
            requests: Requests::new(session),
            leadership: Leadership::default(),
            runtime,
        });
        group.catch_up().await?;
        group.adopt(labelled).await?;
        Ok(group)
    }

    /// Nanoseconds since 1970, for times of files.
    pub fn wall_clock(&self) -> u64 {
        self.runtime.wall_clock()
    }

    /// The label of the first volume.
    pub const fn label(&self) -> &Label {
        &self.label
    }

    /// Size of a page of the group's files.
    pub fn page_size(&self) -> PageSize {
        self.label.page_size()
    }

    /// The devices of volume 0 with the slots, ballot blocks and bodies.
    pub fn metadata(&self) -> Arc<MetadataDevices> {
        self.metadata.clone()
    }

    /// The volumes that this node has open, for whoever must flush them.
    pub fn open_volumes_handle(&self) -> Arc<OpenVolumes> {
        self.volumes.clone()
    }

    /// Requests to another leader go through `transport`; give what peers send to [`receive`](Self::receive).
    pub fn attach(&self, transport: Arc<dyn Transport>) {
        *self.transport.lock() = Some(transport);
    }

    /// Another node leads: requests go to it, and the journal is read before the next use of an extent map.
    pub fn follow(&self, epoch: Epoch, leader: NodeId) {
        tracing::debug!(epoch = epoch.0, %leader, "following the storage leader");
        self.epoch_followed.fetch_max(epoch.0, Ordering::AcqRel);
        self.views_followed.fetch_add(1, Ordering::AcqRel);
        let leader = Some(leader).filter(|leader| *leader != self.me);
        self.role.send_replace(Role::Follower { leader });
        self.leadership.wake();
    }

    /// The members of the view. Units of removed files are reused when all of them let go (HZ-7); before this was
    /// called, with a transport attached, they are not reused at all.
    pub fn set_members(&self, members: NodeSet) {
        self.barrier.start_again();
        self.leadership.set_members(members);
    }

    /// As [`set_members`](Self::set_members), with their lives: what a life that is not among them may have been writing on
    /// two legs is compared before anybody reads it (HZ-21). A mirrored group of several nodes needs it, before
    /// [`lead`](Self::lead).
    pub fn set_lives(&self, members: &[Member]) {
        self.leadership.set_lives(members);
        self.set_members(members.iter().map(|member| member.node).collect());
    }

    /// This life, as its write intents name it. Before anybody named it, it is drawn at random.
    pub(super) fn writer(&self) -> Member {
        self.leadership.life_of(self.me).unwrap_or(Member {
            node: self.me,
            incarnation: Incarnation(self.requests.session()),
        })
    }

    /// The epoch in which this node writes the journal.
    pub fn leading(&self) -> Option<Epoch> {
        match *self.role.borrow() {
            Role::Leader { epoch } => Some(epoch),
            Role::Follower { .. } => None,
        }
    }

    /// Follower: reads the journal to its end. The leader knows everything already.
    pub async fn catch_up(&self) -> Result<(), StorageError> {
        if self.leading().is_some() {
            return Ok(()); // Not behind an append that is under way.
        }
        let mut journal = self.journal.lock().await;
        if self.leading().is_none() {
            self.read_forward(&mut journal).await?;
        }
        Ok(())
    }

    /// Applies what the journal has past the tail. What was read is flushed before it is applied: a write of
    /// somebody who died may be visible and not yet durable (HZ-10).
    pub(super) async fn read_forward(&self, journal: &mut Journal) -> Result<(), StorageError> {
        loop {
            let (mut tail, mut entries) = (journal.tail, Vec::new());
            while let Some(entry) = journal.read_after(&tail).await? {
                tail = entry.after;
                entries.push(entry);
            }
            if entries.is_empty() {
                let Some(catalog) = journal.overtaken().await? else {
                    return Ok(());
                };
                let mut known = self.known.write();
                *known = Known {
                    catalog,
                    applied: journal.tail.sequence - 1,
                };
                self.forget_replaced(&known.catalog);
                drop(known);
                self.volumes_changed();
                continue;
            }
            journal.flush().await?;
            let mut known = self.known.write();
            for entry in &entries {
                for record in &entry.records {
                    // Who asked was answered by the leader of then.
                    let _outcome = known.catalog.apply(entry.sequence, record);
                }
                known.applied = entry.sequence;
            }
            journal.tail = tail;
            self.forget_replaced(&known.catalog);
            drop(known);
            self.volumes_changed();
        }
    }

    /// Reads the journal until entry `sequence` is applied.
    pub(super) async fn catch_up_to(&self, sequence: u64) -> Result<(), StorageError> {
        for _ in 0..100 {
            if self.known.read().applied >= sequence {
                return Ok(());
            }
            self.catch_up().await?;
            if self.known.read().applied < sequence {
                self.runtime.sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        Err(StorageError::Damaged(format!(
            "journal entry {sequence} was acknowledged and is not there"
        )))
    }

    /// Looks at the catalogue as this node knows it, without reading the journal.
    pub fn with_catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.known.read().catalog)
    }

    /// The file or directory at a path, as of now.
    pub async fn lookup(&self, path: &str) -> Result<Option<FileId>, StorageError> {
        self.catch_up().await?;
        Ok(self.with_catalog(|catalog| catalog.lookup(path).ok()))
    }

    /// Names and ids in a directory, as of now.
    pub async fn list(&self, path: &str) -> Result<Vec<(String, FileId)>, StorageError> {
        self.catch_up().await?;
        let listed = self.with_catalog(|catalog| catalog.list(path));
        listed.map_err(|error| StorageError::Operation {
            path: path.into(),
            error,
        })
    }

    /// What is known of a file or directory, as of now.
    pub async fn stat(&self, file: FileId) -> Result<FileStat, StorageError> {
        self.catch_up().await?;
        self.with_catalog(|catalog| stat(catalog, file))
            .ok_or(StorageError::NoSuchFile(file))
    }

    /// What is known of the file or directory at a path, as of now.
    pub async fn stat_path(&self, path: &str) -> Result<FileStat, StorageError> {
        self.catch_up().await?;
        let found = self.with_catalog(|catalog| {
            catalog
                .lookup(path)
                .map(|file| stat(catalog, file).expect("a name leads to an inode"))
        });
        found.map_err(|error| StorageError::Operation {
            path: path.into(),
            error,
        })
    }

    /// A small cluster-wide value, as of now.
    pub async fn config(&self, key: &str) -> Result<Option<String>, StorageError> {
        self.catch_up().await?;
        Ok(self.with_catalog(|catalog| catalog.config(key).map(String::from)))
    }

    /// The last storage leaders, oldest first, as far as this node knows.
    pub fn history(&self) -> Vec<HistoryEntry> {
        self.with_catalog(|catalog| catalog.history().to_vec())
    }

    /// Space of the group, as far as this node knows.
    pub fn space(&self) -> Space {
        self.with_catalog(|catalog| Space {
            unit_bytes: catalog.au_bytes(),
            units: total_units(catalog),
            free: catalog.free_units(),
            waiting: catalog.waiting_units(),
        })
    }
}

/// Allocation units of all volumes.
pub(super) fn total_units(catalog: &Catalog) -> u64 {
    catalog.volume_units().iter().map(|units| u64::from(*units)).sum()
}

/// What the catalogue knows of an inode that has a name.
fn stat(catalog: &Catalog, file: FileId) -> Option<FileStat> {
    catalog.inode(file).map(|inode| stat_inode(catalog, file, inode))
}

/// What the catalogue knows of an inode, which may be a removed file that is open.
pub(super) fn stat_inode(catalog: &Catalog, file: FileId, inode: &Inode) -> FileStat {
    let (what, kind, size, extents) = match &inode.node {
        Node::Directory { .. } => (FileType::Directory, None, 0, Vec::new()),
        Node::File { kind, size, extents } => (FileType::File, Some(*kind), *size, extents.clone()),
        Node::Symlink { target } => (FileType::Symlink, None, target.len() as u64, Vec::new()),
    };
    FileStat {
        id: file,
        what,
        path: catalog.path(file).unwrap_or_default(),
        kind,
        size,
        extents,
        attributes: inode.attributes,
        links: u32::try_from(inode.names.len()).unwrap_or(u32::MAX),
    }
}
