use std::collections::BTreeMap;

use futures::future::join_all;
use kafka_protocol::messages::ListGroupsRequest;

use crate::{BrokerError, Client, Error, api::Api};

/// Which protocol the members of a group speak.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupKind {
    /// The classic rebalance protocol.
    Classic,
    /// The consumer rebalance protocol of KIP-848.
    Consumer,
    /// Share groups, streams groups and whatever comes after them; Kafka's name for it.
    Other(String),
}

/// What a group is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupState {
    /// No members.
    Empty,
    /// All members own what they shall own.
    Stable,
    /// Classic: waiting for members to join.
    PreparingRebalance,
    /// Classic: waiting for the assignment.
    CompletingRebalance,
    /// KIP-848: a new assignment is computed.
    Assigning,
    /// KIP-848: members are moving to the new assignment.
    Reconciling,
    /// Being removed.
    Dead,
    /// A state of a newer Kafka.
    Other(String),
}

/// A group in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Protocol; `None` from brokers before Kafka 3.8, which do not say.
    pub kind: Option<GroupKind>,
    /// Use of the group, `consumer` for consumers, empty for a group that only has offsets.
    pub protocol_type: String,
    /// State.
    pub state: GroupState,
}

/// All groups of a cluster, as far as its brokers could be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupListing {
    /// The groups by id.
    pub groups: BTreeMap<String, ListedGroup>,
    /// Brokers that did not answer. While there are any, a group that is missing above may still exist.
    pub unread: Vec<Error>,
}

impl GroupKind {
    fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "" => None,
            "classic" => Some(Self::Classic),
            "consumer" => Some(Self::Consumer),
            _ => Some(Self::Other(name.to_owned())),
        }
    }
}

impl GroupState {
    pub(super) fn parse(name: &str) -> Self {
        match name {
            "Empty" => Self::Empty,
            "Stable" => Self::Stable,
            "PreparingRebalance" => Self::PreparingRebalance,
            "CompletingRebalance" => Self::CompletingRebalance,
            "Assigning" => Self::Assigning,
            "Reconciling" => Self::Reconciling,
            "Dead" => Self::Dead,
            other => Self::Other(other.to_owned()),
        }
    }

    /// Whether the group certainly has no members.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty | Self::Dead)
    }
}

impl Client {
    /// Lists the groups of the cluster. One Metadata request and one `ListGroups` per broker.
    ///
    /// # Errors
    /// The brokers are not known. A broker that is known but did not answer is in [`GroupListing::unread`].
    pub async fn list_groups(&self) -> Result<GroupListing, Error> {
        let brokers = self.describe_cluster().await?.brokers;
        let asked = brokers.keys().map(async |id| (*id, self.at_node(*id, &ListGroupsRequest::default()).await));
        let mut listing = GroupListing::default();
        for (broker, answer) in join_all(asked).await {
            let groups = answer.and_then(|response| match BrokerError::from_code(response.error_code, None) {
                Some(error) => Err(Error::new(ListGroupsRequest::NAME, format!("broker {broker}"), error.into())),
                None => Ok(response.groups),
            });
            match groups {
                Ok(groups) => listing.groups.extend(groups.into_iter().map(|group| {
                    let listed = ListedGroup {
                        kind: GroupKind::parse(&group.group_type),
                        protocol_type: group.protocol_type.to_string(),
                        state: GroupState::parse(&group.group_state),
                    };
                    (group.group_id.to_string(), listed)
                })),
                Err(error) => listing.unread.push(error),
            }
        }
        if listing.unread.is_empty() {
            self.view().coordinators.retain(|group, _| listing.groups.contains_key(group));
        }
        Ok(listing)
    }
}
