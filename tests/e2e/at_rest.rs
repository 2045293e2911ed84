//! Where nothing changes, nothing is written: by the API server's audit log and the broker's own counters.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_testkit::{Audit, Broker, Write, wait_until};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::operator::USER;
use crate::shop::Shop;

const REST: Duration = Duration::from_mins(1);
/// Longer than any interval of the operator, the longest of which is the minute after which it renews a lag in a status: what it
/// still does after this time, it does for ever.
const QUIET: Duration = Duration::from_secs(65);
/// The requests that change something at the broker.
const CHANGES: [&str; 5] =
    ["AlterConfigs", "IncrementalAlterConfigs", "CreateTopics", "CreatePartitions", "DeleteTopics"];

/// The operator's writes; those to its `Lease` apart from all others.
fn operators(audit: &Audit) -> Result<(Vec<Write>, Vec<Write>)> {
    let own = audit.writes()?.into_iter().filter(|write| write.user == USER);
    Ok(own.partition(|write| write.resource == "leases"))
}

/// How many requests of each kind that changes something the broker has had.
pub(crate) async fn changes(kafka: &Broker) -> Result<Vec<u64>> {
    let mut counts = Vec::new();
    for kind in CHANGES {
        counts.push(kafka.requests(kind).await?);
    }
    Ok(counts)
}

#[tokio::test]
async fn a_minute_at_rest_writes_nothing() -> Result<()> {
    let shop = Shop::with_services("rest", None).await?;
    let kafka = &shop.node.kafka;
    let (audit, before) = (shop.node.audit()?, changes(kafka).await?);

    // Each kind had something to do: a topic is altered, an edit reaches the pods, a group is scaled, orders are handled.
    shop.stage.load(10).await?;
    shop.stage.linger(35).await?;
    shop.patch("mqtopic/orders", r#"{"spec":{"config":{"retention.ms":7200000}}}"#)?;
    shop.patch("mqconsumergroup/notifications", r#"{"spec":{"scaling":{"minReplicas":2}}}"#)?;
    let done = async |kind, name: &str, what: fn(&Value) -> bool| {
        wait_until(&format!("{kind} {name} did it"), Duration::from_secs(40), async || {
            let status = shop.status(kind, name).await?;
            ensure!(what(&status), "{status}");
            Ok(())
        })
        .await
    };
    done("MqProducerConfig", "orders", |s| s["clients"]["applied"] == 2 && s["currentRevision"] == 2).await?;
    done("MqConsumerGroup", "notifications", |s| s["scaling"]["current"] == 2 && s["lag"]["messages"].is_i64()).await?;
    wait_until("the broker was told of the new retention", Duration::from_secs(20), async || {
        ensure!(changes(kafka).await?[1] > before[1], "no IncrementalAlterConfigs");
        Ok(())
    })
    .await?;
    shop.stage.load(0).await?;
    let writes = operators(&audit)?.1;
    assert!(writes.iter().any(|write| write.resource == "deployments/scale"), "{writes:?}");

    let mut last = (0, Instant::now());
    wait_until("the operator comes to rest", Duration::from_mins(4), async || {
        let writes = operators(&audit)?.1;
        if writes.len() != last.0 {
            last = (writes.len(), Instant::now());
        }
        ensure!(last.1.elapsed() > QUIET, "{}", writes.last().context("no write at all")?);
        Ok(())
    })
    .await?;

    let (audit, before, looked) = (shop.node.audit()?, changes(kafka).await?, kafka.requests("DescribeConfigs").await?);
    sleep(REST).await; // the claim is about this time
    let (renewals, writes) = operators(&audit)?;
    let shown: Vec<String> = writes.iter().map(ToString::to_string).collect();
    assert_eq!(shown, [""; 0], "written at rest");
    assert_eq!(changes(kafka).await?, before, "{CHANGES:?} at rest");
    // It did not sleep, and its writes are seen.
    assert!(renewals.len() > 10, "{} renewals of the Lease", renewals.len());
    let looked = kafka.requests("DescribeConfigs").await? - looked;
    assert!(looked >= 5, "the topics were compared {looked} times");
    Ok(())
}
