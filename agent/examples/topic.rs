//! Creates a topic, for trying the other examples where no operator does it: `topic <name> [partitions]`.

use std::collections::BTreeMap;

use mq_kafka::{Client, NewTopic, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("usage: topic <name> [partitions]")?;
    let partitions = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let brokers = std::env::var("MQ_BROKERS").map_err(|_| "MQ_BROKERS names no brokers")?;
    let topic = NewTopic { name: name.clone(), partitions, replication_factor: 1, configs: BTreeMap::new() };
    let client = Client::new(brokers.split(','), Options::default());
    client.create_topics(&[topic], false).await.remove(&name).ok_or("no answer for the topic")??;
    Ok(())
}
