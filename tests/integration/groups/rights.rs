//! What the operator sees of groups at a broker that authorizes: as much as it was granted, and what it does not see is not known.

use anyhow::{Context, Result, ensure};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use mq_crds::{LagState, MqCluster, MqConsumerGroupStatus};
use mq_testkit::{
    AUTHORIZING,
    Operation::{Describe, Read},
    OwnBroker, Resource, unique, wait_until,
};
use serde_json::json;

use super::{
    condition,
    odd::{noted, transact, watched},
    world::{SOON, World},
};
use crate::secure::{SECRET, write_secret};

/// An operator that comes to a broker as a user who may do nothing.
struct Scene {
    world: World,
    own: OwnBroker,
    user: String,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new(base: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let own = OwnBroker::configured(folder.path(), AUTHORIZING).await?;
        let operators = crate::crds::installed().await?.client()?;
        let mut world = World::without_operator(base, operators, own.kafka.clone(), "15s").await?;
        let secure = own.kafka.secure()?;
        let user = &secure.users[0];
        let namespace = world.namespace.name();
        let login = [("username", user.username.as_str()), ("password", user.password.as_str())];
        write_secret(&world.client, namespace, &login).await?;
        let spec = json!({
            "brokers": [secure.sasl_plaintext], "securityProtocol": "SASL_PLAINTEXT", "sasl": {"mechanism": "PLAIN"},
            "admin": {"credentialsSecretRef": {"name": SECRET}},
        });
        let clusters: Api<MqCluster> = Api::all(world.client.clone());
        clusters.patch(&world.cluster, &PatchParams::default(), &Patch::Merge(&json!({ "spec": spec }))).await?;
        world.start_again()?;
        Ok(Self { user: user.username.clone(), world, own, _folder: folder })
    }

    async fn grant(&self, resource: &Resource, operation: mq_testkit::Operation) -> Result<()> {
        self.own.kafka.grant(&self.user, resource, operation).await
    }

    /// Waits until this is said of a lag that is not known, or not whole.
    async fn unknown(&self, group: &str, state: LagState, words: &str) -> Result<()> {
        let said = |s: &MqConsumerGroupStatus| {
            let lag = s.lag.as_ref().filter(|lag| lag.state == state);
            lag.and_then(|lag| lag.reason.as_ref()).is_some_and(|reason| reason.contains(words))
        };
        let status = self.world.wait_for(group, &format!("its lag is {state:?}: {words}"), said).await?;
        ensure!(condition(&status, "KeepingUp") == ("Unknown", "LagUnknown"), "{status:?}");
        let no_number = self.world.metric("mq_group_lag_messages", group).await.is_err();
        ensure!(no_number || state != LagState::Unknown, "what is not known is no number");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_sees_of_groups_is_what_it_was_granted() -> Result<()> {
    let scene = Scene::new("rights").await?;
    tokio::try_join!(one_by_one(&scene), hidden(&scene))?;
    listed(&scene).await?;
    scene.own.end().await.context("ending the broker")
}

/// A lag needs Describe on topic and group; markers of transactions are told from records with Read, which includes Describe.
async fn one_by_one(scene: &Scene) -> Result<()> {
    let world = &scene.world;
    let (read, unread) = (world.topic(1).await?, world.topic(1).await?);
    let (reads, counts) = (unique("reads"), unique("counts"));
    scene.grant(&Resource::Topic(read.clone()), Read).await?;
    for (group, topic) in [(&reads, &read), (&counts, &unread)] {
        transact(world, topic).await?;
        world.commit(group, topic, &[6]).await?;
        world.declare(group, topic, Some(watched())).await?;
    }
    scene.unknown(&counts, LagState::Unknown, "Describe on this topic").await?;
    scene.unknown(&reads, LagState::Unknown, "Describe on this group").await?;
    scene.grant(&Resource::Topic(unread), Describe).await?;
    for group in [&reads, &counts] {
        scene.grant(&Resource::Group(group.clone()), Describe).await?;
    }
    noted(world, &counts, None, 1).await?;
    noted(world, &reads, Some("from the committed offset to the end there are only markers"), 0).await
}

/// A pattern matches what may be seen; what is hidden later is not known.
async fn hidden(scene: &Scene) -> Result<()> {
    let world = &scene.world;
    let (base, group) = (world.kafka.unique("hidden"), unique("hidden"));
    let [eu, us] = ["eu", "us"].map(|end| format!("{base}.{end}"));
    for topic in [&eu, &us] {
        world.kafka.create_topic(topic, 1).await?;
        world.fill(topic, 1, 5).await?;
    }
    scene.grant(&Resource::Group(group.clone()), Describe).await?;
    world.declare(&group, &format!(r"^{}\.[a-z]+$", base.replace('.', r"\.")), Some(watched())).await?;
    scene.unknown(&group, LagState::Unknown, "no topic of the cluster matches it").await?;
    let eu = Resource::Topic(eu);
    scene.grant(&eu, Describe).await?;
    noted(world, &group, None, 5).await?;
    scene.grant(&Resource::Topic(us), Describe).await?;
    noted(world, &group, None, 10).await?;

    scene.own.kafka.revoke(&scene.user, &eu, Describe).await?;
    scene.unknown(&group, LagState::Estimated, "TopicAuthorizationFailed").await?;
    scene.grant(&Resource::Topics(base), Describe).await?;
    noted(world, &group, None, 10).await
}

/// Groups that no object declares are listed with Describe on them, or on the cluster.
async fn listed(scene: &Scene) -> Result<()> {
    let world = &scene.world;
    let topic = world.topic(1).await?;
    world.fill(&topic, 1, 5).await?;
    let (seen, unseen) = (unique("seen"), unique("unseen"));
    for group in [&seen, &unseen] {
        world.commit(group, &topic, &[2]).await?;
    }
    scene.grant(&Resource::Topic(topic), Describe).await?;
    scene.grant(&Resource::Group(seen.clone()), Describe).await?;
    let until = async |what: &'static str, label: &'static str, value: &str, expected: f64| {
        wait_until(&format!("{what} of {value} is {expected}"), SOON, async || {
            let found = world.series(what, label, value).await?;
            ensure!((found - expected).abs() < 0.5, "it is {found}");
            Ok(())
        })
        .await
    };
    until("mq_kafka_group_lag_messages", "group", &seen, 3.0).await?;
    until("mq_kafka_groups", "lag", "unknown", 0.0).await?;
    // It is listed now, and what it has committed is still not told.
    scene.grant(&Resource::Cluster, Describe).await?;
    until("mq_kafka_groups", "lag", "unknown", 1.0).await?;
    scene.grant(&Resource::Group(unseen.clone()), Describe).await?;
    until("mq_kafka_group_lag_messages", "group", &unseen, 3.0).await
}
