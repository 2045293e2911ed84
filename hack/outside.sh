#!/bin/bash
# Builds a crate that knows of mq-agent alone, as a service elsewhere would: nothing of the workspace may be missing from its manifest.
set -euo pipefail
root=$PWD
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" << EOF
[package]
name = "outside"
version = "0.0.0"
edition = "2024"
[dependencies]
mq-agent = { path = "$root/agent" }
tokio = { version = "1", features = ["rt-multi-thread", "macros"] }
# That of the workspace, so that what is compiled already serves.
$(sed -n '/^\[profile.dev\]/,$p' Cargo.toml | sed '/^# The decisions/,/^opt-level = 1$/d; /mq-agent\]/,/^opt-level/d; /mq-simulation\]/,/^opt-level/d')
EOF
cat > "$folder/src/main.rs" << 'EOF'
use std::time::Duration;

use mq_agent::{Agent, Config, Env, Failure, Message, Options, Producer, Record};

async fn handle(record: Record) -> Result<(), Failure> {
    std::str::from_utf8(record.payload()).map(drop).map_err(Failure::reject)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::for_env(Env::Production).brokers(["kafka:9092"]).group("orders", "orders", ["orders"]);
    let alone = Producer::new(&config, &Options::default()).await?;
    alone.send_sync(Message::to("orders").key("7").payload("{}")).await?;
    let agent = Agent::connect_with(Options::in_pod().config(config)).await;
    let drained = agent.drain_on(mq_agent::sigterm(), Duration::from_secs(20));
    agent.consumer("orders").await?.subscribe(handle).await?;
    drained.await?;
    Ok(())
}
EOF
cp Cargo.lock "$folder"
echo "mq: a crate outside of the workspace"
cargo check --quiet --offline --manifest-path "$folder/Cargo.toml" < /dev/null
