//! Who is in a group and what each member was given, for its status.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    net::IpAddr,
};

use mq_crds::{Member, Members};
use mq_kafka::Partitions;

/// Members that a status names.
const NAMED: usize = 32;
/// Characters of a name.
const NAME: usize = 128;
/// Characters in which the partitions of a member are listed.
const LISTED: usize = 200;

/// The pods of the group's agents by the address that their streams come from; one of several pods names none.
pub(super) type Hosts = HashMap<String, Option<String>>;

/// What a status says of the members; none while they are given their partitions.
pub(super) fn members(found: &[mq_kafka::Member], hosts: &Hosts) -> Option<Members> {
    // Of two that share an address, a pod of the network of its node for one, nobody knows which is the agent's.
    let alone = |host: &str| found.iter().filter(|member| member.host == host).count() == 1;
    let mut shown = Vec::new();
    for member in found {
        let assigned = member.assigned.as_ref()?;
        shown.push(Member {
            id: short(member.instance_id.as_ref().unwrap_or(&member.id)),
            client_id: short(&member.client_id),
            host: short(&member.host),
            pod: hosts.get(&canonical(&member.host)).cloned().flatten().filter(|_| alone(&member.host)),
            partitions: count(assigned),
            assigned: listed(assigned),
        });
    }
    shown.sort_by(|one, other| (&one.host, &one.client_id, &one.id).cmp(&(&other.host, &other.client_id, &other.id)));
    let (count, imbalance) = (number(shown.len()), imbalance(&shown));
    shown.truncate(NAMED);
    Some(Members { count, imbalance, shown })
}

/// A broker writes an IPv6 address in full.
fn canonical(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |ip| ip.to_canonical().to_string())
}

/// Clients name themselves, as long as they like.
fn short(name: &str) -> String {
    name.chars().take(NAME).collect()
}

/// How many times an even share the member with the most partitions has.
fn imbalance(members: &[Member]) -> Option<f64> {
    let most = members.iter().map(|member| member.partitions).max()?;
    let all: i32 = members.iter().map(|member| member.partitions).sum();
    let share = f64::from(all) / f64::from(number(members.len()));
    (all > 0).then(|| (f64::from(most) / share * 100.0).round() / 100.0)
}

fn count(partitions: &Partitions) -> i32 {
    number(partitions.values().map(BTreeSet::len).sum())
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// As `orders 0-3,7; refunds 1`.
fn listed(assigned: &Partitions) -> String {
    let mut listed = String::new();
    let mut left = count(assigned);
    for (topic, partitions) in assigned.iter().filter(|(_, partitions)| !partitions.is_empty()) {
        let mut before = format!("{}{topic} ", if listed.is_empty() { "" } else { "; " });
        for (first, last) in runs(partitions) {
            let mut run = format!("{before}{first}");
            if last > first {
                let _ = write!(run, "-{last}");
            }
            if listed.len() + run.len() > LISTED {
                let _ = write!(listed, " and {left} more");
                return listed.trim_start().to_owned();
            }
            listed.push_str(&run);
            left -= last - first + 1;
            before = String::from(",");
        }
    }
    listed
}

/// The runs of consecutive numbers: first and last of each.
fn runs(partitions: &BTreeSet<i32>) -> Vec<(i32, i32)> {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for partition in partitions {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*partition) => *last = *partition,
            _ => runs.push((*partition, *partition)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(given: &[(&str, &[i32])]) -> Partitions {
        given.iter().map(|(topic, partitions)| ((*topic).to_owned(), partitions.iter().copied().collect())).collect()
    }

    fn member(id: &str, host: &str, given: Option<Partitions>) -> mq_kafka::Member {
        mq_kafka::Member {
            id: id.into(),
            instance_id: None,
            client_id: "mq-orders".into(),
            host: host.into(),
            subscribed: None,
            assigned: given,
        }
    }

    #[test]
    fn each_member_with_its_pod_and_its_partitions() {
        let hosts = Hosts::from([
            ("10.0.0.1".into(), Some("worker-a".into())),
            ("10.0.0.2".into(), None),
            ("10.0.0.9".into(), Some("worker-c".into())),
        ]);
        let members = super::members(
            &[
                member("b", "10.0.0.2", Some(assigned(&[("orders", &[4])]))),
                member("a", "10.0.0.1", Some(assigned(&[("orders", &[0, 1, 2, 7]), ("refunds", &[1])]))),
                member("c", "10.0.0.9", Some(Partitions::new())),
                member("d", "10.0.0.9", Some(Partitions::new())),
            ],
            &hosts,
        )
        .unwrap();
        let said: Vec<_> = members
            .shown
            .iter()
            .map(|member| (member.id.as_str(), member.pod.as_deref(), member.partitions, member.assigned.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                ("a", Some("worker-a"), 5, "orders 0-2,7; refunds 1"),
                ("b", None, 1, "orders 4"),
                ("c", None, 0, ""),
                ("d", None, 0, "")
            ]
        );
        assert_eq!((members.count, members.imbalance), (4, Some(3.33)), "five where one and a half are an even share");
    }

    #[test]
    fn while_partitions_are_given_nothing_is_said() {
        let on_the_way = vec![member("a", "h", None)];
        assert_eq!(members(&on_the_way, &Hosts::new()), None);
        let empty = members(&[], &Hosts::new()).unwrap();
        assert_eq!((empty.count, empty.imbalance, empty.shown.len()), (0, None, 0));
    }

    #[test]
    fn a_status_stays_small() {
        let scattered: Vec<i32> = (0..400).map(|n| n * 2).collect();
        let all = (0..50).map(|n| member(&format!("m{n:02}"), "h", Some(assigned(&[("orders", &scattered)]))));
        let members = members(&all.collect::<Vec<_>>(), &Hosts::new()).unwrap();
        assert_eq!((members.count, members.shown.len(), members.imbalance), (50, 32, Some(1.0)));
        let listed = &members.shown[0].assigned;
        assert!(listed.len() < LISTED + 20 && listed.ends_with(" and 338 more"), "{listed}");
        let long = assigned(&[(&"t".repeat(249), &[1, 2])]);
        assert_eq!(super::listed(&long), "and 2 more");
        let named = super::members(&[member(&"é".repeat(9_000), "h", Some(Partitions::new()))], &Hosts::new()).unwrap();
        assert_eq!(named.shown[0].id.chars().count(), NAME);
    }

    #[test]
    fn an_address_is_the_same_in_the_words_of_a_broker_and_of_a_pod() {
        let hosts = Hosts::from([("2001:db8::1".into(), Some("worker-a".into()))]);
        let members = members(&[member("a", "2001:db8:0:0:0:0:0:1", Some(Partitions::new()))], &hosts).unwrap();
        assert_eq!(members.shown[0].pod.as_deref(), Some("worker-a"));
    }
}
