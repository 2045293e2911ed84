//! Command line and environment.

use std::{net::SocketAddr, time::Duration};

/// Kubernetes operator for Kafka workloads.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "mq-operator", version)]
pub struct Options {
    /// Names of the `MqCluster` objects to serve, separated by commas; objects of all others are ignored. Default: all.
    #[arg(long, env = "MQ_CLUSTERS", value_delimiter = ',')]
    pub clusters: Vec<String>,

    /// The only namespace whose objects are served. Default: all namespaces.
    #[arg(long, env = "MQ_NAMESPACE")]
    pub namespace: Option<String>,

    /// Name of the Lease that makes one replica the leader.
    #[arg(long, default_value = "mq-operator")]
    pub lease_name: String,

    /// Namespace of the Lease, and of the operator's own objects.
    #[arg(long, env = "POD_NAMESPACE", default_value = "mq-system")]
    pub lease_namespace: String,

    /// How long the Lease is valid without being renewed; another replica takes over afterwards.
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,

    /// Name of this pod: its identity in the Lease, and the pod that gets the leader label.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,

    /// How often Kafka is compared with what is declared. A change of an object does not wait for it.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub topic_interval: Duration,

    /// Address at which agents are served.
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub push_addr: SocketAddr,

    /// URL by which agents reach that address; goes into the ConfigMap `mq-agent`, and its host into the certificate.
    /// Default: the Service `mq-operator-push` of the operator's namespace.
    #[arg(long)]
    pub push_endpoint: Option<String>,

    /// Streams of agents that may be open at the same time; further ones are turned away.
    #[arg(long, default_value_t = 20_000)]
    pub push_max_streams: usize,

    /// How often the offsets of groups that are scaled are read; those of all others every sixth time.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub lag_interval: Duration,

    /// Groups of one Kafka cluster whose lag is a metric although no object declares them; of more, those with the most lag. They are
    /// read as often as declared ones that are not scaled. 0: none, and they are not read.
    #[arg(long, default_value_t = 1_000)]
    pub all_groups: usize,

    /// Address of /metrics, /healthz and /readyz; port 0 takes any free one.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub metrics_addr: SocketAddr,

    /// What is logged, as `tracing` filters it.
    #[arg(long, env = "MQ_LOG", default_value = "info")]
    pub log: String,

    /// Logs one JSON object a line.
    #[arg(long, env = "MQ_LOG_JSON")]
    pub log_json: bool,
}

impl Options {
    /// The URL by which agents reach the push server.
    pub fn push_endpoint(&self) -> String {
        self.push_endpoint.clone().unwrap_or_else(|| {
            let (service, namespace, port) = (mq_protocol::SERVICE_NAME, &self.lease_namespace, self.push_addr.port());
            format!("https://{service}.{namespace}.svc:{port}")
        })
    }

    /// Whether objects of this `MqCluster` are served here.
    pub fn serves(&self, cluster: &str) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|served| served == cluster)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} must be a number and a unit, such as 10s"))?;
    let millis = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("{text:?} must end in ms, s, m or h")),
    };
    match millis {
        Some(millis @ 1..) => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} must be greater than zero and not overflow")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["10", "s", "", "0s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
