//! Every reason that a condition or an event can carry, each with the sentence that documents it.
//!
//! One table: the enum, its names and the reference page come from it, so that no reason is undocumented. Add a reason by adding a
//! line; names are `UpperCamelCase` and never renamed, because alerts and scripts match on them.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Why a condition has its status, or why something was done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            /// All reasons, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The text in `reason` of a condition or an event.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it means and what a user can do.
            pub const fn documentation(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

reasons! {
    // Any kind.
    /// The object was seen and nothing is known about it yet.
    Pending,
    /// Changes are being carried out; the message lists them.
    Progressing,
    /// The annotation `mq.infra-kit.io/paused` of the object or of its `MqCluster` is `true`: nothing is changed until it is removed.
    Paused,
    /// The specification cannot be carried out as written; the message says what to change.
    InvalidSpec,
    /// The stored object does not fit the schema that this operator knows; the message names the field. It stops no other object.
    Undeserializable,
    /// The Kubernetes API refused a change or did not answer; it is tried again.
    KubernetesUnavailable,
    /// `spec.cluster` names no `MqCluster`; create it or correct the name.
    ClusterNotFound,
    /// The Kafka cluster does not answer, so nothing is known and nothing is changed; it is tried again.
    ClusterUnreachable,
    /// No address of a broker can be resolved; the message has the words of the resolver. It is tried again.
    AddressNotResolved,
    /// No broker can be reached by TLS: its certificate is not trusted, has ended or names another host, or it refuses the operator's. It
    /// is tried again.
    TlsFailed,
    /// Kafka refuses the operator's login; the message has its words. Correct the Secret of `MqCluster.spec.admin`; it is tried again.
    AuthenticationFailed,
    /// The `MqCluster` does not grant this name to this namespace; a platform admin can, in `MqCluster.spec.namespaces`.
    NotGranted,
    /// Something else owns this name or has other settings; the message lists the differences. Nothing was overwritten.
    ResourceConflict,
    /// Kafka refused a change for good; the message has its words. It is tried again at each cycle.
    RefusedByKafka,
    /// The operator's Kafka user lacks the right to see or change this.
    NotAuthorized,

    // MqCluster.
    /// The Kafka cluster answers.
    Connected,
    /// The Secret of `spec.admin` is missing or may not be read. An operator that had read it before goes on with what it read.
    CredentialsNotFound,
    /// The Secret of `spec.admin` lacks a key, or its data cannot be used; the message says which. As long as it is so, the operator goes on
    /// with what it had read before.
    CredentialsInvalid,
    /// The brokers belong to another Kafka cluster than the one recorded in `status.clusterId`; nothing is changed there.
    WrongCluster,

    // MqTopic: states.
    /// The topic is as declared.
    InSync,
    /// Kafka answered only in part about this topic, so nothing is changed; it is asked again.
    PartialObservation,
    /// The topic has more partitions than declared; Kafka cannot remove partitions. Raise `spec.partitions`.
    PartitionsCannotShrink,
    /// The replication factor differs from the declared one; this version does not move replicas.
    ReplicationFactorDiffers,
    /// The topic was deleted and created again by someone else; its records are other records. `spec.adoption: Always` accepts it.
    TopicRecreated,
    /// A delete waits because the topic holds records; `spec.forceDelete: <topic name>` deletes them.
    TopicNotEmpty,
    /// A delete waits because a consumer group uses the topic; `spec.forceDelete: <topic name>` deletes it anyway.
    TopicInUse,

    // MqProducerConfig and MqConsumerGroup: configuration.
    /// Every connected client runs the revision in force.
    Applied,
    /// No client is connected; one that connects gets the revision in force.
    NoClients,
    /// A client refused the newest revision, so it was taken back everywhere; the message has the client's words. Edit the object. One that
    /// failed only to reach the brokers is tried again, and is not stalled: after a minute, then two, up to half an hour.
    RejectedByClient,
    /// A new revision of the resolved configuration is in force.
    RevisionCreated,

    // MqTopic: what was done.
    /// A topic was created.
    TopicCreated,
    /// An existing topic was taken over.
    TopicAdopted,
    /// Partitions were added.
    TopicGrown,
    /// Configuration was changed as declared.
    TopicConfigChanged,
    /// Someone changed the topic's configuration outside of the object; the declared value was set again.
    DriftRepaired,
    /// Somebody else undoes each repair of a drift, so that repairs become rare; find who writes the key, or declare what they write.
    DriftContested,
    /// A topic that the object owned has vanished from Kafka with its records; an empty one is created in its place.
    TopicVanished,
    /// A topic was deleted because its object was.
    TopicDeleted,
    /// The object was deleted and its topic stays in Kafka; the message says why.
    TopicKept,

    // MqConsumerGroup: does it keep up.
    /// Nothing is lost, in danger, stuck or later than promised.
    KeepsUp,
    /// Messages break the promise of `spec.scaling.objective`.
    ObjectiveBreached,
    /// In a partition something waits and nothing was committed for five minutes, and for four times the promised age.
    PartitionStuck,
    /// So many records failed in a consumer that something seems broken which all of them need: it holds them instead of sending dead
    /// letters. The message names the pods and what their handlers said.
    DeadLettersHeld,
    /// Partitions are stuck because a transaction is not ended and the group reads committed records alone: find and abort it with
    /// `kafka-transactions.sh`.
    TransactionOpen,
    /// What the group had committed expired or was deleted, so it begins anew: with everything that is still there, or at the end.
    OffsetsForgotten,
    /// Records that are not consumed go with the next segment that retention deletes. Consume faster or keep them longer.
    RetentionThreatens,
    /// Retention deleted records before the group consumed them.
    RecordsLost,

    // MqConsumerGroup: who may decide about replicas, in the order of the chain.
    /// `spec.scaling.mode` is `Off`: the lag is watched, nothing is decided.
    ScalingOff,
    /// `spec.scaling.mode` is `Observe`: what would be done is said and not done. `status.scaling` has it.
    ScalingObserved,
    /// `scaling.targetRef` names no workload; create it or correct the name. Scaling begins when it is there.
    TargetNotFound,
    /// The operator may not see or scale the target; the message has the rule that its role lacks. With the chart, name the resource in
    /// `rbac.targets`.
    TargetForbidden,
    /// The target's kind has no subresource `scale`, or belongs to no namespace; name a workload that can be scaled.
    TargetNotScalable,
    /// The target has zero replicas although the minimum is higher: somebody switched it off, it stays off.
    ScaledToZero,
    /// Somebody else changed the replicas twice in a short time; the operator keeps its hands off.
    ReplicasContested,
    /// Somebody else changed the replicas; that is respected for one window.
    ScaledByHand,
    /// Fewer replicas than the minimum.
    BelowMinimum,
    /// Fewer replicas than a schedule asks for at this time.
    ScheduledMinimum,
    /// More replicas than the maximum.
    AboveMaximum,
    /// Nothing was seen for several cycles, so rates are not to be trusted yet.
    ObservationGap,
    /// The lag is not known; the replicas stay.
    LagUnknown,
    /// The target is being rolled out, or not all of its pods are ready.
    Rollout,
    /// The group has not yet settled on the present replicas.
    Settling,
    /// Too few observations for a rate.
    Measuring,
    /// More replicas are needed than the maximum or the partitions allow.
    AtMaximum,
    /// More replicas seem to be needed; the next cycle has to confirm it.
    Confirming,
    /// The last step up brought next to nothing: it is taken back, and another one waits for a time, or until anything is committed at all.
    StepIneffective,
    /// More waits in a partition than one replica can work off in time, and only one can have it: adding replicas does not help. The
    /// message names it; keys that spread better, or more partitions, do.
    HotPartition,
    /// Fewer replicas than needed.
    BelowNeed,
    /// Another group on the same target asks for more replicas than this one, or what it needs is not known: the most counts.
    AnotherGroupNeedsMore,
    /// The promise is broken and the capacity of a replica is not known: the replicas are doubled.
    CapacityUnknown,
    /// A backlog is being worked off, or the busiest replica has no time left; replicas stay until that is over.
    Draining,
    /// Fewer replicas would do, but `spec.scaling.scaleDown.disabled` keeps them.
    ScaleDownDisabled,
    /// Fewer replicas would do, but the window of quiet is not over.
    WindowNotOver,
    /// Fewer replicas would do, but not by a fifth: that waits for up to twelve windows, at most an hour, until more can go.
    LittleToSave,
    /// More replicas than needed in the whole window.
    AboveNeed,
    /// Two windows were quiet and the capacity of a replica is not known: one step down.
    QuietWithoutCapacity,
    /// The replicas are enough and not too many.
    WithinBand,
    /// A change of replicas takes longer than the promised age, or two looks at the offsets and a commit do, so the promise breaks before it
    /// can be kept; raise `objective.age`.
    ObjectiveTooShort,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_is_documented_and_fits_kubernetes() {
        let mut names = BTreeSet::new();
        for reason in Reason::ALL {
            assert!(names.insert(reason.as_str()), "{} twice", reason.as_str());
            assert!(reason.documentation().trim().ends_with(['.', '!']), "{}: not a sentence", reason.as_str());
            assert!(reason.as_str().len() <= 128);
            assert!(reason.as_str().chars().all(|c| c.is_ascii_alphanumeric()));
            assert!(reason.as_str().starts_with(|c: char| c.is_ascii_uppercase()));
        }
    }
}
