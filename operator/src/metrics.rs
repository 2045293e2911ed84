//! What the operator counts. Labels have few values by construction: kinds, results, cluster names; never object names.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// All metrics of the operator, in one registry.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Reconciliations by kind and result (`ok`, `refused`, `error`).
    pub reconciles: IntCounterVec,
    /// Duration of reconciliations by kind, seconds.
    pub reconcile_seconds: HistogramVec,
    /// Objects known, by kind.
    pub objects: IntGaugeVec,
    /// Objects that do not fit the schema, by kind.
    pub undeserializable: IntGaugeVec,
    /// Failures of watches, by kind.
    pub watch_errors: IntCounterVec,
    /// Writes to the Kubernetes API by what was written (`status`, `finalizer`, `event`) and result.
    pub writes: IntCounterVec,
    /// Effects by cluster, change and result (`ok`, `error`).
    pub effects: IntCounterVec,
    /// Keys found changed outside of their object, by cluster.
    pub drift: IntCounterVec,
    /// Duration of one cycle by cluster and step (`observe`, `execute`), seconds.
    pub cycle_seconds: HistogramVec,
    /// 1 while the cluster answers, by cluster.
    pub cluster_reachable: IntGaugeVec,
    /// 1 while this replica is the leader.
    pub leader: IntGauge,
}

impl Metrics {
    /// A fresh registry with all metrics.
    ///
    /// # Errors
    /// Two metrics have the same name, or one has an illegal name.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter =
            |name, help, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauge = |name, help, labels: &[&str]| register(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let seconds = |name, help, labels: &[&str]| {
            let buckets = vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0];
            register(&registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?)
        };
        Ok(Self {
            reconciles: counter("mq_reconciles_total", "Reconciliations.", &["kind", "result"])?,
            reconcile_seconds: seconds("mq_reconcile_seconds", "Duration of reconciliations.", &["kind"])?,
            objects: gauge("mq_objects", "Objects known.", &["kind"])?,
            undeserializable: gauge("mq_undeserializable_objects", "Objects that do not fit the schema.", &["kind"])?,
            watch_errors: counter("mq_watch_errors_total", "Failures of watches.", &["kind"])?,
            writes: counter("mq_kubernetes_writes_total", "Writes to the Kubernetes API.", &["what", "result"])?,
            effects: counter("mq_effects_total", "Changes made in Kafka.", &["cluster", "change", "result"])?,
            drift: counter(
                "mq_drift_total",
                "Configuration keys found changed outside of their object.",
                &["cluster"],
            )?,
            cycle_seconds: seconds(
                "mq_cycle_seconds",
                "Duration of a step of a cluster's cycle.",
                &["cluster", "step"],
            )?,
            cluster_reachable: gauge("mq_cluster_reachable", "1 while the Kafka cluster answers.", &["cluster"])?,
            leader: register(&registry, IntGauge::new("mq_leader", "1 while this replica is the leader.")?)?,
            registry,
        })
    }

    /// For metrics that other parts add.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// A metric cannot be written as text.
    pub fn render(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics.effects.with_label_values(&["main", "CreateTopic", "ok"]).inc();
        let text = metrics.render().unwrap();
        assert!(text.contains(r#"mq_effects_total{change="CreateTopic",cluster="main",result="ok"} 1"#), "{text}");
    }
}
