//! Prints the records of topics until SIGTERM or Ctrl-C: `consume <group> <topic or ^pattern>…`. `MQ_BROKERS` has the addresses of the
//! brokers.

use std::time::Duration;

use mq_agent::{Agent, Config, Failure, Options, Record};

async fn print(record: Record) -> Result<(), Failure> {
    // What is no text cannot become one: to the dead-letter topic.
    let text = std::str::from_utf8(record.payload()).map_err(Failure::reject)?;
    println!("{} {} at {}: {text}", record.topic(), record.partition(), record.offset());
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
    let mut arguments = std::env::args().skip(1);
    let group = arguments.next().ok_or("usage: consume <group> <topic or ^pattern>…")?;
    let config = Config::from_env()?.group("example", group, arguments);

    let agent = Agent::connect_with(Options::in_pod().config(config)).await;
    let drained = agent.drain_on(stopped(), Duration::from_secs(20));
    agent.consumer("example").await?.subscribe(print).await?;
    drained.await?;
    Ok(())
}
