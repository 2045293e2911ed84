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

/// How names begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The first characters of the names.
    pub text: String,
    /// There is no more to them.
    pub is_all: bool,
}

/// Whether `namespace` may consume whatever `pattern` matches, now and later: names that begin in these ways.
///
/// # Errors
/// The sentence that says what is missing.
pub fn pattern_granted(
    grants: &[Grant],
    cluster: &str,
    namespace: &str,
    pattern: &str,
    beginnings: &[Beginning],
) -> Result<(), String> {
    for Beginning { text, is_all } in beginnings {
        let granted = grants.iter().filter(|grant| grant.namespace == namespace).flat_map(|grant| &grant.topics);
        let covers = |grant: &String| match grant.strip_suffix('*') {
            Some(prefix) => text.starts_with(prefix),
            None => *is_all && text == grant,
        };
        if !granted.into_iter().any(covers) {
            // A name like any that it may match.
            let like = if *is_all { text.clone() } else { format!("{text}*") };
            let missing = topic_granted(grants, cluster, namespace, &like).err().unwrap_or_default();
            return Err(format!("{pattern} matches names such as {like}: {missing}"));
        }
    }
    Ok(())
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
    fn a_pattern_is_granted_if_all_is_that_it_can_match() {
        let grants = [grant("shop", &["orders.*", "refunds"]), grant("ops", &["*"])];
        let begins = |text: &str, is_all| Beginning { text: text.into(), is_all };
        let granted = |namespace, beginnings: &[Beginning]| {
            pattern_granted(&grants, "main", namespace, "^pattern", beginnings)
                .map_err(|says| says.contains("^pattern"))
        };
        assert_eq!(granted("shop", &[begins("orders.eu", false), begins("refunds", true)]), Ok(()));
        assert_eq!(granted("shop", &[begins("orders.eu", false), begins("refunds", false)]), Err(true));
        assert_eq!(granted("shop", &[begins("orders", false)]), Err(true), "it matches orders-of-others too");
        assert_eq!(granted("shop", &[begins("", false)]), Err(true));
        assert_eq!((granted("ops", &[begins("", false)]), granted("other", &[begins("", false)])), (Ok(()), Err(true)));
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
