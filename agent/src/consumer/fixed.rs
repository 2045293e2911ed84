//! What stays as it is for as long as a consumer lives, and comes from the service alone.

use rdkafka::config::ClientConfig;

use super::breaker::DeadLetterBreaker;
use super::ordering::Ordering;
use crate::error::Error;
use crate::options::Options;

/// The property that bounds librdkafka's own queue.
const QUEUE: &str = "queued.max.messages.kbytes";
/// The property that makes a static member.
const INSTANCE: &str = "group.instance.id";
/// Kafka's limit.
const MAX_ID: usize = 249;
/// How much memory a consumer may be given.
const MEMORY_MIB: std::ops::RangeInclusive<usize> = 8..=65_536;
const MIB: usize = 1024 * 1024;
/// Of the memory, librdkafka's own queue gets one part in so many.
const QUEUE_SHARE: usize = 5;
/// So many times what is in its queue may librdkafka occupy: that is what it sets aside for a compressed batch before it knows how large
/// the batch is.
const SET_ASIDE: usize = 4;
/// librdkafka's limit for its queue.
const MAX_QUEUE_KIB: usize = 2_097_151;

/// A place in a consumer group that outlives the process that has it. Given with
/// [`Options::static_membership`](crate::Options::static_membership).
///
/// Whoever joins the group with the same id within `sessionTimeoutMs` gets the partitions that the id had, and no other member
/// notices: after a crash, and when the agent joins again with another configuration. The price: after a crash that nobody follows, the
/// partitions are unowned for that long, as they are with dynamic members. Two processes with one id would take the place from each
/// other; the one that loses it ends with [`ConsumeError::Fatal`](crate::ConsumeError::Fatal).
///
/// A consumer that is closed or drained leaves the group nevertheless, so that its partitions move at once: SIGTERM cannot tell a
/// process that comes back from one that was scaled in. [`StaticMember::stay_after_close`] is for those that know.
///
/// ```
/// use mq_agent::{Options, StaticMember};
///
/// // The name of a pod of a StatefulSet stays the same, as its ordinal does.
/// let options = Options::in_pod().static_membership(StaticMember::new("orders-0"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticMember {
    id: String,
    stays: bool,
}

impl StaticMember {
    /// The place with this id (`group.instance.id`): up to 249 letters, digits, `.`, `_` and `-`, one of its own in the group.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), stays: false }
    }

    /// Keeps the place after a close or a drain too, for a process with the same id that follows within `sessionTimeoutMs`, as in a
    /// rolling update. Until then, and if none follows, nobody reads its partitions for that long.
    ///
    /// ```
    /// let member = mq_agent::StaticMember::new("orders-0").stay_after_close();
    /// ```
    #[must_use]
    pub fn stay_after_close(mut self) -> Self {
        self.stays = true;
        self
    }

    fn check(&self) -> Result<(), Error> {
        let fits = |character: char| character.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&character);
        if !self.id.is_empty() && self.id.len() <= MAX_ID && self.id.chars().all(fits) {
            return Ok(());
        }
        let detail = format!(
            "the id of the static member, {:?}, is not one: use up to {MAX_ID} letters, digits, '.', '_' and '-'",
            self.id
        );
        Err(Error::InvalidConfig { detail })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Fixed {
    pub(super) ordering: Ordering,
    pub(super) breaker: DeadLetterBreaker,
    member: Option<StaticMember>,
    memory: usize,
}

impl Fixed {
    pub(super) fn of(options: &Options) -> Result<Self, Error> {
        let Options { ordering, dead_letter_breaker: breaker, member, memory_mib, .. } = options;
        if let Some(member) = member {
            member.check()?;
        }
        if !MEMORY_MIB.contains(memory_mib) {
            let (least, most) = (MEMORY_MIB.start(), MEMORY_MIB.end());
            let detail = format!("a consumer cannot have {memory_mib} MiB of memory: use {least} to {most}");
            return Err(Error::InvalidConfig { detail });
        }
        Ok(Self { ordering: *ordering, breaker: *breaker, member: member.clone(), memory: memory_mib * MIB })
    }

    /// Bytes of records in hand.
    pub(super) fn max_bytes(&self) -> usize {
        self.memory - self.memory / QUEUE_SHARE
    }

    /// Whether leaving the group takes more than a close.
    pub(super) fn leaves_by_hand(&self) -> bool {
        self.member.as_ref().is_some_and(|member| !member.stays)
    }

    /// What of it librdkafka has to know.
    pub(super) fn configure(&self, config: &mut ClientConfig) {
        let kib = (self.memory / QUEUE_SHARE / SET_ASIDE / 1024).min(MAX_QUEUE_KIB);
        // librdkafka derives `fetch.max.bytes` from it, but takes none from others that is below `message.max.bytes`.
        if config.get(QUEUE).is_none() {
            config.set(QUEUE, kib.to_string());
        }
        if let Some(member) = &self.member {
            config.set(INSTANCE, &member.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rdkafka::consumer::BaseConsumer;

    use super::*;

    fn options() -> Options {
        Options::in_folders(Path::new("/"), Path::new("/"))
    }

    #[test]
    fn memory_is_shared_with_the_queue_of_librdkafka_unless_that_is_overridden() {
        let fixed = Fixed::of(&options().memory_mib(100)).unwrap();
        assert_eq!(fixed.max_bytes(), 80 * MIB);
        let mut config = ClientConfig::new();
        fixed.configure(&mut config);
        assert_eq!((config.get(QUEUE), config.get(INSTANCE)), (Some("5120"), None));
        config.set(QUEUE, "7");
        fixed.configure(&mut config);
        assert_eq!(config.get(QUEUE), Some("7"));
        for memory in [0, 7, 65_537] {
            let error = Fixed::of(&options().memory_mib(memory)).unwrap_err().to_string();
            assert!(error.contains(&format!("{memory} MiB")) && error.contains("8 to 65536"), "{error}");
        }
    }

    #[test]
    fn librdkafka_takes_every_amount_of_memory() {
        for memory in [8, 19, 80, 65_536] {
            for largest in [None, Some("8000000")] {
                let mut config = ClientConfig::new();
                config.set("group.id", "g");
                if let Some(largest) = largest {
                    config.set("message.max.bytes", largest);
                }
                Fixed::of(&options().memory_mib(memory)).unwrap().configure(&mut config);
                let consumer: Result<BaseConsumer, _> = config.create();
                assert!(consumer.is_ok(), "{memory} MiB, {largest:?}: {:?}", consumer.err());
            }
        }
    }

    #[test]
    fn an_id_that_kafka_does_not_take_is_refused_with_the_rule() {
        let of = |id: &str| Fixed::of(&options().static_membership(StaticMember::new(id)));
        assert!(of("orders-0.a_B").is_ok() && of(&"a".repeat(249)).is_ok());
        for id in ["", "a b", "é", &"a".repeat(250)] {
            let error = of(id).unwrap_err().to_string();
            assert!(error.contains("249") && error.contains("static member"), "{error}");
        }
    }
}
