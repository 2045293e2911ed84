//! `mq-kafka` on a real broker: topics and their configs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mq_kafka::{Client, ConfigChange, ConfigSource, NewTopic, Options, Topic, TopicError};
use mq_testkit::{TestEnv, wait_until};

const SOON: Duration = Duration::from_secs(20);

fn new_topic(name: &str, partitions: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions, replication_factor: 1, configs: BTreeMap::new() }
}

/// A change is carried out by the controller; the broker that answers learns of it a moment later.
async fn until_described(client: &Client, name: &str, partitions: usize) -> Result<Topic> {
    wait_until(&format!("{name} has {partitions} partitions"), SOON, async || {
        let topic = client.describe_topics([name]).await.remove(name).context("asked for")??;
        ensure!(topic.partitions.len() == partitions, "it has {}", topic.partitions.len());
        Ok(topic)
    })
    .await
}

#[tokio::test]
async fn a_topic_is_created_grown_altered_and_deleted_by_id() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = Client::new([kafka.bootstrap()], Options::default());
    let name = kafka.unique("life");

    let mut topic = new_topic(&name, 2);
    topic.configs.insert("retention.ms".to_owned(), "3600000".to_owned());
    let created =
        client.create_topics(std::slice::from_ref(&topic), false).await.remove(&name).context("asked for")??;
    let id = created.id.context("a created topic has an id")?;
    let described = until_described(&client, &name, 2).await?;
    assert_eq!((described.id, described.internal, described.replication_factor()), (id, false, 1));
    let brokers: BTreeSet<i32> = client.describe_cluster().await?.brokers.into_keys().collect();
    for partition in described.partitions.values() {
        let leader = partition.leader.context("a leader")?;
        assert!(brokers.contains(&leader));
        assert_eq!((&partition.replicas, &partition.isr), (&vec![leader], &vec![leader]));
    }

    assert_eq!(client.create_topics(&[topic], false).await[&name], Err(TopicError::AlreadyExists));

    let grow = |total| BTreeMap::from([(name.clone(), total)]);
    client.create_partitions(&grow(4), true).await.remove(&name).context("asked for")??;
    client.create_partitions(&grow(3), false).await.remove(&name).context("asked for")??;
    until_described(&client, &name, 3).await?;
    let shrunk = client.create_partitions(&grow(1), false).await;
    assert!(matches!(&shrunk[&name], Err(TopicError::Invalid(_))), "{shrunk:?}");

    let set = |key: &str, value: &str| ConfigChange::Set { key: key.to_owned(), value: value.to_owned() };
    let delete = |key: &str| ConfigChange::Delete { key: key.to_owned() };
    let alter = async |changes: Vec<ConfigChange>| {
        client.alter_configs(&BTreeMap::from([(name.clone(), changes)]), false).await.remove(&name).context("asked for")
    };
    alter(vec![set("max.message.bytes", "2000000")]).await??;
    // The other config is still there: only what is named changes.
    let own = async || -> Result<BTreeMap<String, String>> {
        let configs = client.describe_configs([&name]).await.remove(&name).context("asked for")??;
        let own = configs.into_iter().filter(|(_, entry)| entry.source == ConfigSource::Topic);
        Ok(own.map(|(key, entry)| (key, entry.value.unwrap_or_default())).collect())
    };
    let expect = async |expected: &[(&str, &str)]| {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        wait_until("the configs are as altered", SOON, async || {
            let own = own().await?;
            ensure!(own == expected, "they are {own:?}");
            Ok(())
        })
        .await
    };
    expect(&[("max.message.bytes", "2000000"), ("retention.ms", "3600000")]).await?;
    alter(vec![delete("retention.ms"), set("cleanup.policy", "compact")]).await??;
    expect(&[("cleanup.policy", "compact"), ("max.message.bytes", "2000000")]).await?;
    // All changes of one topic or none.
    let refused = alter(vec![delete("cleanup.policy"), set("cleanup.policies", "x")]).await?;
    assert!(matches!(&refused, Err(TopicError::Invalid(error)) if error.to_string().contains("cleanup.policies")));
    expect(&[("cleanup.policy", "compact"), ("max.message.bytes", "2000000")]).await?;

    client.delete_topics([id]).await.remove(&id).context("asked for")??;
    wait_until("the topic is gone", SOON, async || {
        let described = client.describe_topics([&name]).await.remove(&name).context("asked for")?;
        ensure!(described == Err(TopicError::Absent), "it is {described:?}");
        Ok(())
    })
    .await?;

    // A topic that came later under the same name is not hit.
    let second = client.create_topics(&[new_topic(&name, 1)], false).await.remove(&name).context("asked for")??;
    assert_ne!(second.id, Some(id));
    assert_eq!(client.delete_topics([id]).await[&id], Err(TopicError::Absent));
    until_described(&client, &name, 1).await?;
    Ok(())
}

#[tokio::test]
async fn one_bad_topic_does_not_fail_the_others() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = Client::new([kafka.bootstrap()], Options::default());
    let (good, bad_config, replicas, huge) =
        (kafka.unique("good"), kafka.unique("config"), kafka.unique("replicas"), kafka.unique("huge"));
    let bad_name = format!("{good} with spaces");
    let mut topics = [&good, &bad_config, &replicas, &huge, &bad_name].map(|name| new_topic(name, 1));
    topics[1].configs.insert("retention.sm".to_owned(), "1".to_owned());
    topics[2].replication_factor = 100;
    topics[3].partitions = 20_000;

    let validated = client.create_topics(&topics, true).await;
    assert!(matches!(&validated[&good], Ok(created) if created.id.is_none()), "{:?}", validated[&good]);
    assert_eq!(client.describe_topics([&good]).await[&good], Err(TopicError::Absent), "validating creates nothing");

    let created = client.create_topics(&topics, false).await;
    assert_eq!(created.len(), topics.len());
    assert!(created[&good].is_ok(), "{:?}", created[&good]);
    assert!(matches!(&created[&bad_config], Err(TopicError::Invalid(e)) if e.to_string().contains("retention.sm")));
    assert!(matches!(&created[&replicas], Err(TopicError::Invalid(_))), "{:?}", created[&replicas]);
    assert!(matches!(&created[&huge], Err(TopicError::PolicyViolation(_))), "{:?}", created[&huge]);
    assert!(matches!(&created[&bad_name], Err(TopicError::Invalid(_))), "{:?}", created[&bad_name]);
    assert!(created.values().filter_map(|result| result.as_ref().err()).all(|error| !error.is_retryable()));

    until_described(&client, &good, 1).await?;
    let described = client.describe_topics([&good, &huge, &bad_name]).await;
    assert!(described[&good].is_ok());
    assert_eq!(described[&huge], Err(TopicError::Absent));
    assert!(matches!(&described[&bad_name], Err(TopicError::Invalid(_))), "{:?}", described[&bad_name]);
    let configs = client.describe_configs([&good, &huge]).await;
    assert!(configs[&good].is_ok());
    assert_eq!(configs[&huge], Err(TopicError::Absent));
    Ok(())
}

#[tokio::test]
async fn hundreds_of_topics_take_as_few_requests_as_the_controller_allows() -> Result<()> {
    let kafka = TestEnv::kafka().await?;
    let client = Client::new([kafka.bootstrap()], Options::default());
    let prefix = kafka.unique("many");
    let topics: Vec<_> = (0..300).map(|n| new_topic(&format!("{prefix}-{n}"), 1)).collect();

    let before = kafka.requests("CreateTopics").await?;
    let created = client.create_topics(&topics, false).await;
    let failed: Vec<_> = created.iter().filter(|(_, result)| result.is_err()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    // Beside this one request, other tests of the run create a topic now and then, one per request.
    let requests = kafka.requests("CreateTopics").await? - before;
    assert!(requests < 100, "{requests} requests");

    let ids: Vec<_> = created.into_values().filter_map(|result| result.ok()?.id).collect();
    assert_eq!(ids.len(), topics.len());
    let deleted = client.delete_topics(ids).await;
    assert!(deleted.values().all(Result::is_ok), "{deleted:?}");
    Ok(())
}
