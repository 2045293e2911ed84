use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    messages::{
        ConsumerGroupDescribeRequest, DescribeGroupsRequest, GroupId, consumer_group_describe_response,
        describe_groups_response::{DescribedGroup, DescribedGroupMember},
    },
    protocol::StrBytes,
};

use super::{GroupError, GroupKind, GroupState, membership};
use crate::{Client, ErrorKind, Partitions};

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Protocol of its members.
    pub kind: GroupKind,
    /// State.
    pub state: GroupState,
    /// Use of the group, `consumer` for consumers.
    pub protocol_type: String,
    /// Assignor in use; empty while there is none.
    pub assignor: String,
    /// Its members, in no order.
    pub members: Vec<Member>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Id given by the coordinator.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// `client.id` of the client.
    pub client_id: String,
    /// Address of the client as the broker saw it.
    pub host: String,
    /// Topics that it subscribed to; `None` if not known: the group is rebalancing, the subscription is a pattern, or the
    /// client wrote something unreadable.
    pub subscribed: Option<BTreeSet<String>>,
    /// Partitions that it was given; `None` if not known: the group is rebalancing, or the assignment is unreadable.
    pub assigned: Option<Partitions>,
}

impl Client {
    /// Describes groups, classic ones and those of KIP-848; each group asked for is in the map.
    ///
    /// One `DescribeGroups` request per coordinator and 1,000 groups, then one `ConsumerGroupDescribe` for those that are not
    /// classic (if the brokers have that request: Kafka 3.7 or newer).
    pub async fn describe_groups(
        &self,
        groups: impl IntoIterator<Item = impl Into<String>>,
    ) -> BTreeMap<String, Result<Group, GroupError>> {
        let request = |groups: &[String]| DescribeGroupsRequest::default().with_groups(ids(groups));
        let mut described = self
            .ask_coordinators(
                groups.into_iter().map(Into::into),
                |_| None,
                request,
                |response| {
                    response.groups.into_iter().map(|group| (group.group_id.to_string(), classic(group))).collect()
                },
            )
            .await;
        // Coordinators call a group of the other protocol unknown.
        let others: Vec<String> = described
            .iter()
            .filter(|(_, group)| matches!(group, Err(GroupError::Absent)))
            .map(|(id, _)| id.clone())
            .collect();
        let request = |groups: &[String]| ConsumerGroupDescribeRequest::default().with_group_ids(ids(groups));
        let modern = self.ask_coordinators(
            others,
            |_| None,
            request,
            |response| response.groups.into_iter().map(|group| (group.group_id.to_string(), consumer(group))).collect(),
        );
        for (id, group) in modern.await {
            // Brokers that do not know the request have no such groups.
            let unsupported =
                matches!(&group, Err(GroupError::Request(e)) if matches!(e.kind, ErrorKind::UnsupportedApi { .. }));
            if !unsupported {
                described.insert(id, group);
            }
        }
        described
    }
}

fn ids(groups: &[String]) -> Vec<GroupId> {
    groups.iter().map(|id| GroupId(StrBytes::from_string(id.clone()))).collect()
}

fn classic(group: DescribedGroup) -> Result<Group, GroupError> {
    GroupError::check(group.error_code, group.error_message.as_deref())?;
    let state = GroupState::parse(&group.group_state);
    if state == GroupState::Dead {
        // Before version 6 this is how a coordinator says that it has no such group.
        return Err(GroupError::Absent);
    }
    let readable = state == GroupState::Stable && group.protocol_type.as_str() == "consumer";
    Ok(Group {
        kind: GroupKind::Classic,
        state,
        protocol_type: group.protocol_type.to_string(),
        assignor: group.protocol_data.to_string(),
        members: group.members.into_iter().map(|member| classic_member(member, readable)).collect(),
    })
}

fn classic_member(member: DescribedGroupMember, readable: bool) -> Member {
    let assigned = match member.member_assignment.as_ref() {
        // Some clients leave out members that get nothing.
        [] => Some(Partitions::new()),
        bytes => membership::assignment(bytes),
    };
    Member {
        id: member.member_id.to_string(),
        instance_id: member.group_instance_id.map(|id| id.to_string()),
        client_id: member.client_id.to_string(),
        host: host(&member.client_host),
        subscribed: membership::subscription(&member.member_metadata).filter(|_| readable),
        assigned: assigned.filter(|_| readable),
    }
}

fn consumer(group: consumer_group_describe_response::DescribedGroup) -> Result<Group, GroupError> {
    GroupError::check(group.error_code, group.error_message.as_deref())?;
    let members = group.members.into_iter().map(|member| {
        let pattern = member.subscribed_topic_regex.as_deref().is_some_and(|pattern| !pattern.is_empty());
        let names = member.subscribed_topic_names.into_iter().map(|name| name.to_string()).collect();
        let mut assigned = Partitions::new();
        for topic in member.assignment.topic_partitions {
            assigned.entry(topic.topic_name.to_string()).or_default().extend(topic.partitions);
        }
        Member {
            id: member.member_id.to_string(),
            instance_id: member.instance_id.map(|id| id.to_string()),
            client_id: member.client_id.to_string(),
            host: host(&member.client_host),
            subscribed: Some(names).filter(|_| !pattern),
            assigned: Some(assigned),
        }
    });
    Ok(Group {
        kind: GroupKind::Consumer,
        state: GroupState::parse(&group.group_state),
        protocol_type: "consumer".to_owned(),
        assignor: group.assignor_name.to_string(),
        members: members.collect(),
    })
}

/// Java prints addresses with a slash in front.
fn host(host: &str) -> String {
    host.trim_start_matches('/').to_owned()
}
