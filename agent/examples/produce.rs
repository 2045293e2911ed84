//! Sends messages and prints where each of them is: `produce <topic> [count]`. `MQ_BROKERS` has the addresses of the brokers.

use std::time::Duration;

use mq_agent::{Config, Message, Options, Producer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().ok_or("usage: produce <topic> [count]")?;
    let count: u32 = arguments.next().map_or(Ok(10), |text| text.parse())?;

    let producer = Producer::new(&Config::from_env()?, &Options::default()).await?;
    let mut deliveries = Vec::new();
    for number in 0..count {
        let message = Message::to(&topic).key(format!("customer-{}", number % 3)).payload(number.to_string());
        deliveries.push(producer.send(message.event_type("placed").version("1")).await?);
    }
    for delivery in deliveries {
        let ack = delivery.await?;
        println!("{} {} at {:?}", ack.topic, ack.partition, ack.offset);
    }
    producer.close(Duration::from_secs(10)).await?;
    Ok(())
}
