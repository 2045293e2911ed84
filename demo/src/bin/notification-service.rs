//! Handles orders: works on each for a while, then writes one notification for it. What is no order is rejected.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mq_agent::{Failure, Message, Producer, Record};
use mq_demo::fault::Fault;
use mq_demo::load;
use mq_demo::order::{Notification, Order};
use mq_demo::service::{self, Service};
use tokio::sync::{Mutex, watch};

/// Orders that one pod works on at the same time, of different customers.
const CONCURRENCY: usize = 4;
/// The handling that goes wrong in a test.
const FAULTY: u64 = 40;
/// The customer whose orders take long in a test.
const SLOW_CUSTOMER: &str = "customer-07";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let service = Service::start(CONCURRENCY).await?;
    let topic = service::topic("NOTIFICATIONS_TOPIC", "notifications");
    let work_ms = load::follow(service::load_folder(), load::WORK_MS, 40_u64);
    let producer = service.agent.producer("notifications").await?;
    let consumer = service.agent.consumer("notifications").await?;
    tracing::info!(pod = service.pod, topic, "handling orders");
    let desk = Arc::new(Desk {
        pod: service.pod,
        topic,
        producer,
        work_ms,
        fault: service.fault,
        handled: AtomicU64::new(0),
        held: Mutex::new(None),
    });
    let handler = Arc::clone(&desk);
    consumer
        .subscribe(move |record| {
            let desk = Arc::clone(&handler);
            async move { desk.handle(&record).await }
        })
        .await?;
    service.drained.await?;
    tracing::info!(handled = desk.handled.load(Ordering::Relaxed), "drained");
    Ok(())
}

/// Where orders are worked on.
struct Desk {
    pod: String,
    topic: String,
    producer: Producer,
    work_ms: watch::Receiver<u64>,
    fault: Option<Fault>,
    handled: AtomicU64,
    /// For a test: the order whose notification is held back.
    held: Mutex<Option<Order>>,
}

impl Desk {
    async fn handle(&self, record: &Record) -> Result<(), Failure> {
        let order = match serde_json::from_slice::<Order>(record.payload()) {
            Ok(order) => order,
            Err(_) if self.fault == Some(Fault::SwallowPoison) => return Ok(()),
            Err(error) => return Err(Failure::reject(format!("this is no order: {error}"))),
        };
        let work = Duration::from_millis(*self.work_ms.borrow());
        tokio::time::sleep(work).await;
        let nth = self.handled.fetch_add(1, Ordering::Relaxed) + 1;
        match self.fault {
            Some(fault) => self.wrong(fault, nth, order).await,
            None => self.notify(&order).await,
        }
    }

    /// Only when the notification is written the order counts as handled.
    async fn notify(&self, order: &Order) -> Result<(), Failure> {
        let notification = Notification { order_id: order.id.clone(), pod: self.pod.clone() };
        let payload = serde_json::to_vec(&notification).map_err(Failure::retry)?;
        let message = Message::to(&self.topic).key(&order.customer).payload(payload);
        self.producer.send_sync(message).await.map(drop).map_err(Failure::retry)
    }

    /// The faults of the tests.
    async fn wrong(&self, fault: Fault, nth: u64, order: Order) -> Result<(), Failure> {
        match fault {
            Fault::DropNotification if nth == FAULTY => return Ok(()),
            Fault::RejectGood if nth == FAULTY => return Err(Failure::reject("rejected by a fault of a test")),
            Fault::Stall if order.customer == SLOW_CUSTOMER => tokio::time::sleep(Duration::from_secs(20)).await,
            Fault::SwapTwo => {
                let mut held = self.held.lock().await;
                if nth == FAULTY {
                    *held = Some(order);
                    return Ok(());
                }
                if let Some(first) = held.take_if(|first| first.customer == order.customer) {
                    self.notify(&order).await?;
                    return self.notify(&first).await;
                }
            }
            _ => {}
        }
        self.notify(&order).await
    }
}
