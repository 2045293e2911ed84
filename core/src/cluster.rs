//! Which Kafka cluster an `MqCluster` means.

/// Checks that an address of a broker is `host:port`.
///
/// # Errors
/// What is wrong with it.
pub fn check_broker(address: &str) -> Result<(), String> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) => Ok(()),
        _ => Err(format!("broker address {address:?} must be host:port, such as kafka-0.kafka:9092")),
    }
}

/// Checks that the cluster that answers, `found`, is the one that the `MqCluster` is bound to. Without this, an address that leads to
/// an empty cluster would look like the loss of all topics.
///
/// # Errors
/// What a platform admin can do.
pub fn check_identity(name: &str, bound: &str, found: &str) -> Result<(), String> {
    if bound == found {
        return Ok(());
    }
    Err(format!(
        "the brokers belong to Kafka cluster {found}, but MqCluster {name} is bound to {bound}; correct spec.brokers, or create \
         the MqCluster anew to bind it to the other cluster"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_host_and_port() {
        for good in ["kafka:9092", "10.0.0.1:65535", "[::1]:9092"] {
            assert_eq!(check_broker(good), Ok(()));
        }
        for bad in ["", "kafka", ":9092", "kafka:", "kafka:0", "kafka:65536", "kafka:x"] {
            assert!(check_broker(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn another_cluster_is_refused_by_name() {
        assert_eq!(check_identity("main", "abc", "abc"), Ok(()));
        let refusal = check_identity("main", "abc", "xyz").unwrap_err();
        assert!(refusal.contains("abc") && refusal.contains("xyz") && refusal.contains("main"));
    }
}
