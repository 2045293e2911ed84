//! What the groups of each target ask for, of whichever Kafka cluster they are.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use mq_core::{
    effect::ObjectKey,
    scaling::{Ask, Mode},
};
use mq_crds::TargetRef;

use super::DesiredGroup;

/// Namespace and workload.
pub(super) type Place = (String, TargetRef);

/// The targets with the groups that are scaled with them. A group that is only observed, or not even that, asks for nothing.
#[derive(Debug, Default)]
pub(super) struct Asks {
    targets: HashMap<Place, BTreeMap<String, Option<(Duration, u32)>>>,
    places: HashMap<ObjectKey, Place>,
}

/// The target of a group that is scaled.
pub(super) fn place(group: &DesiredGroup) -> Option<Place> {
    let scaling = group.scaling.as_ref()?;
    Some((group.object.namespace.clone(), scaling.target.clone()))
}

impl Asks {
    /// From now on the group has a say; as long as nothing is known of what it needs, nothing is taken away from it.
    pub(super) fn declare(&mut self, group: &DesiredGroup) {
        let place = place(group).filter(|_| group.scaling.as_ref().is_some_and(|scaling| scaling.mode == Mode::Auto));
        if self.places.get(&group.object) == place.as_ref() {
            return;
        }
        self.withdraw(&group.object);
        if let Some(place) = place {
            self.targets.entry(place.clone()).or_default().insert(group.object.name.clone(), None);
            self.places.insert(group.object.clone(), place);
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

    /// What the others of the group's target ask for; what is older than `fresh` is not known.
    pub(super) fn others(&self, group: &ObjectKey, at: Duration, fresh: Duration) -> Vec<Ask> {
        let groups = self.places.get(group).and_then(|place| self.targets.get(place));
        let others = groups.into_iter().flatten().filter(|(name, _)| **name != group.name);
        let known = |ask: &Option<(Duration, u32)>| {
            ask.filter(|(told, _)| at.saturating_sub(*told) <= fresh).map(|(_, replicas)| replicas)
        };
        others.map(|(name, ask)| Ask { group: name.clone(), replicas: known(ask) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::entry::tests::group, *};

    fn named(name: &str, target: &str, mode: Mode) -> DesiredGroup {
        let mut group = group();
        group.object = ObjectKey { name: name.into(), uid: name.into(), ..group.object };
        let scaling = group.scaling.as_mut().unwrap();
        (scaling.target.name, scaling.mode) = (target.into(), mode);
        group
    }

    #[test]
    fn groups_hear_of_the_others_of_their_target_alone() {
        const FRESH: Duration = Duration::from_secs(15);
        let at = Duration::from_secs;
        let mut asks = Asks::default();
        let (a, b) = (named("a", "worker", Mode::Auto), named("b", "worker", Mode::Auto));
        for group in [&a, &b, &named("c", "other", Mode::Auto), &named("d", "worker", Mode::Observe)] {
            asks.declare(group);
        }
        let of_a = |asks: &Asks, now| asks.others(&a.object, at(now), FRESH);
        let ask = |replicas| vec![Ask { group: "b".into(), replicas }];
        assert_eq!(of_a(&asks, 0), ask(None), "it has not decided yet");
        asks.tell(&b.object, at(10), Some(7));
        assert_eq!(of_a(&asks, 25), ask(Some(7)));
        assert_eq!(of_a(&asks, 26), ask(None), "that is too long ago");
        asks.declare(&b);
        assert_eq!(of_a(&asks, 25), ask(Some(7)), "said again, nothing changed");
        asks.declare(&named("b", "other", Mode::Auto));
        assert_eq!(of_a(&asks, 25), vec![]);
        asks.declare(&b);
        asks.withdraw(&b.object);
        assert_eq!(of_a(&asks, 25), vec![]);
    }
}
