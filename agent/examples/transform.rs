//! Reads one topic and writes another until SIGTERM or Ctrl-C: `transform <group> <from> <to>`. At least once: a record is done when its
//! result is acknowledged. The trace goes along. `MQ_BROKERS` has the addresses of the brokers.

use std::time::Duration;

use mq_agent::{Agent, Config, Failure, Message, Options, Producer, Record};

async fn transform(producer: Producer, to: String, record: Record) -> Result<(), Failure> {
    let text = std::str::from_utf8(record.payload()).map_err(Failure::reject)?;
    let result = Message::to(to).key(record.key().unwrap_or_default()).payload(format!("invoice {text}"));
    producer.send_sync(result.event_type("invoiced")).await?; // not acknowledged: the record is tried again
    Ok(())
}

async fn stopped() {
    tokio::select! {
        () = mq_agent::sigterm() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [group, from, to] = &arguments[..] else { return Err("usage: transform <group> <from> <to>".into()) };
    let config = Config::from_env()?.group("transform", group, [from]);

    let agent = Agent::connect_with(Options::in_pod().config(config)).await;
    let drained = agent.drain_on(stopped(), Duration::from_secs(20));
    let (producer, to) = (agent.producer("transform").await?, to.clone());
    let consumer = agent.consumer("transform").await?;
    consumer.subscribe(move |record| transform(producer.clone(), to.clone(), record)).await?;
    drained.await?;
    Ok(())
}
