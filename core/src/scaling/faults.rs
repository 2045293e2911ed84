//! Faults that must be harmless: what a group sees while something is broken, cycle by cycle, and what comes of it.

use std::time::Duration;

use super::{Decision, History, Members, Mode, Objective, Observation, Policy, Target, decide};
use crate::lag::{GroupTracker, Reading, ResetPolicy, TopicPartition, Watch};
use crate::reason::Reason;

const CYCLE: Duration = Duration::from_secs(5);
const PARTITIONS: i32 = 4;

/// A group and its target, and who is told what they look like.
struct Scene {
    policy: Policy,
    tracker: GroupTracker,
    history: History,
    at: Duration,
    target: Target,
    /// Members of the group that are none of its pods.
    foreign: u32,
    /// So many partitions of which the end is not readable.
    away: i32,
    committed: Option<i64>,
    end: i64,
    steps: Vec<(u32, u32)>,
}

impl Scene {
    fn new(capacity: Option<f64>, replicas: u32) -> Self {
        Self {
            policy: Policy {
                objective: Objective::Age(Duration::from_secs(30)),
                mode: Mode::Auto,
                min: 1,
                scheduled: None,
                max: 4,
                capacity,
                window: Duration::from_mins(1),
                keep: false,
                max_step: None,
                cycle: CYCLE,
                commit_interval: Duration::from_secs(1),
                paused: false,
            },
            tracker: GroupTracker::new(),
            history: History::new(),
            at: Duration::from_secs(1_000),
            target: Target { replicas, ready: replicas, rolling: false, template: "a".into() },
            foreign: 0,
            away: 0,
            committed: Some(0),
            end: 0,
            steps: Vec::new(),
        }
    }

    /// One cycle, in which so much arrives and is committed in each partition; a step is carried out, and its pods are ready at once.
    fn cycle(&mut self, arrived: i64, handled: i64) -> Decision {
        self.at += CYCLE;
        self.end += arrived;
        self.committed = self.committed.map(|committed| (committed + handled).min(self.end));
        self.look()
    }

    /// One cycle in which nothing arrives and nothing is handled.
    fn look_again(&mut self) -> Decision {
        self.at += CYCLE;
        self.look()
    }

    fn look(&mut self) -> Decision {
        let reading = |partition| Reading {
            of: TopicPartition { topic: "orders".into(), partition },
            committed: Ok(self.committed),
            end: if partition < self.away { Err("no answer".into()) } else { Ok(self.end) },
            start: Some(0),
            topic_id: None,
            tail: None,
        };
        let readings: Vec<Reading> = (0..PARTITIONS).map(reading).collect();
        let watch = Watch {
            age: Some(Duration::from_secs(30)),
            reset: ResetPolicy::Earliest,
            commit_interval: self.policy.commit_interval,
            longest: Duration::ZERO,
        };
        let lag = self.tracker.observe(self.at, &watch, &readings);
        let members =
            Some(Members { count: self.target.ready + self.foreign, stable: true, unowned: 0, owners: Vec::new() });
        let target = self.target.clone();
        let seen = Observation { at: self.at, lag, target, members, config: "1".into(), work: None };
        self.history.observe(&self.policy, &seen);
        let decision = decide(&self.policy, &self.history.situation(&self.policy, &seen));
        if decision.is_step() {
            self.history.applied(self.at, &decision);
            self.steps.push((decision.current, decision.desired));
            self.target.replicas = decision.desired;
            self.target.ready = self.target.ready.max(decision.desired);
        }
        decision
    }
}

#[test]
fn a_consumer_that_never_commits_is_not_multiplied() {
    let mut scene = Scene::new(None, 1);
    scene.committed = None;
    let said: Vec<Decision> = (0..240).map(|_| scene.cycle(100, 0)).collect();
    assert_eq!(scene.steps, [(1, 2)], "one step may tell whether more help");
    let last = said.last().unwrap();
    assert_eq!(last.reason, Reason::StepIneffective, "{}", last.message);
    assert!(last.message.contains("nothing was committed since the last step up"), "{}", last.message);
    // It commits after all, and is behind.
    scene.committed = Some(0);
    for _ in 0..20 {
        scene.cycle(100, 50);
    }
    assert!(scene.steps.len() > 1, "{:?}", scene.steps);
}

#[test]
fn a_rollout_that_never_ends_holds_replicas_for_five_minutes() {
    let mut scene = Scene::new(Some(100.0), 1);
    scene.target.rolling = true;
    let reasons: Vec<Reason> = (0..70).map(|_| scene.cycle(400, 100).reason).collect();
    assert_eq!(reasons[..59], [Reason::Rollout; 59]);
    assert_eq!(scene.steps, [(1, 4)], "a paused Deployment takes more replicas, too");
}

#[test]
fn foreign_members_delay_a_step_and_do_not_prevent_it() {
    let mut scene = Scene::new(Some(100.0), 2);
    scene.foreign = 1;
    let said: Vec<Decision> = (0..70).map(|_| scene.cycle(400, 100)).collect();
    assert_eq!(said[3].reason, Reason::Settling);
    assert!(said[3].message.starts_with("3 members for 2 ready replicas; waiting for at most"), "{}", said[3].message);
    assert_eq!(scene.steps, [(2, 4)]);
}

#[test]
fn pods_that_crash_or_may_not_be_made_are_not_asked_for_twice() {
    // A third of the load is handled by the one pod that runs: more are needed all the time.
    let mut scene = Scene::new(Some(100.0), 1);
    scene.policy.max = 3;
    for _ in 0..120 {
        let decision = scene.cycle(300, 100);
        scene.target.ready = 1;
        assert!(matches!(
            decision.reason,
            Reason::Measuring | Reason::Confirming | Reason::BelowNeed | Reason::Rollout | Reason::AtMaximum
        ));
    }
    assert_eq!(scene.steps, [(1, 3)]);
    // They never fall below what was asked for because few are ready.
    assert_eq!(scene.target.replicas, 3);
}

#[test]
fn offsets_that_are_reset_or_deleted_by_hand_teach_no_capacity() {
    for moved_to in [Some(1_000_000), Some(0), None] {
        let mut scene = Scene::new(None, 2);
        scene.end = 1_000_000;
        scene.committed = Some(1_000_000);
        for _ in 0..30 {
            scene.cycle(100, 100);
        }
        scene.committed = moved_to;
        let decision = scene.look_again();
        assert!(!decision.is_step(), "{moved_to:?}: {}", decision.message);
        let next = scene.cycle(100, 100);
        assert!(next.terms.capacity.is_none_or(|capacity| capacity < 200.0), "{moved_to:?}: {:?}", next.terms);
        assert!(!next.is_step(), "{moved_to:?}: {}", next.message);
    }
}

#[test]
fn what_was_not_seen_is_not_missing_afterwards() {
    let mut scene = Scene::new(Some(100.0), 4);
    let mut reasons = Vec::new();
    for away in [0, 2, 0] {
        scene.away = away;
        // As much arrives and is handled as before: half of it is not seen.
        reasons.extend((0..14).map(|_| scene.cycle(250, 250).reason));
    }
    assert_eq!(scene.steps, [], "{reasons:?}");
    assert!(reasons[16..28].iter().all(|reason| *reason == Reason::LagUnknown), "{reasons:?}");
}

#[test]
fn a_clock_that_jumps_decides_nothing() {
    for jump in [Duration::from_hours(1), Duration::ZERO] {
        let mut scene = Scene::new(Some(100.0), 3);
        for _ in 0..4 {
            scene.cycle(100, 100);
        }
        // An hour in one cycle, or none at all.
        scene.at = if jump.is_zero() { scene.at.saturating_sub(CYCLE * 2) } else { scene.at + jump };
        let decision = scene.cycle(100, 100);
        assert_eq!(decision.reason, Reason::ObservationGap, "{}", decision.message);
        assert_eq!(scene.steps, [], "an hour of quiet was not watched");
    }
}

#[test]
fn a_topic_that_is_created_anew_under_load_takes_nothing_away() {
    let mut scene = Scene::new(Some(100.0), 3);
    for _ in 0..30 {
        scene.cycle(350, 350);
    }
    let before = scene.steps.clone();
    // The new log is short, and what was committed of the old one lies beyond it.
    scene.end = 10;
    let decision = scene.look_again();
    assert_eq!((decision.reason, decision.is_step()), (Reason::LagUnknown, false), "{}", decision.message);
    scene.committed = None;
    for _ in 0..6 {
        scene.cycle(350, 0);
    }
    assert_eq!(scene.steps.iter().filter(|(from, to)| to < from).count(), 0, "{before:?} became {:?}", scene.steps);
}
