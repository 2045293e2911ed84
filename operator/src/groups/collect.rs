//! Reads the offsets of many groups in few requests.
//!
//! Per cycle: one `OffsetFetch` per coordinator for all groups, then one `ListOffsets` per leader. Committed offsets first, ends
//! second: the other way round a busy group would seem to be ahead of its log. What changes rarely (partitions of topics, log
//! starts, members) is read in turns, so that no cycle sends more than three requests to a broker for it all.

mod doubts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use doubts::{note_hidden, suspects};
use mq_core::{
    cluster::check_identity,
    condition,
    lag::{Reading, ResetPolicy, TopicPartition, Unread},
    scaling::Members,
};
use mq_kafka::{
    Client, Group, GroupError, GroupOffsets, GroupState, Isolation, Member, OffsetSpec, PartitionError, PartitionMap,
    Partitions, TopicError, TopicOffsets,
};

use super::tails::{Place, Tails};
use crate::session::Health;

/// Cycles in which what is read in turns is read once: 60 s at the usual 5 s.
pub const TURNS: u32 = 12;
/// The time in which is found what lies behind standing groups; what is left has its turn later.
const BEHIND: Duration = Duration::from_secs(2);

/// What a cycle has to read.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Group → its topics and where it starts without a commit.
    pub groups: BTreeMap<String, (BTreeSet<String>, ResetPolicy)>,
    /// The groups whose members are looked at.
    pub members: BTreeSet<String>,
    /// Where groups stand still, if it is the turn to look at what lies behind.
    pub standing: BTreeSet<Place>,
    /// Read the partitions of all topics anew.
    pub topics_anew: bool,
    /// Read all log starts anew.
    pub starts_anew: bool,
}

impl Wanted {
    /// Of what changes rarely, that whose turn it is; no groups yet.
    pub fn in_turn(turn: u32) -> Self {
        Self { topics_anew: turn.is_multiple_of(TURNS), starts_anew: turn % TURNS == 2 * TURNS / 3, ..Self::default() }
    }

    /// Whether it is the turn of what lies behind the offsets at which groups stand still.
    pub fn standing(turn: u32) -> bool {
        turn % TURNS == TURNS / 2
    }

    /// Whether it is the turn of the members of groups that are scaled, or of the others, which are not read in each cycle.
    pub fn members(turn: u32, scaled: bool) -> bool {
        turn % TURNS == if scaled { TURNS / 3 } else { TURNS / 2 }
    }
}

/// What was read, and what earlier cycles read of the things that change rarely.
#[derive(Debug, Default)]
pub struct Offsets {
    partitions: BTreeMap<Arc<str>, Result<BTreeSet<i32>, String>>,
    ids: BTreeMap<String, u128>,
    /// Topics that may be others than they were, as their commits say: see [`suspects`].
    suspect: BTreeSet<String>,
    tails: Tails,
    /// All topics of the cluster, if they were asked for; an error: why they are not known.
    existing: Option<Result<Arc<BTreeSet<String>>, String>>,
    /// Topics that were listed and are not any more, though they may exist, and how many lists ago they were.
    hidden: BTreeMap<String, u32>,
    starts: PartitionMap<i64>,
    committed: BTreeMap<String, Result<GroupOffsets, GroupError>>,
    ends: PartitionMap<Result<Option<i64>, PartitionError>>,
    members: BTreeMap<String, Result<Group, GroupError>>,
    /// The client whose brokers were seen to belong to the right Kafka cluster.
    checked: Option<Arc<Client>>,
    /// Why nothing of this cluster can be believed.
    withheld: Option<String>,
}

impl Offsets {
    /// Looks whether the brokers are those of the cluster that is meant. Another Kafka cluster has no lag, and none of that is true:
    /// until this succeeds, all readings are unknown.
    ///
    /// A client is asked itself once: an edit of the brokers replaces it before the session looks again.
    pub async fn check(&mut self, name: &str, client: &Arc<Client>, health: &Health) -> bool {
        self.withheld = distrust(health);
        let known = self.checked.as_ref().is_some_and(|checked| Arc::ptr_eq(checked, client));
        if self.withheld.is_none() && !known {
            let found = client.describe_cluster().await.map_err(|error| error.to_string());
            self.withheld = match (found.map(|found| found.id), &health.cluster_id) {
                (Err(why), _) => Some(why),
                (Ok(Some(found)), Some(bound)) => check_identity(name, bound, &found).err(),
                (Ok(_), _) => Some("the brokers name no cluster id".to_owned()),
            };
            self.checked = self.withheld.is_none().then(|| Arc::clone(client));
        }
        self.withheld.is_none()
    }

    /// Lists the topics of the cluster, if it is their turn or they are not known. One Metadata request, and another one if the list has
    /// lost some of those that are consumed.
    pub async fn list_topics(&mut self, client: &Client, anew: bool, consumed: impl FnOnce() -> BTreeSet<String>) {
        if !anew && matches!(self.existing, Some(Ok(_))) {
            return;
        }
        match client.list_topics().await {
            Ok(topics) => {
                let mut listed: BTreeSet<String> = topics.into_keys().collect();
                listed.extend(self.hidden(client, &listed, &consumed()).await);
                // The same list stays the same: what was found in it counts on.
                if self.existing().is_ok_and(|known| **known == listed) {
                    return;
                }
                self.existing = Some(Ok(Arc::new(listed)));
            }
            // What was known of them is better than nothing.
            Err(error) if matches!(self.existing, Some(Ok(_))) => tracing::debug!(%error, "topics not listed"),
            Err(error) => self.existing = Some(Err(error.to_string())),
        }
    }

    /// Of these topics, those that were listed before and are not any more although they may exist: a list is silent about a topic that the
    /// operator may not see, and a lag that is hidden is not gone. If one is asked for by name, the broker refuses to say whether it exists.
    async fn hidden(&mut self, client: &Client, listed: &BTreeSet<String>, consumed: &BTreeSet<String>) -> Vec<String> {
        let known = self.existing().cloned().unwrap_or_default();
        let missing: Vec<String> =
            known.difference(listed).filter(|topic| consumed.contains(*topic)).cloned().collect();
        let described = if missing.is_empty() { BTreeMap::new() } else { client.describe_topics(missing).await };
        let denied = described.into_iter().filter(|(_, found)| !matches!(found, Err(TopicError::Absent)));
        note_hidden(&mut self.hidden, denied.map(|(topic, _)| topic))
    }

    /// The topics of the cluster.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn existing(&self) -> Result<&Arc<BTreeSet<String>>, &str> {
        match (&self.existing, &self.withheld) {
            (Some(Ok(existing)), _) => Ok(existing),
            (_, Some(why)) | (Some(Err(why)), None) => Err(why),
            (None, None) => Err("the topics of the cluster are not known"),
        }
    }

    /// Reads. Whatever fails is a value in the readings.
    pub async fn read(&mut self, client: &Client, wanted: &Wanted) {
        let topics = wanted.groups.values().flat_map(|(topics, _)| topics);
        let topics: BTreeSet<&str> = topics.map(String::as_str).collect();
        self.read_partitions(client, wanted, &topics).await;
        let committed = client.committed_offsets(wanted.groups.keys().cloned());
        let members = async {
            if wanted.members.is_empty() {
                return BTreeMap::new();
            }
            client.describe_groups(wanted.members.iter().cloned()).await
        };
        let (committed, members) = futures::future::join(committed, members).await;
        let before = std::mem::replace(&mut self.committed, committed);
        self.members = members;
        let partitions: Partitions = topics
            .iter()
            .filter_map(|topic| Some(((*topic).to_owned(), self.partitions.get(*topic)?.clone().ok()?)))
            .collect();
        let ends = async {
            if partitions.is_empty() {
                return PartitionMap::new();
            }
            client.list_offsets(&partitions, OffsetSpec::Latest, Isolation::ReadUncommitted).await
        };
        // The brokers look up the ends meanwhile.
        let judged = async {
            let suspect = suspects(&before, &self.committed, &self.partitions);
            drop(before);
            (suspect, if wanted.starts_anew { partitions.clone() } else { self.missing_starts(wanted) })
        };
        let (ends, (suspect, starts)) = futures::future::join(ends, judged).await;
        (self.ends, self.suspect) = (ends, suspect);
        self.read_starts(client, wanted, starts).await;
    }

    /// Looks what lies behind where groups stand, for the next cycle: how long it takes says nothing of this one, and whoever does not
    /// answer in time holds up nobody.
    pub(crate) async fn look_behind(&mut self, client: &Client, wanted: &Wanted) {
        if wanted.standing.is_empty() {
            return;
        }
        let end = |topic: &str, partition| end_of(self.ends.get(topic), partition).ok();
        let _ = tokio::time::timeout(BEHIND, self.tails.look(client, &wanted.standing, end)).await;
        let stands = |(topic, partition, offset): &Place| {
            self.committed.keys().any(|group| self.offset(group, topic, *partition) == Ok(Some(*offset)))
        };
        let left = self.tails.places().filter(|place| stands(place)).cloned().collect();
        self.tails.retain(&left);
    }

    fn offset(&self, group: &str, topic: &str, partition: i32) -> Result<Option<i64>, String> {
        committed_at(&commits_of(self.committed.get(group), topic), partition)
    }

    async fn read_partitions(&mut self, client: &Client, wanted: &Wanted, topics: &BTreeSet<&str>) {
        self.partitions.retain(|topic, _| topics.contains(&**topic));
        self.ids.retain(|topic, _| topics.contains(topic.as_str()));
        let ask: BTreeSet<&str> = topics
            .iter()
            .copied()
            .filter(|topic| wanted.topics_anew || !matches!(self.partitions.get(*topic), Some(Ok(_))))
            .chain(self.vanished().chain(&self.suspect).map(String::as_str))
            .filter(|topic| topics.contains(topic))
            .collect();
        if ask.is_empty() {
            return;
        }
        for (topic, described) in client.describe_topics(ask.into_iter().map(str::to_owned).collect::<Vec<_>>()).await {
            let partitions = match described {
                Ok(described) => {
                    self.ids.insert(topic.clone(), described.id.as_u128());
                    Ok(described.partitions.into_keys().collect())
                }
                Err(TopicError::Absent) => Err("the topic does not exist".to_owned()),
                // The partitions of before are asked for their ends; if the brokers are away, that fails and says so.
                Err(error) if matches!(self.partitions.get(topic.as_str()), Some(Ok(_))) => {
                    tracing::debug!(topic, %error, "partitions of a topic not read");
                    continue;
                }
                Err(error) => Err(error.to_string()),
            };
            self.partitions.insert(topic.into(), partitions);
        }
    }

    /// Topics of which a partition was gone in the cycle before.
    fn vanished(&self) -> impl Iterator<Item = &String> {
        let gone = |ends: &BTreeMap<i32, Result<_, PartitionError>>| {
            ends.values().any(|end| matches!(end, Err(PartitionError::Absent)))
        };
        self.ends.iter().filter(move |(_, ends)| gone(ends)).map(|(topic, _)| topic)
    }

    /// Log starts are needed where nothing is committed and the group begins with the earliest record; the rest in its turn.
    async fn read_starts(&mut self, client: &Client, wanted: &Wanted, ask: Partitions) {
        if ask.is_empty() {
            return;
        }
        let found = client.list_offsets(&ask, OffsetSpec::Earliest, Isolation::ReadUncommitted).await;
        if wanted.starts_anew {
            self.starts.clear();
        }
        for (topic, starts) in found {
            let known = self.starts.entry(topic).or_default();
            known.extend(starts.into_iter().filter_map(|(partition, start)| Some((partition, start.ok()??))));
        }
    }

    fn missing_starts(&self, wanted: &Wanted) -> Partitions {
        let mut missing = Partitions::new();
        for (group, (topics, reset)) in &wanted.groups {
            let committed = self.committed.get(group).filter(|committed| committed.is_ok());
            if *reset != ResetPolicy::Earliest || committed.is_none() {
                continue;
            }
            for topic in topics {
                let (commits, starts) = (commits_of(committed, topic), self.starts.get(topic));
                let is_missing = |partition: &i32| {
                    let known = starts.is_some_and(|starts| starts.contains_key(partition));
                    !known && committed_at(&commits, *partition) == Ok(None)
                };
                let without: BTreeSet<i32> = self.partitions_of(topic).filter(is_missing).collect();
                if !without.is_empty() {
                    missing.entry(topic.clone()).or_default().extend(without);
                }
            }
        }
        missing
    }

    /// The partitions of a topic, as far as they are known.
    fn partitions_of(&self, topic: &str) -> impl Iterator<Item = i32> {
        self.partitions.get(topic).and_then(|found| found.as_ref().ok()).into_iter().flatten().copied()
    }

    /// What was read for one group: all partitions of its topics that are known.
    pub fn readings(&self, group: &str, topics: &BTreeSet<String>) -> Vec<Reading> {
        let committed = self.committed.get(group);
        let mut readings = Vec::new();
        for topic in topics {
            let Some((name, Ok(partitions))) = self.partitions.get_key_value(topic.as_str()) else { continue };
            let (commits, ends, starts) = (commits_of(committed, topic), self.ends.get(topic), self.starts.get(topic));
            let topic_id = self.ids.get(topic).copied();
            readings.extend(partitions.iter().map(|partition| {
                let committed = committed_at(&commits, *partition);
                let stands = committed.as_ref().ok().copied().flatten();
                Reading {
                    of: TopicPartition { topic: Arc::clone(name), partition: *partition },
                    tail: stands.and_then(|offset| self.tails.at(topic, *partition, offset)),
                    committed,
                    end: self.withheld.clone().map_or_else(|| end_of(ends, *partition), Err),
                    start: starts.and_then(|starts| starts.get(partition)).copied(),
                    topic_id,
                }
            }));
        }
        readings
    }

    /// The topics of which no partition is known.
    pub fn unread(&self, topics: &BTreeSet<String>) -> Unread {
        let why = |topic: &String| match (self.partitions.get(topic.as_str()), &self.withheld) {
            (Some(Ok(partitions)), _) if !partitions.is_empty() => None,
            (_, Some(why)) | (Some(Err(why)), None) => Some(why.clone()),
            (Some(Ok(_)) | None, None) => Some("its partitions are not known".to_owned()),
        };
        topics.iter().filter_map(|topic| Some((topic.as_str().into(), why(topic)?))).collect()
    }

    /// Who is in the group, if it was asked for and the answer says so; no members in a group that does not exist.
    pub fn members_of(&self, group: &str) -> Option<&[Member]> {
        let found = self.members.get(group).filter(|_| self.withheld.is_none())?;
        match found {
            Ok(group) if matches!(group.state, GroupState::Stable | GroupState::Empty) => Some(&group.members),
            Err(GroupError::Absent) => Some(&[]),
            Ok(_) | Err(_) => None,
        }
    }

    /// What was seen of the members, if they were asked for and the answer says it all.
    pub fn members(&self, group: &str, topics: &BTreeSet<String>) -> Option<Members> {
        if self.withheld.is_some() {
            return None;
        }
        let group = match self.members.get(group)? {
            Ok(group) => group,
            Err(GroupError::Absent) => {
                let unowned = u32::try_from(self.all(topics).count()).unwrap_or(u32::MAX);
                return Some(Members { count: 0, stable: true, unowned, owners: Vec::new() });
            }
            Err(error) => {
                tracing::debug!(group, %error, "members not read");
                return None;
            }
        };
        let stable = matches!(group.state, GroupState::Stable | GroupState::Empty)
            && group.members.iter().all(|member| member.assigned.is_some());
        let mut owned: BTreeMap<(&str, i32), u32> = BTreeMap::new();
        for (n, member) in (0..).zip(&group.members) {
            for (topic, partitions) in member.assigned.iter().flatten() {
                owned.extend(partitions.iter().map(|partition| ((topic.as_str(), *partition), n)));
            }
        }
        let owners: Vec<Option<u32>> = self.all(topics).map(|of| owned.get(&of).copied()).collect();
        let unowned = owners.iter().filter(|owner| owner.is_none()).count();
        Some(Members {
            count: u32::try_from(group.members.len()).unwrap_or(u32::MAX),
            stable,
            unowned: u32::try_from(unowned).unwrap_or(u32::MAX),
            owners,
        })
    }

    /// The known partitions of these topics, in the order of the readings.
    fn all<'a>(&'a self, topics: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a str, i32)> {
        topics.iter().flat_map(|topic| self.partitions_of(topic).map(move |partition| (topic.as_str(), partition)))
    }
}

/// Why a cluster of this health tells nothing about its groups.
fn distrust(health: &Health) -> Option<String> {
    let verdict = &health.verdict;
    (verdict.health != condition::Health::Ready).then(|| verdict.message.clone())
}

/// What a group has committed of a topic, or why that is not known.
type Commits<'a> = Result<TopicOffsets<'a>, String>;

fn commits_of<'a>(group: Option<&'a Result<GroupOffsets, GroupError>>, topic: &str) -> Commits<'a> {
    match group {
        Some(Ok(offsets)) => Ok(offsets.of(topic)),
        // A group that nobody joined yet.
        Some(Err(GroupError::Absent)) => Ok(TopicOffsets::default()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the group was not asked for".to_owned()),
    }
}

fn committed_at(commits: &Commits<'_>, partition: i32) -> Result<Option<i64>, String> {
    let committed = commits.as_ref().map_err(Clone::clone)?.committed(partition);
    committed.map(|committed| committed.map(|committed| committed.offset)).map_err(ToString::to_string)
}

fn end_of(ends: Option<&BTreeMap<i32, Result<Option<i64>, PartitionError>>>, partition: i32) -> Result<i64, String> {
    match ends.and_then(|ends| ends.get(&partition)) {
        Some(Ok(Some(end))) => Ok(*end),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(None)) | None => Err("the broker names no end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::{condition::Verdict, reason::Reason};

    #[tokio::test]
    async fn a_cluster_that_is_not_the_right_one_says_nothing_about_lag() {
        let client = Arc::new(Client::new(vec!["127.0.0.1:1".to_owned()], mq_kafka::Options::default()));
        let topics: BTreeSet<String> = ["orders".to_owned()].into();
        let cases = [
            (Verdict::ready(Reason::Connected, "answers"), true),
            (Verdict::stalled(Reason::WrongCluster, "another cluster"), false),
            (Verdict::unknown(Reason::ClusterUnreachable, "no answer"), false),
        ];
        for (verdict, trusted) in cases {
            let health = Health { verdict: verdict.clone(), cluster_id: Some("a".into()), brokers: None };
            // What the other cluster answered: nothing is outstanding.
            let mut offsets = Offsets { checked: Some(Arc::clone(&client)), ..Offsets::default() };
            offsets.partitions.insert("orders".into(), Ok([0, 1].into()));
            offsets.ends.insert("orders".into(), [(0, Ok(Some(0))), (1, Ok(Some(0)))].into());
            assert_eq!(offsets.check("main", &client, &health).await, trusted);
            let ends: Vec<_> = offsets.readings("g", &topics).into_iter().map(|reading| reading.end).collect();
            let expected = if trusted { Ok(0) } else { Err(verdict.message) };
            assert_eq!(ends, [expected.clone(), expected]);
        }
    }
    #[test]
    fn a_topic_without_partitions_is_no_partition() {
        let mut offsets = Offsets::default();
        offsets.partitions.insert("gone".into(), Err("the topic does not exist".into()));
        offsets.partitions.insert("orders".into(), Ok([0, 1].into()));
        offsets.members.insert("g".into(), Err(GroupError::Absent));
        let topics = ["gone", "never", "orders"].map(str::to_owned).into();
        let readings = offsets.readings("g", &topics);
        let owners = offsets.members("g", &topics).unwrap().unowned;
        assert_eq!((readings.len(), owners), (2, 2), "what is owned and what is read are the same");
        let unread = [("gone", "the topic does not exist"), ("never", "its partitions are not known")];
        assert_eq!(offsets.unread(&topics), unread.map(|(topic, why)| (topic.into(), why.to_owned())).into());
        offsets.withheld = Some("another cluster".into());
        assert!(offsets.unread(&topics).values().all(|why| why == "another cluster"));
    }
}
