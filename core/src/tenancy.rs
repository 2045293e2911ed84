//! What a namespace may do with a Kafka cluster. Only the cluster-scoped object says so, never an object of the namespace.

/// The names that one namespace may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Kubernetes namespace, exactly.
    pub namespace: String,
    /// Topic names, each exact or a prefix followed by `*`.
    pub topics: Vec<String>,
}

/// Whether `namespace` may declare the topic `topic`. No grant at all = nobody may.
///
/// # Errors
/// The sentence that says what is missing.
pub fn topic_granted(grants: &[Grant], cluster: &str, namespace: &str, topic: &str) -> Result<(), String> {
    let mut patterns: Vec<&str> =
        grants.iter().filter(|g| g.namespace == namespace).flat_map(|g| &g.topics).map(String::as_str).collect();
    if patterns.iter().any(|pattern| matches(pattern, topic)) {
        return Ok(());
    }
    patterns.sort_unstable();
    patterns.dedup();
    let granted = match patterns.as_slice() {
        [] => "no topic".to_owned(),
        some => format!("only {}", some.join(", ")),
    };
    Err(format!(
        "MqCluster {cluster} grants namespace {namespace} {granted}, not {topic}; a platform admin can add it to spec.namespaces"
    ))
}

/// Exact name, or prefix followed by one `*` at the end. A `*` elsewhere is not special, and Kafka has no such names.
fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(namespace: &str, topics: &[&str]) -> Grant {
        Grant { namespace: namespace.into(), topics: topics.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_topic_is_granted_by_name_or_prefix_to_one_namespace() {
        let grants = [grant("shop", &["orders", "notifications*"]), grant("ops", &["*"])];
        let table = [
            ("shop", "orders", true),
            ("shop", "orders2", false),
            ("shop", "order", false),
            ("shop", "notifications", true),
            ("shop", "notifications.dlq", true),
            ("shop", "notification", false),
            ("shopping", "orders", false),
            ("ops", "anything", true),
            ("other", "orders", false),
        ];
        for (namespace, topic, expected) in table {
            assert_eq!(topic_granted(&grants, "main", namespace, topic).is_ok(), expected, "{namespace} {topic}");
        }
        assert!(topic_granted(&[], "main", "shop", "orders").is_err(), "no grant means nobody");
    }

    #[test]
    fn the_refusal_names_what_is_granted() {
        let grants = [grant("shop", &["b*", "a"])];
        assert_eq!(
            topic_granted(&grants, "main", "shop", "c").unwrap_err(),
            "MqCluster main grants namespace shop only a, b*, not c; a platform admin can add it to spec.namespaces"
        );
    }
}
