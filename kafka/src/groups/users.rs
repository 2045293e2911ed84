use std::collections::{BTreeMap, BTreeSet};

use super::{GroupError, GroupKind};
use crate::{Client, Error};

/// Which groups have members that use which topics. For deciding whether a topic may go: what could not be read counts as
/// a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicUsers {
    /// Topic → groups with a member that is subscribed to it or owns a partition of it.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Groups with members of which nothing is known, each with the reason; any of them may use any topic.
    pub unknown: BTreeMap<String, String>,
}

impl TopicUsers {
    /// Groups that use the topic.
    ///
    /// # Errors
    /// No group is known to use it, but not all are known; the text says which and why.
    pub fn of(&self, topic: &str) -> Result<BTreeSet<&str>, String> {
        match self.groups.get(topic) {
            Some(groups) => Ok(groups.iter().map(String::as_str).collect()),
            None if self.unknown.is_empty() => Ok(BTreeSet::new()),
            None => {
                let reasons: Vec<_> = self.unknown.iter().map(|(who, why)| format!("{who}: {why}")).collect();
                Err(format!("not known whether a consumer group uses the topic: {}", reasons.join("; ")))
            }
        }
    }

    fn unknown(&mut self, group: String, reason: impl Into<String>) {
        self.unknown.insert(group, reason.into());
    }
}

impl Client {
    /// Looks through all groups that have members. `ListGroups` at every broker, then [`Client::describe_groups`].
    ///
    /// Consumers that read without a group are not seen.
    ///
    /// # Errors
    /// The brokers are not known.
    pub async fn topic_users(&self) -> Result<TopicUsers, Error> {
        let listing = self.list_groups().await?;
        let mut users = TopicUsers::default();
        for error in listing.unread {
            users.unknown(format!("groups of {}", error.broker), error.to_string());
        }
        let mut asked = Vec::new();
        for (id, group) in listing.groups.into_iter().filter(|(_, group)| !group.state.is_empty()) {
            match group.kind {
                Some(GroupKind::Other(kind)) => users.unknown(id, format!("a {kind} group, which cannot be described")),
                _ => asked.push(id),
            }
        }
        for (id, group) in self.describe_groups(asked).await {
            let group = match group {
                Ok(group) => group,
                // It ended in the meantime.
                Err(GroupError::Absent) => continue,
                Err(error) => {
                    users.unknown(id, error.to_string());
                    continue;
                }
            };
            if group.protocol_type != "consumer" {
                continue;
            }
            for member in group.members {
                let topics = match (member.subscribed, member.assigned) {
                    (Some(subscribed), assigned) => {
                        subscribed.into_iter().chain(assigned.unwrap_or_default().into_keys()).collect::<BTreeSet<_>>()
                    }
                    (None, assigned) => {
                        users.unknown(id.clone(), format!("the subscription of member {} is not known", member.id));
                        assigned.unwrap_or_default().into_keys().collect()
                    }
                };
                for topic in topics {
                    users.groups.entry(topic).or_default().insert(id.clone());
                }
            }
        }
        Ok(users)
    }
}
