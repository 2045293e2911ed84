//! Takes records from a stream, works on them in batches, and acknowledges each by hand: `stream <group> <topic> <count>`. `MQ_BROKERS`
//! has the addresses of the brokers.

use std::time::Duration;

use futures::StreamExt as _;
use mq_agent::{Config, Consumer, Options};

/// Records that are worked on together; fewer when no more come in time.
const BATCH: usize = 4;
const LINGER: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [group, topic, count] = &arguments[..] else { return Err("usage: stream <group> <topic> <count>".into()) };
    let mut left: usize = count.parse()?;

    let consumer = Consumer::new(&Config::from_env()?, group, [topic], &Options::default()).await?;
    let mut records = consumer.stream();
    while left > 0 {
        let Some(first) = records.next().await else { return Err("the stream ended early".into()) };
        let mut batch = vec![first?];
        while batch.len() < BATCH
            && let Ok(Some(next)) = tokio::time::timeout(LINGER, records.next()).await
        {
            batch.push(next?);
        }
        println!("{} records, the last {:?}", batch.len(), batch.last().map(|last| last.record.offset()));
        left = left.saturating_sub(batch.len());
        for delivered in batch {
            delivered.acker.ack();
        }
    }
    consumer.close(Duration::from_secs(10)).await;
    Ok(())
}
