//! What the push server measures.

use std::time::Duration;

use mq_protocol::message::{FromServer, NackReason};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Handles to the metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    streams: IntGauge,
    turned_away: IntCounter,
    messages: IntCounterVec,
    refused: IntCounterVec,
    ack_seconds: Histogram,
}

/// Counts a stream as open while it exists.
#[derive(Debug)]
pub struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When a name is taken in the registry.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            streams: IntGauge::new("mq_push_streams", "Open streams of agents")?,
            turned_away: IntCounter::new("mq_push_turned_away_total", "Streams that were refused")?,
            messages: IntCounterVec::new(Opts::new("mq_push_messages_total", "Messages sent to agents"), &["message"])?,
            refused: IntCounterVec::new(
                Opts::new("mq_push_nacks_total", "Configurations that agents refused"),
                &["reason"],
            )?,
            ack_seconds: Histogram::with_opts(
                HistogramOpts::new("mq_push_ack_seconds", "Time from sending a configuration to its Ack")
                    .buckets(vec![0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]),
            )?,
        };
        registry.register(Box::new(metrics.streams.clone()))?;
        registry.register(Box::new(metrics.turned_away.clone()))?;
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.ack_seconds.clone()))?;
        Ok(metrics)
    }

    /// A stream was opened.
    pub fn opened(&self) -> Open {
        self.streams.inc();
        Open(self.streams.clone())
    }

    /// A stream was refused.
    pub fn turned_away(&self) {
        self.turned_away.inc();
    }

    /// A message goes to an agent.
    pub fn sent(&self, message: &FromServer) {
        let kind = match message {
            FromServer::Config { .. } => "Config",
            FromServer::UpToDate { .. } => "UpToDate",
            FromServer::Tombstone(_) => "Tombstone",
            FromServer::NotReady { .. } => "NotReady",
            FromServer::Heartbeat(_) => "Heartbeat",
            FromServer::Reconnect { .. } => "Reconnect",
        };
        self.messages.with_label_values(&[kind]).inc();
    }

    /// A configuration was refused.
    pub fn refused(&self, reason: NackReason) {
        self.refused.with_label_values(&[reason.as_str()]).inc();
    }

    /// A configuration runs, this long after it was sent.
    pub fn acked(&self, after: Duration) {
        self.ack_seconds.observe(after.as_secs_f64());
    }
}
