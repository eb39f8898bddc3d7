//! Where a command about volumes does its work: at the nodes that run, or as a node while nobody does.

use super::{GroupReport, VolumeReport, watch};
use crate::admin::Locator;
use crate::device::OfflineGroup;
use crate::failure::Failure;
use crate::reach::{Alone, GroupOptions, Reach};

/// Who does the work.
pub(super) enum Place {
    /// The nodes that run.
    Nodes(Locator),
    /// This process, as the only node.
    Alone(Alone),
}

impl Place {
    /// Looks who is there; nothing is changed by that.
    pub(super) async fn look(options: &GroupOptions) -> Result<Self, Failure> {
        Ok(match options.reach().await? {
            Reach::Node(_) => Self::Nodes(options.locator.clone()),
            Reach::Nobody(alone) => Self::Alone(alone),
        })
    }

    /// The steps of a plan, after what this process has to be for them.
    pub(super) fn plan<const N: usize>(&self, steps: [String; N]) -> Vec<String> {
        let becomes = match self {
            Self::Nodes(_) => None,
            Self::Alone(alone) => Some(format!(
                "no node runs: this command is node {} until it is done",
                alone.id
            )),
        };
        becomes.into_iter().chain(steps).collect()
    }

    /// The group as its storage leader sees it, or as the devices say when there is none.
    async fn report(&self) -> Result<GroupReport, Failure> {
        match self {
            Self::Nodes(locator) => watch::report(locator).await,
            Self::Alone(alone) => Ok(OfflineGroup::open(&alone.device).await?.report()),
        }
    }

    /// The group, and one of its volumes.
    pub(super) async fn find(&self, volume: u16) -> Result<(GroupReport, VolumeReport), Failure> {
        let report = self.report().await?;
        let found = watch::volume_of(&report, volume)?;
        Ok((report, found))
    }

    /// Does work where nodes answer at the locator that it is given.
    pub(super) async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&Locator) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self {
            Self::Nodes(locator) => work(locator).await,
            Self::Alone(alone) => alone.as_node(work).await,
        }
    }
}
