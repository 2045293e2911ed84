//! What the last cycle found of each group: served as it is, while a status is written only when it says something new.

use k8s_openapi::jiff::Timestamp;
use mq_core::effect::ObjectKey;
use mq_crds::{Lag, ScalingStatus};
use serde::Serialize;

use super::{Groups, entry::Entry, lock};

/// Groups in one answer.
const MOST: usize = 1_000;

/// The answer of `/groups`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LiveGroups {
    /// Only the leader looks at groups.
    leader: bool,
    /// Why there are no groups, or not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// By namespace and name.
    groups: Vec<LiveGroup>,
}

/// A group, in the words of its status.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LiveGroup {
    namespace: String,
    name: String,
    cluster: String,
    group_id: String,
    #[serde(flatten)]
    found: Live,
}

/// What a cycle found of a group.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Live {
    pub(super) looked_at: Timestamp,
    pub(super) lag: Lag,
    /// Without record keys: whoever reaches the port may read this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) scaling: Option<ScalingStatus>,
}

/// Which groups are asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    namespace: Option<String>,
    name: Option<String>,
}

impl Filter {
    /// From a query such as `namespace=shop&name=notifications`. Names need no escapes; what is not known is not looked at.
    pub(crate) fn of(query: &str) -> Self {
        let mut filter = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "namespace" => filter.namespace = Some(value.to_owned()),
                "name" => filter.name = Some(value.to_owned()),
                _ => {}
            }
        }
        filter
    }

    fn admits(&self, object: &ObjectKey) -> bool {
        let admits = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        admits(self.namespace.as_deref(), &object.namespace) && admits(self.name.as_deref(), &object.name)
    }
}

impl Groups {
    /// What the last cycle of each group found, as the leader.
    pub(crate) fn live(&self, filter: &Filter) -> LiveGroups {
        if self.environment.lease.permit().is_err() {
            let message = "this replica does not lead and looks at no groups; ask the leader".to_owned();
            return LiveGroups { leader: false, message: Some(message), groups: vec![] };
        }
        let clusters: Vec<_> = lock(&self.clusters).values().cloned().collect();
        let groups = clusters.iter().flat_map(|cluster| {
            let entries = lock(&cluster.entries);
            entries.values().filter(|entry| filter.admits(&entry.desired.object)).filter_map(live).collect::<Vec<_>>()
        });
        answer(groups.collect())
    }
}

/// Nothing before its first cycle.
fn live(entry: &Entry) -> Option<LiveGroup> {
    let (group, found) = (&entry.desired, entry.live.clone()?);
    Some(LiveGroup {
        namespace: group.object.namespace.clone(),
        name: group.object.name.clone(),
        cluster: group.cluster.clone(),
        group_id: group.group_id.clone(),
        found,
    })
}

fn answer(mut groups: Vec<LiveGroup>) -> LiveGroups {
    groups.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    let all = groups.len();
    groups.truncate(MOST);
    let message = (all > MOST).then(|| format!("the first {MOST} of {all} groups; ask with ?namespace= and &name="));
    LiveGroups { leader: true, message, groups }
}

#[cfg(test)]
mod tests {
    use mq_crds::LagState;
    use serde_json::json;

    use super::*;

    fn named(n: usize) -> LiveGroup {
        let lag = Lag { state: LagState::Known, reason: None, messages: Some(7), late: Some(0), notes: vec![] };
        LiveGroup {
            namespace: "shop".into(),
            name: format!("group-{n:04}"),
            cluster: "main".into(),
            group_id: "g".into(),
            found: Live { looked_at: Timestamp::UNIX_EPOCH, lag, scaling: None },
        }
    }

    #[test]
    fn the_answer_is_sorted_and_bounded() {
        let few = serde_json::to_value(answer(vec![named(2), named(1)])).unwrap();
        let group = |name: &str| {
            json!({
                "namespace": "shop", "name": name, "cluster": "main", "groupId": "g", "lookedAt": "1970-01-01T00:00:00Z",
                "lag": {"state": "Known", "messages": 7, "late": 0},
            })
        };
        assert_eq!(few, json!({"leader": true, "groups": [group("group-0001"), group("group-0002")]}));
        let many = answer((0..=MOST).map(named).collect());
        assert_eq!(many.groups.len(), MOST);
        assert!(many.message.is_some_and(|said| said.starts_with("the first 1000 of 1001 groups")));
    }

    #[test]
    fn a_query_names_the_groups_that_are_asked_for() {
        let object = ObjectKey { namespace: "shop".into(), name: "notifications".into(), uid: "1".into() };
        for (query, admits) in [
            ("", true),
            ("namespace=shop", true),
            ("namespace=shop&name=notifications", true),
            ("pretty", true),
            ("namespace=bank", false),
            ("namespace=shop&name=other", false),
            ("name=", false),
        ] {
            assert_eq!(Filter::of(query).admits(&object), admits, "{query}");
        }
    }
}
