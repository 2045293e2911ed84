//! Places orders at the rate that the ConfigMap `demo-load` says, one after another, each under its customer's key.

#![forbid(unsafe_code)]

use std::time::Duration;

use mq_agent::{Message, Producer, SendError};
use mq_demo::fault::Fault;
use mq_demo::load;
use mq_demo::order::Order;
use mq_demo::service::{self, Service};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often orders are placed: so many at a time that the rate is right.
const TICK: Duration = Duration::from_millis(20);
/// After a pause (the client was being exchanged) at most this much is caught up with.
const CATCH_UP: Duration = Duration::from_secs(1);
/// The number that the fault loses.
const LOST: u64 = 40;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = Service::start(1).await?;
    let topic = service::topic("ORDERS_TOPIC", "orders");
    let rate = load::follow(service::load_folder(), load::ORDERS_PER_SECOND, 0.0_f64);
    let producer = service.agent.producer("orders").await?;
    tracing::info!(pod = service.pod, topic, "placing orders");

    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut due, mut last) = (0, 0.0_f64, Instant::now());
    loop {
        let now = tick.tick().await;
        let per_second = rate.borrow().max(0.0);
        due = (due + per_second * now.duration_since(last).as_secs_f64()).min(per_second * CATCH_UP.as_secs_f64());
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            number += 1;
            if service.fault == Some(Fault::LoseOrder) && number == LOST {
                continue;
            }
            match place(&producer, &topic, Order::new(&service.pod, number)).await {
                Ok(()) => {}
                Err(SendError::Closed { .. }) => {
                    service.drained.await?;
                    tracing::info!(orders = number - 1, "drained");
                    return Ok(());
                }
                Err(error) => tracing::error!(%error, number, "an order could not be placed"),
            }
        }
        if service.drained.is_finished() {
            tracing::info!(orders = number, "drained");
            return Ok(());
        }
    }
}

/// Hands an order to the producer. Its acknowledgement only matters to the log: whether it arrived is seen in the topic.
async fn place(producer: &Producer, topic: &str, order: Order) -> Result<(), SendError> {
    let payload = serde_json::to_vec(&order).unwrap_or_default();
    let message = Message::to(topic).key(&order.customer).payload(payload);
    let acknowledged = move |outcome: Result<_, SendError>| {
        if let Err(error) = outcome {
            tracing::error!(%error, order = order.id, "an order is lost");
        }
    };
    producer.send_with(message, acknowledged).await
}
