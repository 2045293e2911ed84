//! Several groups on one target: the most that any of them asks for counts.

use super::Decision;
use crate::reason::Reason;

/// What another group of the same target asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its name; no two groups of a target have the same.
    pub group: String,
    /// The replicas that it decided on; none while that is not known, which takes nothing away from it.
    pub replicas: Option<u32>,
}

/// The decision of a group beside the `others` of its target, and whether it is this group's to carry out.
///
/// Of the groups that ask for the same step, the one with the first name carries it out: the others follow.
pub fn together(name: &str, own: Decision, others: &[Ask]) -> (Decision, bool) {
    let asked = |other: &Ask| other.replicas.unwrap_or(own.current);
    let most = others.iter().max_by(|a, b| asked(a).cmp(&asked(b)).then_with(|| b.group.cmp(&a.group)));
    let Some(most) = most.filter(|other| asked(other) > own.desired) else {
        let first = others.iter().all(|other| asked(other) < own.desired || name < other.group.as_str());
        return (own, first);
    };
    let (wanted, alone, group) = (asked(most), own.desired, &most.group);
    let message = match most.replicas {
        Some(_) => format!("group {group} asks for {wanted} replicas, this one for {alone}: {}", own.message),
        None => format!(
            "what group {group} needs is not known, so it keeps its {wanted} replicas; this one asks for {alone}: {}",
            own.message
        ),
    };
    let decision = Decision { desired: wanted, reason: Reason::AnotherGroupNeedsMore, message, limit: None, ..own };
    (decision, false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Terms;
    use super::*;

    fn decision(current: u32, desired: u32) -> Decision {
        let reason = if desired < current { Reason::AboveNeed } else { Reason::BelowNeed };
        let message = format!("need {desired}");
        Decision { current, desired, reason, message, terms: Terms::default(), limit: None }
    }

    fn ask(group: &str, replicas: impl Into<Option<u32>>) -> Ask {
        Ask { group: group.into(), replicas: replicas.into() }
    }

    #[test]
    fn the_most_that_is_asked_for_counts() {
        use Reason::{AboveNeed, AnotherGroupNeedsMore, BelowNeed};
        let own = "m";
        // What this group decides for 4 replicas, what the others ask for; what counts, by which reason, and who carries it out.
        let cases = [
            ("alone", 6, vec![], 6, BelowNeed, true, "need 6"),
            ("asks for most", 6, vec![ask("a", 5)], 6, BelowNeed, true, "need 6"),
            ("another asks for more", 6, vec![ask("z", 9)], 9, AnotherGroupNeedsMore, false, "group z asks for 9"),
            ("of three", 2, vec![ask("z", 3), ask("a", 1)], 3, AnotherGroupNeedsMore, false, "this one for 2: need 2"),
            ("another holds", 2, vec![ask("a", 4)], 4, AnotherGroupNeedsMore, false, "group a asks for 4"),
            ("another is not known", 2, vec![ask("a", None)], 4, AnotherGroupNeedsMore, false, "keeps its 4 replicas"),
            ("growth does not wait for it", 6, vec![ask("a", None)], 6, BelowNeed, true, "need 6"),
            ("both go down", 1, vec![ask("a", 0)], 1, AboveNeed, true, "need 1"),
            ("the same step, first name", 6, vec![ask("z", 6)], 6, BelowNeed, true, "need 6"),
            ("the same step, later name", 6, vec![ask("a", 6)], 6, BelowNeed, false, "need 6"),
        ];
        for (name, desired, others, counts, reason, carries, says) in cases {
            let (decision, carried) = together(own, decision(4, desired), &others);
            assert_eq!((decision.desired, decision.reason, carried), (counts, reason, carries), "{name}");
            assert!(decision.message.contains(says), "{name}: {}", decision.message);
        }
    }

    proptest! {
        #[test]
        fn all_agree_and_one_acts(current in 0_u32..20, asks in proptest::collection::vec(0_u32..20, 1..6)) {
            let all: Vec<Ask> = asks.iter().enumerate().map(|(n, replicas)| ask(&format!("g{n}"), *replicas)).collect();
            let mut acting = 0;
            for (n, own) in all.iter().enumerate() {
                let others: Vec<Ask> = all.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, a)| a.clone()).collect();
                let (counts, carries) = together(&own.group, decision(current, own.replicas.unwrap()), &others);
                prop_assert_eq!(Some(counts.desired), asks.iter().max().copied());
                acting += usize::from(carries);
            }
            prop_assert_eq!(acting, 1);
        }

        #[test]
        fn what_is_not_known_never_lowers_the_count(
            current in 0_u32..20, own in 0_u32..20, other in proptest::option::of(0_u32..20),
        ) {
            let (counts, carries) = together("m", decision(current, own), &[ask("a", other)]);
            prop_assert!(counts.desired >= own);
            prop_assert!(other.is_some() || !carries || counts.desired >= current);
        }
    }
}
