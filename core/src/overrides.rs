//! `overrides`: any librdkafka property that has no setting of its own, except those that would take away what mq
//! promises. The list is by name and prefix, with the reason a user is told.

use crate::knobs::{KNOBS, Side};

/// How many properties one client may override.
pub const MAX_COUNT: usize = 50;

/// Longest name of a property, in characters.
pub const MAX_NAME: usize = 100;

pub(crate) const DOC: &str = "Other properties of librdkafka by name, for what has no setting here. Refused are \
     properties that have a setting, that belong to the object or to mq (addresses, credentials, group, commits, \
     partitioner, idempotence), and that would run foreign code.";

/// Why a property cannot be overridden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has a setting of its own.
    HasSetting(&'static str),
    /// It would break something; the text completes "it cannot be overridden: …".
    Reserved(&'static str),
}

const ADDRESS: &str = "the brokers and the security protocol come from the MqCluster";
const CREDENTIALS: &str = "TLS and SASL come from the MqCluster and the credentials that the pod mounts";
const CODE: &str = "it would load or run code in the service";
const GROUP: &str = "group and subscription are fields of the MqConsumerGroup";
const MEMBER: &str =
    "it is another one in every process; a service that wants it says so to the agent, see Options::static_membership";
const ASSIGNOR: &str = "all members of a group must use the same rebalance protocol, which mq sets";
const COMMITS: &str = "the agent commits handled records and nothing else; see enableAutoCommit";
const IDEMPOTENCE: &str = "it follows from acks and retryMax";
const PARTITIONER: &str = "another partitioner would send a key to another partition and so break its order";
const ORDER: &str = "messages of one key would change their order";
const DELIVERY: &str = "the agent needs every delivery report and event to know what was sent or handled";
const TRANSACTIONS: &str = "an id shared by all pods of a service would make them fence each other";
const TOPICS: &str = "topics are declared by MqTopic objects";
const MOCK: &str = "messages would go to a simulated cluster and be lost";

/// Names that librdkafka takes as well for a property that has a setting.
const ALIASES: &[(&str, &str)] = &[
    ("request.required.acks", "acks"),
    ("retries", "retryMax"),
    ("queue.buffering.max.ms", "lingerMs"),
    ("compression.codec", "compression"),
];

const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", ADDRESS),
    ("metadata.broker.list", ADDRESS),
    ("security.protocol", ADDRESS),
    ("enable.ssl.certificate.verification", CREDENTIALS),
    ("enable.sasl.oauthbearer.unsecure.jwt", CREDENTIALS),
    ("interceptors", CODE),
    ("opaque", CODE),
    ("default_topic_conf", CODE),
    ("msg_order_cmp", CODE),
    ("internal.termination.signal", CODE),
    ("group.id", GROUP),
    ("group.instance.id", MEMBER),
    ("group.protocol", ASSIGNOR),
    ("group.protocol.type", ASSIGNOR),
    ("group.remote.assignor", ASSIGNOR),
    ("partition.assignment.strategy", ASSIGNOR),
    ("enable.auto.commit", COMMITS),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("offset.store.method", COMMITS),
    ("offset.store.path", COMMITS),
    ("offset.store.sync.interval.ms", COMMITS),
    ("enable.idempotence", IDEMPOTENCE),
    ("partitioner", PARTITIONER),
    ("queuing.strategy", ORDER),
    ("delivery.report.only.error", DELIVERY),
    ("enable.partition.eof", DELIVERY),
    ("enabled_events", DELIVERY),
    ("log.queue", DELIVERY),
    ("transactional.id", TRANSACTIONS),
    ("allow.auto.create.topics", TOPICS),
    ("builtin.features", "it is read-only"),
];

const RESERVED_PREFIXES: &[(&str, &str)] = &[
    ("ssl.", CREDENTIALS),
    ("ssl_", CREDENTIALS),
    ("sasl.", CREDENTIALS),
    ("https.", CREDENTIALS),
    ("plugin.", CODE),
    ("test.mock.", MOCK),
];

/// Everything that is reserved, by reason, for the reference page; prefixes end in `*`.
pub fn reserved() -> Vec<(&'static str, Vec<String>)> {
    let exact = RESERVED.iter().map(|(name, reason)| (*reason, (*name).to_owned()));
    let prefixes = RESERVED_PREFIXES.iter().map(|(prefix, reason)| (*reason, format!("{prefix}*")));
    let callbacks = std::iter::once((CODE, "*_cb".to_owned()));
    let mut groups: Vec<(&'static str, Vec<String>)> = Vec::new();
    for (reason, name) in exact.chain(prefixes).chain(callbacks) {
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, names)) => names.push(name),
            None => groups.push((reason, vec![name])),
        }
    }
    groups
}

/// Whether `name` has the form of a librdkafka property.
pub fn is_property_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_'))
}

/// Why the property `name` cannot be overridden on that side, if so.
pub fn denied(side: Side, name: &str) -> Option<Denied> {
    let setting =
        KNOBS.into_iter().find(|knob| knob.side == side && knob.librdkafka == Some(name)).map(|knob| knob.name);
    let alias = || ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, setting)| *setting);
    if let Some(setting) = setting.or_else(alias) {
        return Some(Denied::HasSetting(setting));
    }
    // Callbacks are pointers; as text they can only crash or be refused.
    let callback = name.ends_with("_cb").then_some(CODE);
    let exact = || RESERVED.iter().find(|(reserved, _)| *reserved == name).map(|(_, reason)| *reason);
    let prefix = || RESERVED_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, reason)| *reason);
    callback.or_else(exact).or_else(prefix).map(Denied::Reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_promise_is_denied() {
        for (name, side) in [
            ("plugin.library.paths", Side::Producer),
            ("ssl.engine.location", Side::Producer),
            ("ssl.providers", Side::Consumer),
            ("sasl.kerberos.kinit.cmd", Side::Consumer),
            ("sasl.password", Side::Producer),
            ("group.id", Side::Consumer),
            ("enable.auto.commit", Side::Consumer),
            ("transactional.id", Side::Producer),
            ("partitioner", Side::Producer),
            ("partitioner_cb", Side::Producer),
            ("bootstrap.servers", Side::Producer),
            ("queuing.strategy", Side::Producer),
            ("test.mock.num.brokers", Side::Producer),
        ] {
            assert!(matches!(denied(side, name), Some(Denied::Reserved(_))), "{name}");
        }
    }

    #[test]
    fn what_has_a_setting_points_to_it() {
        assert_eq!(denied(Side::Producer, "linger.ms"), Some(Denied::HasSetting("lingerMs")));
        assert_eq!(denied(Side::Producer, "queue.buffering.max.ms"), Some(Denied::HasSetting("lingerMs")));
        assert_eq!(denied(Side::Consumer, "session.timeout.ms"), Some(Denied::HasSetting("sessionTimeoutMs")));
    }

    #[test]
    fn the_rest_is_free() {
        for name in ["socket.timeout.ms", "fetch.min.bytes", "client.rack", "debug", "delivery.timeout.ms"] {
            assert_eq!(denied(Side::Consumer, name), None, "{name}");
            assert!(is_property_name(name));
        }
        for name in ["", "Linger.Ms", "a b", "a=b", &"x".repeat(101)] {
            assert!(!is_property_name(name), "{name}");
        }
    }
}
