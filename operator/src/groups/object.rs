//! From an `MqConsumerGroup` to a declaration, and from what is known to its status.

use std::time::Duration;

use kube::ResourceExt;
use mq_core::{
    condition::{Condition, ConditionType, Health, Status, Verdict},
    lag::ResetPolicy,
    reason::Reason,
    resolve::ResolvedConsumer,
    scaling::{Mode, Objective},
    settings::AutoOffsetReset,
};
use mq_crds::{MqConsumerGroup, MqConsumerGroupStatus, ScaleDown, Scaling, ScalingMode, is_pattern};
use serde_json::{Value, json};

use super::{DesiredGroup, DesiredScaling, GroupView, schedule::Schedule, topics::Topics};
use crate::{object::key_of, reconcile::Report};

/// The declaration of a group whose settings are valid.
///
/// # Errors
/// What is wrong with `spec.scaling`, for its user.
pub(crate) fn desired(
    object: &MqConsumerGroup,
    settings: &ResolvedConsumer,
    paused: bool,
) -> Result<DesiredGroup, Verdict> {
    let spec = &object.spec;
    let revision = object.status.as_ref().and_then(|status| status.current_revision);
    Ok(DesiredGroup {
        object: key_of(object),
        cluster: spec.cluster.clone(),
        group_id: spec.group_id.clone().unwrap_or_else(|| object.name_any()),
        topics: Topics::read(&spec.topics, super::dead_letters(object))
            .map_err(|message| Verdict::stalled(Reason::InvalidSpec, message))?,
        reset: match settings.auto_offset_reset {
            AutoOffsetReset::Earliest => ResetPolicy::Earliest,
            AutoOffsetReset::Latest => ResetPolicy::Latest,
        },
        commit_interval: Duration::from_millis(settings.auto_commit_interval_ms.into()),
        longest: Duration::from_millis(settings.max_poll_interval_ms.into()),
        config: revision.map(|revision| revision.to_string()).unwrap_or_default(),
        paused,
        scaling: spec.scaling.as_ref().map(scaling).transpose()?,
    })
}

fn scaling(scaling: &Scaling) -> Result<DesiredScaling, Verdict> {
    let invalid = |message: String| Verdict::stalled(Reason::InvalidSpec, message);
    let objective = match (scaling.objective.age, scaling.objective.lag) {
        (Some(age), None) => Objective::Age(age.duration()),
        (None, Some(lag)) => Objective::Lag(u64::try_from(lag).unwrap_or_default()),
        _ => return Err(invalid("spec.scaling.objective must have exactly one of age and lag".into())),
    };
    let count = |n: i32| u32::try_from(n).unwrap_or_default();
    let down = scaling.scale_down.as_ref();
    let schedules = scaling.schedules.iter().zip(0..).map(|(schedule, n)| {
        Schedule::read(schedule).map_err(|why| invalid(format!("spec.scaling.schedules[{n}].{why}")))
    });
    #[expect(clippy::cast_precision_loss, reason = "the schema allows at most 10^9")]
    let capacity = scaling.capacity_per_replica.map(|rate| rate as f64);
    Ok(DesiredScaling {
        target: scaling.target_ref.clone(),
        mode: match scaling.mode {
            ScalingMode::Auto => Mode::Auto,
            ScalingMode::Observe => Mode::Observe,
            ScalingMode::Off => Mode::Off,
        },
        objective,
        min: count(scaling.min_replicas),
        max: count(scaling.max_replicas),
        capacity,
        window: down.map_or(ScaleDown::DEFAULT_WINDOW, |down| down.window).duration(),
        keep: down.is_some_and(|down| down.disabled),
        max_step: down.and_then(|down| down.max_step).map(count),
        schedules: schedules.collect::<Result<_, _>>()?,
    })
}

/// Adds to `report` what is known about the group; as long as nothing is known, what the status says already.
pub(super) fn report(
    object: &MqConsumerGroup,
    view: Option<GroupView>,
    events: Vec<crate::events::Event>,
    report: &mut Report,
) {
    let GroupView { matched, members, lag, scaling, keeping_up, active, problem } = view.unwrap_or_default();
    let stored = object.status.as_ref();
    let patterns = object.spec.topics.iter().any(|topic| is_pattern(topic));
    let matched = matched.or_else(|| stored.and_then(|status| status.matched_topics.clone())).filter(|_| patterns);
    report.status.insert("matchedTopics".into(), matched.map_or(Value::Null, |matched| json!(matched)));
    let members = members.or_else(|| stored.and_then(|status| status.members.clone()));
    report.status.insert("members".into(), members.map_or(Value::Null, |members| json!(members)));
    let lag = lag.or_else(|| stored.and_then(|status| status.lag.clone()));
    report.status.insert("lag".into(), lag.map_or(Value::Null, |lag| json!(lag)));
    report.events.extend(events);
    let before = |kind| stored.and_then(|status| stored_condition(status, kind));
    report.conditions.extend(keeping_up.or_else(|| before(ConditionType::KeepingUp)));
    if object.spec.scaling.is_none() {
        return;
    }
    let scaling = scaling.or_else(|| stored.and_then(|status| status.scaling.clone()));
    report.status.insert("scaling".into(), scaling.map_or(Value::Null, |scaling| json!(scaling)));
    report.conditions.push(active.or_else(|| before(ConditionType::ScalingActive)).unwrap_or_else(waiting));
    if let (Some(problem), Some(Health::Ready)) = (problem, report.verdict.as_ref().map(|verdict| verdict.health)) {
        report.verdict = Some(problem);
    }
}

fn waiting() -> Condition {
    let message = "waiting for the first look at the offsets and at the target".into();
    Condition { kind: ConditionType::ScalingActive, status: Status::Unknown, reason: Reason::Pending, message }
}

/// What an earlier leader said.
fn stored_condition(status: &MqConsumerGroupStatus, kind: ConditionType) -> Option<Condition> {
    let stored = status.conditions.iter().find(|condition| condition.type_ == kind.as_str())?;
    let known = [Status::True, Status::False, Status::Unknown];
    let status = known.into_iter().find(|status| status.as_str() == stored.status)?;
    let reason = Reason::ALL.iter().copied().find(|reason| reason.as_str() == stored.reason)?;
    Some(Condition { kind, status, reason, message: stored.message.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mq_core::{presets::PRESET_VERSION, scaling::Objective};

    fn object(scaling: &Value) -> MqConsumerGroup {
        serde_json::from_value(json!({
            "apiVersion": "mq.infra-kit.io/v1alpha1",
            "kind": "MqConsumerGroup",
            "metadata": {"name": "notifications", "namespace": "shop", "uid": "1"},
            "spec": {"cluster": "main", "topics": ["orders"], "scaling": scaling},
        }))
        .unwrap()
    }

    fn declared(scaling: &Value) -> Result<DesiredGroup, Verdict> {
        let object = object(scaling);
        let invalid =
            |violations: mq_core::resolve::Violations| Verdict::stalled(Reason::InvalidSpec, violations.to_string());
        desired(&object, &object.spec.consumer.resolve(PRESET_VERSION).map_err(invalid)?, false)
    }

    #[test]
    fn declares_what_the_object_says() {
        let spec = json!({
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "objective": {"age": "15s"},
            "maxReplicas": 12,
            "scaleDown": {"window": "20s"},
        });
        let group = declared(&spec).unwrap();
        assert_eq!(group.group_id, "notifications");
        assert_eq!((group.reset, group.commit_interval), (ResetPolicy::Earliest, Duration::from_secs(1)));
        let scaling = group.scaling.unwrap();
        assert_eq!(scaling.objective, Objective::Age(Duration::from_secs(15)));
        assert_eq!((scaling.min, scaling.max, scaling.window), (1, 12, Duration::from_secs(20)));
        assert_eq!(scaling.capacity, None);
    }

    #[test]
    fn refuses_a_schedule_that_is_none_and_names_it() {
        let spec = json!({
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "objective": {"lag": 10},
            "maxReplicas": 12,
            "schedules": [
                {"start": "0 8 * * *", "end": "8h", "minReplicas": 2},
                {"start": "0 8 * * *", "end": "61 8 * * *", "minReplicas": 2},
            ],
        });
        let refused = declared(&spec).unwrap_err();
        assert_eq!((refused.health, refused.reason), (Health::Stalled, Reason::InvalidSpec));
        assert!(refused.message.starts_with("spec.scaling.schedules[1].end \"61 8"), "{}", refused.message);
    }

    #[test]
    fn a_new_leader_keeps_what_the_status_says_until_it_knows_better() {
        let mut object = object(&json!({
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "objective": {"lag": 10},
            "maxReplicas": 12,
        }));
        object.status = serde_json::from_value(json!({
            "lag": {"state": "Known", "messages": 7},
            "scaling": {"current": 2, "desired": 2, "reason": "WithinBand", "message": "fits", "terms": {}},
            "conditions": [{"type": "ScalingActive", "status": "True", "reason": "WithinBand", "message": "fits",
                            "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        }))
        .unwrap();
        let mut said = Report::default();
        report(&object, None, vec![], &mut said);
        assert_eq!(said.status["lag"]["messages"], 7);
        assert_eq!(said.status["scaling"]["current"], 2);
        assert_eq!((said.conditions[0].status, said.conditions[0].reason), (Status::True, Reason::WithinBand));
    }

    #[test]
    fn a_missing_target_outweighs_a_healthy_configuration_and_nothing_worse() {
        let object = object(&json!({
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"},
            "objective": {"lag": 10},
            "maxReplicas": 12,
        }));
        let problem = Verdict::reconciling(Reason::TargetNotFound, "no worker");
        let view = || Some(GroupView { problem: Some(problem.clone()), ..GroupView::default() });
        let well = Verdict::ready(Reason::InSync, "");
        let mut said = Report { verdict: Some(well), ..Report::default() };
        report(&object, view(), vec![], &mut said);
        assert_eq!(said.verdict, Some(problem.clone()));
        let worse = Verdict::stalled(Reason::ClusterNotFound, "");
        let mut said = Report { verdict: Some(worse.clone()), ..Report::default() };
        report(&object, view(), vec![], &mut said);
        assert_eq!(said.verdict, Some(worse));
    }
}
