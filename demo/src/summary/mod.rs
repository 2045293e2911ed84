//! The reader: watches the API server while the story runs, then reads the topics, and says what is true.
//!
//! It shares no state with the services and takes no word of theirs: what a service wrote into a topic is compared with what
//! another wrote into another, by the broker's offsets and the broker's clock.

pub mod claims;
pub mod observe;
pub mod records;
mod sizing;
#[cfg(test)]
mod tests;
pub mod timeline;
pub mod topics;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use kube::api::{Api, DynamicObject};
use serde::Serialize;
use serde_json::{Value, json};

use claims::{Claim, Expect, Promise};
use observe::mq;
use records::Ledger;
use timeline::Timeline;
use topics::TopicNames;

/// An edit must have reached every pod within this time.
pub const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(10);

/// Where the story plays, read from its objects.
#[derive(Debug, Clone)]
pub struct Scene {
    pub brokers: String,
    pub topics: TopicNames,
    pub promise: Promise,
}

impl Scene {
    /// Reads the objects of a namespace.
    ///
    /// # Errors
    /// An object is missing or says less than it must.
    pub async fn read(client: &kube::Client, namespace: &str) -> anyhow::Result<Self> {
        let get = async |kind: &str, plural: &str, name: &str| -> anyhow::Result<DynamicObject> {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &mq(kind, plural));
            api.get(name).await.with_context(|| format!("cannot read {kind} {namespace}/{name}"))
        };
        let group = get("MqConsumerGroup", "mqconsumergroups", observe::GROUP).await?;
        let notifications = get("MqTopic", "mqtopics", observe::GROUP).await?;
        let orders = get("MqTopic", "mqtopics", observe::SETTINGS).await?;
        let spec = &group.data["spec"];
        let text =
            |value: &Value, what: &str| value.as_str().map(str::to_owned).with_context(|| format!("{what} is missing"));
        let cluster: Api<DynamicObject> = Api::all_with(client.clone(), &mq("MqCluster", "mqclusters"));
        let cluster = cluster
            .get(&text(&spec["cluster"], "spec.cluster of the group")?)
            .await
            .context("cannot read the MqCluster")?;
        let brokers = cluster.data["spec"]["brokers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let group_id = spec["groupId"].as_str().unwrap_or(observe::GROUP);
        let name_of =
            |topic: &DynamicObject, name: &str| topic.data["spec"]["topicName"].as_str().unwrap_or(name).to_owned();
        Ok(Self {
            brokers: brokers.collect::<Vec<_>>().join(","),
            topics: TopicNames {
                orders: name_of(&orders, observe::SETTINGS),
                notifications: name_of(&notifications, observe::GROUP),
                dead_letters: spec["deadLetter"]["topic"]
                    .as_str()
                    .map_or_else(|| format!("{group_id}.dlq"), str::to_owned),
            },
            promise: promise(spec, &orders.data["spec"])?,
        })
    }
}

fn promise(group: &Value, orders: &Value) -> anyhow::Result<Promise> {
    let scaling = &group["scaling"];
    let count = |value: &Value, what: &str| {
        value.as_i64().and_then(|n| i32::try_from(n).ok()).with_context(|| format!("{what} is missing"))
    };
    let age = scaling["objective"]["age"].as_str().and_then(|age| age.strip_suffix('s')).and_then(|s| s.parse().ok());
    Ok(Promise {
        max_replicas: count(&scaling["maxReplicas"], "spec.scaling.maxReplicas")?,
        min_replicas: count(&scaling["minReplicas"], "spec.scaling.minReplicas")?,
        partitions: count(&orders["partitions"], "spec.partitions of MqTopic orders")?,
        objective: Duration::from_secs(age.context("spec.scaling.objective.age is not in seconds")?),
        acknowledged_within: ACKNOWLEDGED_WITHIN,
    })
}

/// What the reader found.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub holds: bool,
    pub claims: Vec<Claim>,
}

impl Summary {
    /// Reads the topics and judges.
    ///
    /// # Errors
    /// A topic cannot be read whole: then nothing is said about anything.
    pub async fn of(scene: &Scene, timeline: &Timeline, expect: Expect) -> anyhow::Result<Self> {
        let (brokers, names) = (scene.brokers.clone(), scene.topics.clone());
        let topics = tokio::task::spawn_blocking(move || topics::read_all(&brokers, &names)).await??;
        let claims = claims::judge(&Ledger::new(&topics), timeline, &scene.promise, expect);
        Ok(Self { holds: claims.iter().all(|claim| claim.holds), claims })
    }

    /// One line per claim.
    pub fn human(&self) -> String {
        let mut out = String::from("Summary, from the topics and the API server:\n");
        for Claim { name, holds, says } in &self.claims {
            let mark = if *holds { "yes" } else { "NO " };
            _ = writeln!(out, "  {mark}  {name}: {says}"); // a String takes it
        }
        match self.claims.iter().filter(|claim| !claim.holds).count() {
            0 => out.push_str("All of it holds.\n"),
            wrong => _ = writeln!(out, "{wrong} of {} claims are false.", self.claims.len()),
        }
        out
    }

    /// The claims with everything seen beside them.
    pub fn json(&self, timeline: &Timeline) -> Value {
        json!({"holds": self.holds, "claims": self.claims, "timeline": timeline.seen()})
    }
}
