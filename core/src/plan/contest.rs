//! When somebody else sets a topic back each time that its drift is repaired: the operator repairs it less and less often, and says so.
//! To set it right for ever, in every cycle, would be a fight that nobody wins and that costs both sides and the brokers.

use super::TopicPlan;
use crate::{
    condition::{Health, Verdict},
    effect::{Change, Effect, ObjectKey},
    reason::Reason,
};
use std::{collections::BTreeMap, time::Duration};

/// Repairs in a row that are made without a pause.
const FREE: u32 = 3;

/// The longest pause between two repairs.
const LONGEST: Duration = Duration::from_hours(1);

/// The repairs of one topic's drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contest {
    repairs: u32,
    last: Duration,
}

impl Contest {
    /// A drift was repaired at `now`, while the cluster is looked at each `interval`. If the one before held for long, the count begins anew.
    #[must_use]
    pub fn repaired(self, now: Duration, interval: Duration) -> Self {
        let held = now.saturating_sub(self.last) >= self.pause(interval).max(interval).saturating_mul(3);
        let repairs = if held { 0 } else { self.repairs };
        Self { repairs: repairs.saturating_add(1), last: now }
    }

    /// Whether the next repair has to wait at `now`.
    pub fn holds(self, now: Duration, interval: Duration) -> bool {
        now.saturating_sub(self.last) < self.pause(interval)
    }

    /// Doubled with each repair after the free ones.
    fn pause(self, interval: Duration) -> Duration {
        match self.repairs.checked_sub(FREE) {
            None => Duration::ZERO,
            Some(more) => interval.saturating_mul(2 << more.min(20)).min(LONGEST),
        }
    }
}

impl TopicPlan {
    /// Takes out the repairs of drift that have to wait: those of the objects in `contests` that [hold](Contest::holds).
    #[must_use]
    pub fn hold_back(mut self, contests: &BTreeMap<ObjectKey, Contest>, now: Duration, interval: Duration) -> Self {
        let (held, effects) = self.effects.into_iter().partition(|effect| {
            effect.reason == Reason::DriftRepaired
                && contests.get(&effect.object).is_some_and(|contest| contest.holds(now, interval))
        });
        self.effects = effects;
        let held: Vec<Effect> = held;
        for effect in held {
            if let Some(outcome) = self.outcomes.get_mut(&effect.object) {
                let message = format!(
                    "somebody else changes it each time that it is repaired, so repairs wait longer and longer: {}; \
                     find who writes it, or declare what they write",
                    contested(&effect)
                );
                outcome.drift = None;
                outcome.notice = Some((Reason::DriftContested, message.clone()));
                // What needs a person in any case outweighs it.
                if outcome.verdict.health != Health::Stalled {
                    outcome.verdict = Verdict::reconciling(Reason::DriftContested, message);
                }
            }
        }
        self
    }
}

/// Without values: one that is another at each look would be news at each look.
fn contested(effect: &Effect) -> String {
    match &effect.change {
        Change::AlterTopicConfig { topic, set, reset } => {
            let keys: Vec<&str> = set.keys().chain(reset).map(String::as_str).collect();
            format!("topic {topic}: {}", keys.join(", "))
        }
        _ => effect.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::{Record, TopicOutcome};

    const INTERVAL: Duration = Duration::from_secs(10);

    /// The times of the repairs when somebody undoes each at once, looked at every ten seconds.
    fn repairs(until: u64) -> Vec<u64> {
        let mut contest = Contest::default();
        let mut times = Vec::new();
        for second in (0..until).step_by(10) {
            let now = Duration::from_secs(second);
            if !contest.holds(now, INTERVAL) {
                contest = contest.repaired(now, INTERVAL);
                times.push(second);
            }
        }
        times
    }

    #[test]
    fn repairs_of_a_fight_become_rare() {
        assert_eq!(repairs(700), [0, 10, 20, 40, 80, 160, 320, 640]);
        let day = repairs(86_400);
        assert!(day.len() < 40, "{}", day.len());
        assert!(day.windows(2).all(|pair| pair[1] - pair[0] <= 3600), "never given up");
    }

    /// What is held back of a repair of `retention.ms`, found at `was`.
    fn held(verdict: Verdict, was: &str) -> TopicOutcome {
        let object = ObjectKey { namespace: "shop".into(), name: "orders".into(), uid: "1".into() };
        let set = [("retention.ms".to_owned(), "1000".to_owned())].into();
        let change = Change::AlterTopicConfig { topic: "orders".into(), set, reset: [].into() };
        let message = format!("topic orders: retention.ms {was} → 1000");
        let effect = Effect { object: object.clone(), change, reason: Reason::DriftRepaired, message };
        let outcome = TopicOutcome { verdict, record: Record::Keep, drift: None, notice: None, released: false };
        let plan = TopicPlan { effects: vec![effect], outcomes: [(object.clone(), outcome)].into() };
        let fight = (0..5).fold(Contest::default(), |contest, _| contest.repaired(INTERVAL, INTERVAL));
        let mut plan = plan.hold_back(&[(object.clone(), fight)].into(), INTERVAL, INTERVAL);
        assert_eq!(plan.effects, []);
        plan.outcomes.remove(&object).unwrap()
    }

    #[test]
    fn what_is_held_back_is_said_in_the_same_words_while_the_value_moves() {
        let progressing = || Verdict::reconciling(Reason::Progressing, "");
        let outcome = held(progressing(), "5");
        assert_eq!(outcome.verdict.reason, Reason::DriftContested);
        assert!(outcome.verdict.message.contains("topic orders: retention.ms;"), "{:?}", outcome.verdict);
        assert_eq!(outcome, held(progressing(), "6"));
    }

    #[test]
    fn a_topic_that_needs_a_person_says_so_in_a_fight_too() {
        let outcome = held(Verdict::stalled(Reason::PartitionsCannotShrink, "too many"), "5");
        assert_eq!(outcome.verdict.reason, Reason::PartitionsCannotShrink);
        assert!(outcome.notice.is_some_and(|(reason, _)| reason == Reason::DriftContested));
    }

    #[test]
    fn a_repair_that_held_ends_the_fight() {
        let mut contest = Contest::default();
        for second in 0..5 {
            contest = contest.repaired(Duration::from_secs(second), INTERVAL);
        }
        let quiet = Duration::from_secs(4) + contest.pause(INTERVAL) * 3;
        let after = contest.repaired(quiet, INTERVAL);
        assert!(contest.holds(Duration::from_secs(5), INTERVAL) && !after.holds(quiet, INTERVAL));
        assert_eq!(after.repairs, 1);
    }

    #[test]
    fn a_day_with_one_drift_an_hour_is_no_fight() {
        let mut contest = Contest::default();
        for hour in 0..24 {
            let now = Duration::from_hours(hour);
            assert!(!contest.holds(now, INTERVAL));
            contest = contest.repaired(now, INTERVAL);
        }
    }
}
