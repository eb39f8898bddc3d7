//! Names of nodes, files and epochs. Every id is a newtype; zero is never a valid node or file.

use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, de::Error};

/// A node of the cluster: 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct NodeId(u8);

/// What names no node is not decoded: a `NodeId` is in range wherever it came from.
impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(u8::deserialize(from)?).ok_or_else(|| D::Error::custom("node ids are 1 to 64"))
    }
}

impl NodeId {
    /// The highest node id.
    pub const MAX: u8 = 64;

    /// A node id, or `None` when `id` is not in 1 to 64.
    pub const fn new(id: u8) -> Option<Self> {
        if id >= 1 && id <= Self::MAX {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The number, 1 to 64.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Position in arrays of 64: 0 to 63.
    pub const fn index(self) -> usize {
        self.0 as usize - 1
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One life of a node: it grows by at least one at each start, and is durable on the device before the node acts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Number of a view. Epoch 0 is "no view yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that follows this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A file of the volume group. Never reused, also not after the file is removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FileId(pub u64);

/// A set of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NodeSet(u64);

impl NodeSet {
    /// The set without a member.
    pub const EMPTY: Self = Self(0);

    /// The set of one node.
    pub const fn of(node: NodeId) -> Self {
        Self(1 << node.index())
    }

    /// Adds `node`; true when it was not there.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 |= 1 << node.index();
        before != self.0
    }

    /// Takes `node` out; true when it was there.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let before = self.0;
        self.0 &= !(1 << node.index());
        before != self.0
    }

    /// Whether `node` is in the set.
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.index()) != 0
    }

    /// Whether nobody is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many nodes are in the set.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The nodes of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The nodes of both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The nodes of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The lowest node.
    pub fn first(self) -> Option<NodeId> {
        self.iter().next()
    }

    /// The nodes in rising order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (1..=NodeId::MAX)
            .filter_map(NodeId::new)
            .filter(move |n| self.contains(*n))
    }

    /// As bits: bit 0 is node 1.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// From bits: bit 0 is node 1.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(NodeId::get)).finish()
    }
}
