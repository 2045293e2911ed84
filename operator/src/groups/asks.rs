//! What the groups of each target ask for, of whichever Kafka cluster they are.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use mq_core::{effect::ObjectKey, scaling::Ask};
use mq_crds::TargetRef;

/// Namespace, API group, kind and name of a workload: the versions of a kind are the same workloads.
pub(super) type Place = [String; 4];

/// The targets with the groups that are scaled with them. A group that is only observed, or not even that, asks for nothing.
#[derive(Debug, Default)]
pub(super) struct Asks {
    targets: HashMap<Place, BTreeMap<String, Option<(Duration, u32)>>>,
    places: HashMap<ObjectKey, Place>,
}

pub(super) fn place(namespace: &str, target: &TargetRef) -> Place {
    let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
    [namespace, group, &target.kind, &target.name].map(str::to_owned)
}

impl Asks {
    /// From now on the group has a say about `target`; as long as nothing is known of what it needs, nothing is taken away from it.
    pub(super) fn declare(&mut self, group: &ObjectKey, target: Option<&TargetRef>) {
        let place = target.map(|target| place(&group.namespace, target));
        if self.places.get(group) == place.as_ref() {
            return;
        }
        self.withdraw(group);
        if let Some(place) = place {
            self.targets.entry(place.clone()).or_default().insert(group.name.clone(), None);
            self.places.insert(group.clone(), place);
        }
    }

    pub(super) fn withdraw(&mut self, group: &ObjectKey) {
        let Some(place) = self.places.remove(group) else { return };
        if let Some(groups) = self.targets.get_mut(&place) {
            groups.remove(&group.name);
            if groups.is_empty() {
                self.targets.remove(&place);
            }
        }
    }

    /// Notes what the group decided on at `at`; none: it could not decide.
    pub(super) fn tell(&mut self, group: &ObjectKey, at: Duration, replicas: Option<u32>) {
        let Some(place) = self.places.get(group) else { return };
        if let Some(ask) = self.targets.get_mut(place).and_then(|groups| groups.get_mut(&group.name)) {
            *ask = replicas.map(|replicas| (at, replicas));
        }
    }

    /// What the others of the group's target ask for; what is older than `fresh` is not known. Of those about which nothing is known
    /// only the ones count that `declared` says of that they have a say there.
    pub(super) fn others(
        &self,
        group: &ObjectKey,
        at: Duration,
        fresh: Duration,
        declared: impl Fn(&str, &Place) -> bool,
    ) -> Vec<Ask> {
        let Some(place) = self.places.get(group) else { return vec![] };
        let others = self
            .targets
            .get(place)
            .into_iter()
            .flatten()
            .filter(|(name, ask)| **name != group.name && (ask.is_some() || declared(name, place)));
        let known = |ask: &Option<(Duration, u32)>| {
            ask.filter(|(told, _)| at.saturating_sub(*told) <= fresh).map(|(_, replicas)| replicas)
        };
        others.map(|(name, ask)| Ask { group: name.clone(), replicas: known(ask) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> ObjectKey {
        ObjectKey { namespace: "shop".into(), name: name.into(), uid: name.into() }
    }

    fn target(api_version: &str, name: &str) -> TargetRef {
        TargetRef { api_version: api_version.into(), kind: "Deployment".into(), name: name.into() }
    }

    #[test]
    fn groups_hear_of_the_others_of_their_target_alone() {
        const FRESH: Duration = Duration::from_secs(15);
        let at = Duration::from_secs;
        let mut asks = Asks::default();
        let (a, b) = (named("a"), named("b"));
        let (worker, other) = (target("apps/v1", "worker"), target("apps/v1", "other"));
        asks.declare(&a, Some(&worker));
        asks.declare(&b, Some(&target("apps/v1beta1", "worker")));
        asks.declare(&named("c"), Some(&other));
        asks.declare(&named("d"), Some(&target("example.com/v1", "worker")));
        asks.declare(&named("e"), None);
        let of_a = |asks: &Asks, now| asks.others(&a, at(now), FRESH, |_, _| true);
        let ask = |replicas| vec![Ask { group: "b".into(), replicas }];
        assert_eq!(of_a(&asks, 0), ask(None), "it has not decided yet");
        assert_eq!(asks.others(&a, at(0), FRESH, |_, _| false), [], "it was deleted before anything was known of it");
        asks.tell(&b, at(10), Some(7));
        assert_eq!(of_a(&asks, 25), ask(Some(7)));
        assert_eq!(of_a(&asks, 26), ask(None), "that is too long ago");
        asks.declare(&b, Some(&worker));
        assert_eq!(of_a(&asks, 25), ask(Some(7)), "said again, nothing changed");
        asks.tell(&b, at(11), None);
        assert_eq!(of_a(&asks, 11), ask(None), "what it needs is not known any more");
        asks.declare(&b, Some(&other));
        assert_eq!(of_a(&asks, 25), vec![]);
        asks.declare(&b, Some(&worker));
        asks.withdraw(&b);
        assert_eq!(of_a(&asks, 25), vec![]);
    }
}
