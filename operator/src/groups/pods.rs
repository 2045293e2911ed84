//! What the pods of a group say of themselves, in the words of decisions, conditions and metrics.

use std::time::Duration;

use mq_core::{
    alert,
    lag::TopicPartition,
    scaling::{UNEVEN, Work},
};
use mq_protocol::{
    limits::MAX_KEY_BYTES,
    message::{Health, HotKey, Standing},
};

use crate::push::index::Said;

/// The sum of what agents say. Not all of them speak in each cycle: how unevenly they are busy is told by the last word of each.
pub(super) fn work(pods: &[Said]) -> Option<Work> {
    let mut news = pods.iter().filter(|said| said.is_news).map(|said| &said.health).peekable();
    news.peek()?;
    let busiest = pods.iter().map(|said| busy(&said.health)).fold(0.0, f64::max);
    let average = average(pods, busy)?;
    let period = pods.iter().map(|said| said.health.period).max()?;
    Some(news.fold(Work { average, busiest, period, ..Work::default() }, |sum, health| Work {
        handled: sum.handled.saturating_add(health.handled),
        busy: sum.busy.saturating_add(health.busy),
        ..sum
    }))
}

/// What tells of records that stand still.
pub(super) fn consumers(pods: &[Said]) -> Vec<alert::Consumer> {
    let standing = pods.iter().filter_map(|said| Some((&said.pod, said.health.standing.as_ref()?)));
    let consumers = standing.map(|(pod, standing)| alert::Consumer {
        pod: pod.clone(),
        oldest: standing.oldest.as_ref().map(|oldest| alert::InHand {
            of: TopicPartition { topic: oldest.topic.as_str().into(), partition: oldest.partition },
            offset: oldest.offset,
            age: oldest.age,
        }),
        held: standing.breaker.as_ref().map(|breaker| breaker.error.clone()),
    });
    consumers.collect()
}

/// Which keys the busiest pod has most of in hand, where the load is uneven.
pub(super) fn hot_keys(pods: &[Said], imbalance: Option<f64>) -> Option<String> {
    imbalance.filter(|imbalance| *imbalance >= UNEVEN)?;
    let Said { pod, health, .. } =
        pods.iter().max_by(|one, other| busy(&one.health).total_cmp(&busy(&other.health)))?;
    let keys: Vec<String> = health.standing.as_ref()?.hot_keys.iter().map(named).collect();
    if keys.is_empty() {
        return None;
    }
    Some(format!("of the {} records that the busiest pod, {pod}, has in hand {}", health.outstanding, keys.join(", ")))
}

/// A key is whatever its producer made of it.
fn named(HotKey { topic, partition, key, records }: &HotKey) -> String {
    let Some(key) = key else { return format!("{records} are of {topic}/{partition}") };
    let shown = key.utf8_chunks().fold(String::new(), |shown, part| {
        format!("{shown}{}{}", part.valid().escape_debug(), part.invalid().escape_ascii())
    });
    let cut = if key.len() < MAX_KEY_BYTES { "" } else { "…" };
    format!("{records} have the key \"{shown}{cut}\" ({topic}/{partition})")
}

/// The part of its time for which a consumer was busy, 0 to 1.
pub(super) fn busy(health: &Health) -> f64 {
    part(health, health.busy)
}

/// This part of the time that it spoke of, 0 to 1.
pub(super) fn part(health: &Health, time: Duration) -> f64 {
    if health.period.is_zero() { 0.0 } else { (time.as_secs_f64() / health.period.as_secs_f64()).min(1.0) }
}

/// The mean of all pods; none of none.
pub(super) fn average(pods: &[Said], of: impl Fn(&Health) -> f64) -> Option<f64> {
    let count = u32::try_from(pods.len()).ok().filter(|count| *count > 0)?;
    Some(pods.iter().map(|said| of(&said.health)).sum::<f64>() / f64::from(count))
}

/// How each of them stands; nothing if one does not say, or if there are none.
pub(super) fn standings(pods: &[Said]) -> Option<Vec<&Standing>> {
    let standings: Option<Vec<_>> = pods.iter().map(|said| said.health.standing.as_ref()).collect();
    standings.filter(|standings| !standings.is_empty())
}

#[cfg(test)]
pub(super) mod tests {
    use mq_protocol::message::OpenBreaker;

    use super::*;

    pub(in crate::groups) fn said(pod: &str, busy: u64, standing: Option<Standing>) -> Said {
        let (period, busy) = (Duration::from_secs(3), Duration::from_millis(busy));
        let health = Health { period, busy, outstanding: 50, standing, ..Health::default() };
        Said { pod: pod.into(), health, is_news: true }
    }

    pub(in crate::groups) fn held(error: &str) -> Standing {
        let breaker = OpenBreaker { open: Duration::from_secs(5), held: 7, error: error.into() };
        Standing { breaker: Some(breaker), ..Standing::default() }
    }

    fn hot(key: Option<&[u8]>, records: u64) -> HotKey {
        let key = key.map(<[u8]>::to_vec).map(Into::into);
        HotKey { topic: "orders".into(), partition: 3, key, records }
    }

    #[test]
    fn the_keys_of_the_busiest_pod_are_named_where_the_load_is_uneven() {
        let keys = |keys| Some(Standing { hot_keys: keys, ..Standing::default() });
        let pods = [
            said("a", 900, keys(vec![hot(Some(b"idle"), 9)])),
            said("b", 2_900, keys(vec![hot(Some("größte".as_bytes()), 41), hot(None, 7)])),
            said("old", 1_000, None),
        ];
        let words = "of the 50 records that the busiest pod, b, has in hand 41 have the key \"größte\" (orders/3), 7 are of orders/3";
        assert_eq!(hot_keys(&pods, Some(1.8)).as_deref(), Some(words));
        assert_eq!(hot_keys(&pods, Some(1.0)), None);
        assert_eq!(hot_keys(&pods, None), None);
        assert_eq!(hot_keys(&pods[..0], Some(1.8)), None);
        assert_eq!(hot_keys(&[said("old", 2_900, None)], Some(1.8)), None);
    }

    #[test]
    fn a_key_is_shown_without_what_could_pass_for_something_else() {
        let shown = |key: &[u8]| named(&hot(Some(key), 2));
        assert_eq!(shown(b"a\"b\n\x1b[0m\xff"), r#"2 have the key "a\"b\n\u{1b}[0m\xff" (orders/3)"#);
        assert_eq!(shown("\u{202e}desrever".as_bytes()), r#"2 have the key "\u{202e}desrever" (orders/3)"#);
        let long = shown(&[b'x'; MAX_KEY_BYTES]);
        assert!(long.ends_with("xx…\" (orders/3)"), "{long}");
    }

    #[test]
    fn how_all_stand_is_known_when_each_one_says() {
        let (new, old) = (said("a", 0, Some(held("no database"))), said("b", 0, None));
        assert_eq!(standings(&[new.clone(), new.clone()]).map(|all| all.len()), Some(2));
        assert_eq!((standings(&[new, old]), standings(&[])), (None, None));
    }
}
