//! What `kubectl get` shows: is it well, and if not why; then the numbers that matter, declared beside actual.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;

/// A column: its title, type and path. A wide one is shown by `-o wide` only.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    type_: &'static str,
    path: &'static str,
    wide: bool,
}

const fn number(title: &'static str, path: &'static str) -> Column {
    Column { title, type_: "integer", path, wide: false }
}

const fn text(title: &'static str, path: &'static str) -> Column {
    Column { title, type_: "string", path, wide: false }
}

const fn wide(column: Column) -> Column {
    Column { wide: true, ..column }
}

pub(crate) const CLUSTER: &[Column] =
    &[number("Brokers", ".status.brokers"), wide(text("Cluster-ID", ".status.clusterId"))];

pub(crate) const TOPIC: &[Column] = &[
    number("Partitions", ".spec.partitions"),
    number("Actual", ".status.partitions"),
    wide(number("Replication", ".status.replicationFactor")),
    wide(text("Cluster", ".spec.cluster")),
];

pub(crate) const PRODUCER_CONFIG: &[Column] = &[
    number("Revision", ".status.currentRevision"),
    number("Clients", ".status.clients.connected"),
    number("Applied", ".status.clients.applied"),
    wide(text("Cluster", ".spec.cluster")),
];

pub(crate) const CONSUMER_GROUP: &[Column] = &[
    number("Lag", ".status.lag.messages"),
    number("Late", ".status.lag.late"),
    number("Desired", ".status.scaling.desired"),
    number("Replicas", ".status.scaling.current"),
    text("Scaling", ".status.scaling.reason"),
    wide(number("Clients", ".status.clients.connected")),
    wide(number("Applied", ".status.clients.applied")),
    wide(text("Cluster", ".spec.cluster")),
];

/// The columns of every kind around those of one.
pub(crate) fn with_condition(own: &[Column]) -> Vec<CustomResourceColumnDefinition> {
    let before = [
        text("Ready", r#".status.conditions[?(@.type=="Ready")].status"#),
        text("Reason", r#".status.conditions[?(@.type=="Ready")].reason"#),
    ];
    let after = [
        wide(text("Message", r#".status.conditions[?(@.type=="Ready")].message"#)),
        Column { title: "Age", type_: "date", path: ".metadata.creationTimestamp", wide: false },
    ];
    before.iter().chain(own).chain(&after).map(definition).collect()
}

fn definition(column: &Column) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: column.title.to_owned(),
        type_: column.type_.to_owned(),
        json_path: column.path.to_owned(),
        priority: column.wide.then_some(1),
        ..CustomResourceColumnDefinition::default()
    }
}
