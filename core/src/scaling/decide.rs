//! The ordered chain of rules. The first that applies decides.

use std::time::Duration;

use super::downstream::Ineffective;
use super::history::soon;
use super::need::{Load, effective, useful, useful_below, whole};
use super::situation::{Situation, Unsettled};
use super::{Decision, Limit, Mode, Objective, Policy, Terms};
use crate::reason::Reason;

/// What a rule says: replicas, reason, message.
type Verdict = (u32, Reason, String);
type Rule = fn(&Policy, &Situation) -> Option<Verdict>;

/// Who may decide at all, whether the numbers can be trusted, then the numbers.
const CHAIN: &[Rule] = &[
    off,
    paused,
    scaled_to_zero,
    by_hand,
    outside_bounds,
    gap,
    nothing_known,
    unsettled,
    measuring,
    too_many_for_downstream,
    up,
    up_without_capacity,
    hot_partition,
    down,
    down_without_capacity,
];

/// An arrival below this part of an earlier one is another load.
const LESS: f64 = 0.7;
/// Taking away less than one replica in so many is hardly worth that partitions move: it waits until more can go, …
const WORTH_IT: u32 = 5;
/// … for so many windows, …
const PATIENT: u32 = 12;
/// … and no longer than this.
const PATIENCE: Duration = Duration::from_hours(1);
/// From so many times its share on, it is worth saying that the busiest replica has more to do than others.
pub const UNEVEN: f64 = 1.1;

/// Judges a situation. The same situation always gives the same decision.
pub fn decide(policy: &Policy, now: &Situation) -> Decision {
    let (desired, mut reason, mut message) =
        CHAIN.iter().find_map(|rule| rule(policy, now)).unwrap_or_else(|| within_band(policy, now));
    if let Some(why) = too_short(policy, now) {
        message = format!("{message}; {why}: raise it");
        if reason == Reason::WithinBand {
            reason = Reason::ObjectiveTooShort;
        }
    }
    let terms = Terms {
        arrival: now.load.map(|load| load.arrival),
        capacity: now.capacity.known(),
        backlog: now.load.map(|load| load.backlog),
        need: now.need.map(|need| need.aim),
        imbalance: now.imbalance,
    };
    let limit = limit(policy, now, desired, reason);
    Decision { current: now.replicas, desired, reason, message, terms, limit }
}

fn limit(policy: &Policy, now: &Situation, desired: u32, reason: Reason) -> Option<Limit> {
    let ceiling = ceiling(policy, now);
    let clamped = desired >= ceiling && now.need.is_some_and(|need| whole(need.aim) > ceiling);
    match reason {
        Reason::StepIneffective => Some(Limit::Downstream),
        Reason::AtMaximum | Reason::BelowNeed | Reason::CapacityUnknown if clamped || reason == Reason::AtMaximum => {
            Some(if ceiling < policy.max { Limit::Partitions } else { Limit::Max })
        }
        _ => None,
    }
}

/// Why the promise cannot be kept whatever the replicas.
fn too_short(policy: &Policy, now: &Situation) -> Option<String> {
    let Objective::Age(age) = policy.objective else { return None };
    let seen = policy.cycle * 2 + policy.commit_interval;
    if age < seen {
        let (age, seen) = (time(age), time(seen));
        return Some(format!("{seen} pass until a message that waits is seen, more than the promised {age}"));
    }
    let (change, age) = (time(now.change), time(age));
    let slow = now.need.is_some_and(|need| need.too_short);
    slow.then(|| format!("a change of replicas takes {change}, not less than the promised {age}"))
}

fn hold(now: &Situation, reason: Reason, message: impl Into<String>) -> Verdict {
    (now.replicas, reason, message.into())
}

fn off(policy: &Policy, now: &Situation) -> Option<Verdict> {
    let says = "spec.scaling.mode is Off: the lag is watched, the replicas are left alone";
    (policy.mode == Mode::Off).then(|| hold(now, Reason::ScalingOff, says))
}

fn paused(policy: &Policy, now: &Situation) -> Option<Verdict> {
    if policy.paused { Some(hold(now, Reason::Paused, "the object is paused")) } else { None }
}

fn scaled_to_zero(policy: &Policy, now: &Situation) -> Option<Verdict> {
    if now.replicas > 0 || policy.min == 0 {
        return None;
    }
    Some(hold(now, Reason::ScaledToZero, "the target was set to 0 replicas; set it to at least 1 to resume scaling"))
}

fn by_hand(_: &Policy, now: &Situation) -> Option<Verdict> {
    let (left, twice) = now.by_hand?;
    let (n, left) = (now.replicas, time(left));
    if twice {
        let message = format!(
            "something else set the replicas twice, now to {n}; left alone for {left}: \
             remove replicas from what deploys the target, or remove its other autoscaler"
        );
        return Some(hold(now, Reason::ReplicasContested, message));
    }
    Some(hold(now, Reason::ScaledByHand, format!("{n} replicas were set by something else; respected for {left}")))
}

/// The bounds are the user's own words: they hold whatever is known about the lag.
fn outside_bounds(policy: &Policy, now: &Situation) -> Option<Verdict> {
    let n = now.replicas;
    if n < policy.min {
        return Some((
            policy.min,
            Reason::BelowMinimum,
            format!("{n} replicas are below the minimum of {}", policy.min),
        ));
    }
    if n < policy.least() {
        let least = policy.least();
        let message = format!("{n} replicas; a schedule asks for at least {least} at this time");
        return Some((least, Reason::ScheduledMinimum, message));
    }
    if n > policy.max {
        return Some((
            policy.max,
            Reason::AboveMaximum,
            format!("{n} replicas are above the maximum of {}", policy.max),
        ));
    }
    None
}

fn gap(_: &Policy, now: &Situation) -> Option<Verdict> {
    if now.gap {
        Some(hold(now, Reason::ObservationGap, "nothing was seen for several cycles; watching again first"))
    } else {
        None
    }
}

fn nothing_known(_: &Policy, now: &Situation) -> Option<Verdict> {
    if !now.all_unknown {
        return None;
    }
    let why = now.unknown.clone().unwrap_or_else(|| "the group has no partitions".into());
    Some(hold(now, Reason::LagUnknown, why))
}

fn unsettled(_: &Policy, now: &Situation) -> Option<Verdict> {
    let (why, left) = now.unsettled.as_ref()?;
    let (reason, why) = match why {
        Unsettled::Rollout(why) => (Reason::Rollout, why),
        Unsettled::Group(why) => (Reason::Settling, why),
    };
    Some(hold(now, reason, format!("{why}; waiting for at most {}", time(*left))))
}

fn measuring(_: &Policy, now: &Situation) -> Option<Verdict> {
    if now.load.is_some() {
        None
    } else {
        Some(hold(now, Reason::Measuring, "two observations make a rate; this is the first"))
    }
}

/// The most replicas that can work: the user's maximum, or one per partition.
fn ceiling(policy: &Policy, now: &Situation) -> u32 {
    policy.max.min(now.partitions).max(policy.least())
}

/// What a step up did not bring is taken back: the fewer replicas handle as much.
fn too_many_for_downstream(policy: &Policy, now: &Situation) -> Option<Verdict> {
    let (_, step) = now.downstream?;
    let desired = step.enough.max(policy.least());
    if desired >= now.replicas {
        return None;
    }
    let waited = now.watched_for.min(now.unchanged_for.unwrap_or(now.watched_for));
    // If it is not busy any more, what limited does so no more: then the numbers decide.
    if waited < policy.window || now.unknown.is_some() || policy.keep || !now.busy {
        return None;
    }
    Some(shrink(policy, now, desired, Reason::StepIneffective, format!("{}: taken back", nothing_brought(&step))))
}

fn nothing_brought(step: &Ineffective) -> String {
    format!(
        "the last step up brought {} of {} msg/s: something other than replicas limits",
        number(step.brought),
        number(step.predicted)
    )
}

/// No two consumers can have a partition.
fn hot_partition(_: &Policy, now: &Situation) -> Option<Verdict> {
    let (first, others) = now.hot.split_first()?;
    now.broken.filter(|broken| *broken > 0)?;
    let more = if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) };
    let message = format!(
        "more arrives at {}/{}{more} than one consumer can handle, and no partition has two: adding replicas does not help; more \
         partitions, or a key that spreads better, do",
        first.topic, first.partition
    );
    Some(hold(now, Reason::HotPartition, message))
}

fn up(policy: &Policy, now: &Situation) -> Option<Verdict> {
    let (need, load, capacity) = (now.need?, now.load?, per_replica(now)?);
    // With a replica for each partition, what is beyond all of them shows that even so many are too few.
    let too_much = now.capacity.known().is_some_and(|rate| load.arrival > rate * f64::from(now.partitions));
    let behind = load.beyond > 0.0 && now.broken > Some(0) && now.hot.is_empty();
    let spent = now.replicas >= now.partitions && (too_much || behind);
    if effective(now.replicas, now.partitions) >= need.least && !spent {
        return None;
    }
    let urgent = load.growing.unwrap_or_default().max(load.urgent);
    let waiting = match (load.backlog >= 1.0, urgent >= 1.0) {
        (true, true) => format!(" and {} waiting, which must not grow older,", number(load.backlog)),
        (true, false) => format!(" and {} waiting", number(load.backlog)),
        (false, _) => String::new(),
    };
    let hottest = if need.hottest && load.skew < UNEVEN { ", the hottest partitions in one," } else { "" };
    let words = format!("{} msg/s{waiting} at {capacity}{}{hottest} need", number(load.arrival), uneven(load));
    Some(grow(policy, now, useful(whole(need.aim), now.partitions), Reason::BelowNeed, &words))
}

fn up_without_capacity(policy: &Policy, now: &Situation) -> Option<Verdict> {
    if now.capacity.known().is_some() || !now.worsening {
        return None;
    }
    let words = format!(
        "{} messages break the promise and do not become fewer; the capacity of a replica is not known yet, doubling to",
        now.broken.unwrap_or_default()
    );
    let doubled = useful(now.replicas.saturating_mul(2), now.partitions);
    Some(grow(policy, now, doubled, Reason::CapacityUnknown, &words))
}

fn grow(policy: &Policy, now: &Situation, wanted: u32, reason: Reason, words: &str) -> Verdict {
    let ceiling = ceiling(policy, now);
    let next = useful(now.replicas.saturating_add(1), now.partitions);
    let wanted = wanted.max(next);
    if let Some((left, step)) = now.downstream.filter(|(_, step)| now.replicas >= step.enough) {
        let message = format!("{}; the next step waits {}", nothing_brought(&step), time(left));
        return hold(now, Reason::StepIneffective, message);
    }
    if now.replicas >= ceiling {
        let limit = if ceiling < policy.max {
            format!("no more than {} can have partitions", now.partitions)
        } else {
            format!("the maximum is {ceiling}")
        };
        return hold(now, Reason::AtMaximum, format!("{words} {}; {limit}", wanted.max(whole(need_of(now)))));
    }
    if now.fruitless {
        let message = "nothing was committed since the last step up: more replicas do not help; look at the consumers";
        return hold(now, Reason::StepIneffective, message);
    }
    if now.judging {
        return hold(now, Reason::Settling, format!("{words} {wanted}; waiting to see what the last step brought"));
    }
    if now.asked < 2 {
        return hold(now, Reason::Confirming, format!("{words} {wanted}; the next cycle has to confirm it"));
    }
    // One that shows whether more help by now.
    let trial = now.suspects_downstream.then_some(next);
    let most = now.downstream.map(|(_, step)| step.enough).or(trial).unwrap_or(u32::MAX);
    let desired = wanted.min(ceiling).min(most);
    let limited = if desired < wanted { format!("; limited to {desired}") } else { String::new() };
    (desired, reason, format!("{words} {wanted}{limited}"))
}

fn need_of(now: &Situation) -> f64 {
    now.need.map(|need| need.aim).unwrap_or_default()
}

fn down(policy: &Policy, now: &Situation) -> Option<Verdict> {
    now.capacity.known()?;
    let (arrival, need) = (now.most_arrival?, now.most_need?);
    let n = now.replicas;
    let fitting = |need: f64| useful(whole(need).max(1), now.partitions).min(policy.max).max(policy.least());
    // What counts is whole, useful replicas: too many by the formula may still be the fewest that do.
    let enough_now = now.need.is_some_and(|need| fitting(need.lasting) >= n);
    if n <= policy.least() || enough_now {
        return None;
    }
    let desired = fitting(need);
    if let Some(held) = kept(policy, now, desired).or_else(|| not_yet(policy, now, policy.window)) {
        return Some(held);
    }
    if desired >= n {
        return None;
    }
    // A load that fell leaves the window bit by bit: one change of replicas is enough for it.
    let since_possible = now.unchanged_for.map(|unchanged| unchanged.saturating_sub(policy.window));
    let bounded = since_possible.map_or(now.fewer_for, |since| since.min(now.fewer_for)) < soon(policy);
    if let Some(soon) = now.coming_need.map(fitting).filter(|soon| *soon < desired && bounded) {
        let says = format!("{desired} replicas would do, and soon {soon}; waiting for that");
        return Some(hold(now, Reason::WindowNotOver, says));
    }
    let patience = (policy.window * PATIENT).min(PATIENCE);
    let little = (n - desired).saturating_mul(WORTH_IT) < n;
    if let Some(left) = patience.checked_sub(now.fewer_for).filter(|left| little && !left.is_zero()) {
        let says = format!("{desired} replicas would do; to save so little waits {}, or until fewer do", time(left));
        return Some(hold(now, Reason::LittleToSave, says));
    }
    let words = format!(
        "at most {} msg/s in the last {} at {} need {desired}",
        number(arrival),
        time(policy.window),
        per_replica(now)?
    );
    Some(shrink(policy, now, desired, Reason::AboveNeed, words))
}

fn down_without_capacity(policy: &Policy, now: &Situation) -> Option<Verdict> {
    if now.capacity.known().is_some() || now.replicas <= policy.least() {
        return None;
    }
    let below = useful_below(now.replicas, now.partitions);
    // What was too few at about this arrival is not tried again.
    let known_too_few =
        |(replicas, arrival)| below <= replicas && now.most_arrival.unwrap_or(arrival) >= arrival * LESS;
    if now.broke.is_some_and(known_too_few) {
        return None;
    }
    let quiet = policy.window * 2;
    let desired = below.max(policy.least());
    if let Some(held) = kept(policy, now, desired).or_else(|| not_yet(policy, now, quiet)) {
        return Some(held);
    }
    if desired >= now.replicas {
        return None;
    }
    let words = format!("nothing waited for {}; the capacity of a replica is not known, one step down", time(quiet));
    Some(shrink(policy, now, desired, Reason::QuietWithoutCapacity, words))
}

/// Fewer replicas would do, and the user keeps them.
fn kept(policy: &Policy, now: &Situation, desired: u32) -> Option<Verdict> {
    let says = format!("{desired} replicas would do; spec.scaling.scaleDown.disabled keeps {}", now.replicas);
    (policy.keep && desired < now.replicas).then(|| hold(now, Reason::ScaleDownDisabled, says))
}

/// By no more than the user takes away at once.
fn shrink(policy: &Policy, now: &Situation, desired: u32, reason: Reason, words: String) -> Verdict {
    let nearest = policy.max_step.map_or(0, |step| now.replicas.saturating_sub(step.max(1)));
    if desired >= nearest {
        return (desired, reason, words);
    }
    (nearest, reason, format!("{words}; at most {} at a time are taken away", now.replicas - nearest))
}

/// What stands against fewer replicas although fewer might do.
fn not_yet(policy: &Policy, now: &Situation, quiet: Duration) -> Option<Verdict> {
    if let Some(why) = &now.unknown {
        return Some(hold(now, Reason::LagUnknown, format!("no step down while something is unknown: {why}")));
    }
    if now.full {
        return Some(hold(now, Reason::Draining, "the busiest replica is busy all the time"));
    }
    if !now.quiet {
        let waiting = number(now.load.map(|load| load.backlog).unwrap_or_default());
        let broken = now.broken.unwrap_or_default();
        return Some(hold(
            now,
            Reason::Draining,
            format!("{waiting} messages wait, {broken} of them break the promise"),
        ));
    }
    let without_capacity = now.capacity.known().is_none();
    let waited = [Some(now.watched_for), now.unchanged_for, without_capacity.then_some(now.quiet_for)];
    let shortest = waited.into_iter().flatten().min().unwrap_or_default();
    let window = if without_capacity { quiet } else { policy.window };
    let left = window.checked_sub(shortest).filter(|left| !left.is_zero())?;
    Some(hold(now, Reason::WindowNotOver, format!("fewer replicas may do; decided in {} if it stays so", time(left))))
}

fn within_band(_: &Policy, now: &Situation) -> Verdict {
    let n = match now.replicas {
        1 => "1 replica".to_owned(),
        n => format!("{n} replicas"),
    };
    let fit = if now.replicas == 1 { "fits" } else { "fit" };
    let keep = if now.replicas == 1 { "keeps" } else { "keep" };
    let message = match (now.load, per_replica(now)) {
        (Some(load), Some(capacity)) => {
            let slow = if load.beyond >= 1.0 && now.broken > Some(0) {
                format!(
                    "; {} messages wait that one consumer for each partition cannot work off in time",
                    number(load.beyond)
                )
            } else {
                String::new()
            };
            format!("{n} {fit} {} msg/s at {capacity}{slow}", number(load.arrival))
        }
        (Some(load), None) => {
            format!(
                "{n} {keep} the promise at {} msg/s; the capacity of a replica is not known yet",
                number(load.arrival)
            )
        }
        (None, _) => format!("{n} stay as they are"),
    };
    (now.replicas, Reason::WithinBand, message)
}

/// The capacity in words, with its source.
fn per_replica(now: &Situation) -> Option<String> {
    let rate = now.capacity.known()?;
    Some(format!("{} per replica ({})", number(rate), now.capacity.source()))
}

/// What the busiest replica adds to the need, if it is much.
fn uneven(load: Load) -> String {
    if load.skew < UNEVEN {
        String::new()
    } else {
        format!(", of which the busiest has {:.1} times its share,", load.skew)
    }
}

/// A rate or a count for a person: whole from ten on.
fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn time(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        seconds if seconds >= 120 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}
