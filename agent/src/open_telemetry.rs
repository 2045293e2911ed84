//! Metrics by the names of OpenTelemetry's semantic conventions for messaging.

use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram, Meter};
use opentelemetry::{InstrumentationScope, KeyValue, Value, global};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, MESSAGING_CONSUMER_GROUP_NAME, MESSAGING_DESTINATION_NAME, MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM,
};
use opentelemetry_semantic_conventions::metric::{
    MESSAGING_CLIENT_CONSUMED_MESSAGES, MESSAGING_CLIENT_OPERATION_DURATION, MESSAGING_CLIENT_SENT_MESSAGES,
    MESSAGING_PROCESS_DURATION,
};

use crate::error::{Failure, SendError};
use crate::hook::{Handled, Hook, Sent};

/// What the conventions advise for both histograms.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Counts and measures by the names of OpenTelemetry's semantic conventions 1.42, where those for messaging are still in development.
/// It speaks to the API alone: the service sets the SDK and its exporter as the global meter provider, before it makes this.
///
/// | metric | of | `messaging.operation.name` |
/// |---|---|---|
/// | `messaging.client.operation.duration` | each message, from `send` to its outcome | `send` |
/// | `messaging.client.sent.messages` | each message that was acknowledged or failed | `send` |
/// | `messaging.client.consumed.messages` | each record, at its first attempt | `poll` |
/// | `messaging.process.duration` | each attempt of a handler; each record of a batch with the time of the batch | `process` |
///
/// All of them have `messaging.system` (`kafka`) and `messaging.destination.name`; those of consumers `messaging.consumer.group.name`; those
/// that failed `error.type`: the variant of [`SendError`], or `retry` or `reject` of a [`Failure`]. Polls and commits are not measured: the
/// agent polls and commits for all records together. There are no spans.
///
/// ```
/// use mq_agent::{OpenTelemetry, Options};
///
/// // opentelemetry::global::set_meter_provider(…);
/// let options = Options::in_pod().hook(OpenTelemetry::new());
/// ```
#[derive(Debug, Clone)]
pub struct OpenTelemetry {
    operation_duration: Histogram<f64>,
    sent_messages: Counter<u64>,
    consumed_messages: Counter<u64>,
    process_duration: Histogram<f64>,
}

impl Default for OpenTelemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenTelemetry {
    /// The instruments of the global meter provider as it is now.
    pub fn new() -> Self {
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME"))
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(opentelemetry_semantic_conventions::SCHEMA_URL);
        Self::of(&global::meter_with_scope(scope.build()))
    }

    fn of(meter: &Meter) -> Self {
        let histogram = |name: &'static str, what: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_description(what).with_boundaries(SECONDS.to_vec()).build()
        };
        let counter = |name: &'static str, what: &'static str| {
            meter.u64_counter(name).with_unit("{message}").with_description(what).build()
        };
        Self {
            operation_duration: histogram(
                MESSAGING_CLIENT_OPERATION_DURATION,
                "Duration of messaging operation initiated by a producer or consumer client.",
            ),
            sent_messages: counter(
                MESSAGING_CLIENT_SENT_MESSAGES,
                "Number of messages producer attempted to send to the broker.",
            ),
            consumed_messages: counter(
                MESSAGING_CLIENT_CONSUMED_MESSAGES,
                "Number of messages that were delivered to the application.",
            ),
            process_duration: histogram(MESSAGING_PROCESS_DURATION, "Duration of processing operation."),
        }
    }
}

impl Hook for OpenTelemetry {
    fn sent(&self, sent: &Sent<'_>) {
        let error = sent.outcome.as_ref().err().map(|error| match error {
            SendError::Refused { .. } => "Refused",
            SendError::TooLarge { .. } => "TooLarge",
            SendError::NotAcknowledged { .. } => "NotAcknowledged",
            SendError::Fatal { .. } => "Fatal",
            SendError::Closed { .. } => "Closed",
        });
        let mut attributes = attributes("send", sent.topic, None, error);
        // Never on its way.
        if !matches!(sent.outcome, Err(SendError::Closed { .. })) {
            self.sent_messages.add(1, &attributes);
        }
        attributes.push(KeyValue::new(MESSAGING_OPERATION_TYPE, "send"));
        self.operation_duration.record(seconds(sent.latency), &attributes);
    }

    fn handled(&self, handled: &Handled<'_>) {
        let (topic, group) = (handled.record.topic(), Some(handled.group));
        if handled.record.attempt() == 1 {
            self.consumed_messages.add(1, &attributes("poll", topic, group, None));
        }
        let said = |failure: &Failure| if failure.is_retryable() { "retry" } else { "reject" };
        let attributes = attributes("process", topic, group, handled.outcome.as_ref().err().map(said));
        self.process_duration.record(seconds(handled.duration), &attributes);
    }
}

fn attributes(operation: &'static str, topic: &str, group: Option<&str>, error: Option<&'static str>) -> Vec<KeyValue> {
    let text = |text: &str| Value::from(text.to_owned());
    let mut attributes = vec![
        KeyValue::new(MESSAGING_SYSTEM, "kafka"),
        KeyValue::new(MESSAGING_OPERATION_NAME, operation),
        KeyValue::new(MESSAGING_DESTINATION_NAME, text(topic)),
    ];
    attributes.extend(group.map(|group| KeyValue::new(MESSAGING_CONSUMER_GROUP_NAME, text(group))));
    attributes.extend(error.map(|error| KeyValue::new(ERROR_TYPE, error)));
    attributes
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ScopeMetrics};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

    use super::*;
    use crate::message::{Ack, Message};
    use crate::record::Record;

    /// `name{key=value,…}` to how many were counted or measured.
    fn shown(exporter: &InMemoryMetricExporter) -> BTreeMap<String, u64> {
        let mut shown = BTreeMap::new();
        for resource in exporter.get_finished_metrics().unwrap() {
            for metric in resource.scope_metrics().flat_map(ScopeMetrics::metrics) {
                let mut add = |attributes: Vec<&KeyValue>, count: u64| {
                    let pair = |kv: &&KeyValue| format!("{}={}", kv.key, kv.value).replace("messaging.", "");
                    let mut pairs: Vec<_> = attributes.iter().map(pair).collect();
                    pairs.sort_unstable();
                    let pairs = pairs.join(",");
                    shown.insert(format!("{}[{}]{{{pairs}}}", metric.name(), metric.unit()), count);
                };
                match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        sum.data_points().for_each(|point| add(point.attributes().collect(), point.value()));
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                        histogram.data_points().for_each(|point| {
                            assert_eq!(point.bounds().collect::<Vec<_>>(), SECONDS);
                            add(point.attributes().collect(), point.count());
                        });
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        shown
    }

    #[test]
    fn everything_has_the_names_and_attributes_of_the_conventions() {
        let exporter = InMemoryMetricExporter::default();
        let provider =
            SdkMeterProvider::builder().with_reader(PeriodicReader::builder(exporter.clone()).build()).build();
        let hook = OpenTelemetry::of(&provider.meter("test"));

        let ack = Ok(Ack { topic: "t".into(), partition: 0, offset: Some(1), timestamp: None });
        let lost = Err(SendError::NotAcknowledged { topic: "t".into(), detail: "timed out".into() });
        let closed = Err(SendError::Closed { name: "p".into() });
        for outcome in [&ack, &ack, &lost, &closed] {
            let latency = Duration::from_millis(20);
            hook.sent(&Sent { producer: "p", topic: "t", outcome, latency });
        }
        let record = Record::of(Message::to("t"), 7);
        let (done, again, bad) = (Ok(()), Err(Failure::retry("no")), Err(Failure::reject("no")));
        for (attempt, outcome) in [(1, &again), (2, &done), (1, &bad)] {
            let (record, duration) = (&record.clone().at_attempt(attempt), Duration::from_millis(20));
            hook.handled(&Handled { consumer: "c", group: "g", record, outcome, duration, batch: 1 });
        }
        provider.force_flush().unwrap();

        let expected = [
            (
                "messaging.client.operation.duration[s]{destination.name=t,operation.name=send,operation.type=send,system=kafka}",
                2,
            ),
            (
                "messaging.client.operation.duration[s]{destination.name=t,error.type=Closed,operation.name=send,operation.type=send,system=kafka}",
                1,
            ),
            (
                "messaging.client.operation.duration[s]{destination.name=t,error.type=NotAcknowledged,operation.name=send,operation.type=send,system=kafka}",
                1,
            ),
            ("messaging.client.sent.messages[{message}]{destination.name=t,operation.name=send,system=kafka}", 2),
            (
                "messaging.client.sent.messages[{message}]{destination.name=t,error.type=NotAcknowledged,operation.name=send,system=kafka}",
                1,
            ),
            (
                "messaging.client.consumed.messages[{message}]{consumer.group.name=g,destination.name=t,operation.name=poll,system=kafka}",
                2,
            ),
            (
                "messaging.process.duration[s]{consumer.group.name=g,destination.name=t,operation.name=process,system=kafka}",
                1,
            ),
            (
                "messaging.process.duration[s]{consumer.group.name=g,destination.name=t,error.type=reject,operation.name=process,system=kafka}",
                1,
            ),
            (
                "messaging.process.duration[s]{consumer.group.name=g,destination.name=t,error.type=retry,operation.name=process,system=kafka}",
                1,
            ),
        ];
        assert_eq!(shown(&exporter), expected.map(|(text, count)| (text.to_owned(), count)).into());
    }
}
