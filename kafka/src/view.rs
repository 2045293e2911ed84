//! What the client remembers of the cluster between requests. All of it may be out of date; brokers say so.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::{
    messages::{MetadataRequest, MetadataResponse, TopicName, metadata_request::MetadataRequestTopic},
    protocol::StrBytes,
};

#[derive(Debug, Default)]
pub(crate) struct View {
    /// Broker id → `host:port`.
    pub(crate) brokers: BTreeMap<i32, String>,
    pub(crate) controller: Option<i32>,
    /// Address that answered last.
    pub(crate) preferred: Option<String>,
    /// Topic → partition → leader, only partitions that have one.
    pub(crate) leaders: BTreeMap<String, BTreeMap<i32, i32>>,
    /// Group → where it is looked after.
    pub(crate) coordinators: BTreeMap<String, Coordinator>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Coordinator {
    /// Broker id.
    pub(crate) node: i32,
    /// Bytes that the last answer about the group's committed offsets took, if there was one.
    pub(crate) committed: Option<usize>,
}

impl View {
    pub(crate) fn metadata_request(topics: Option<&BTreeSet<String>>) -> MetadataRequest {
        let named = |name: &String| {
            MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(name.clone()))))
        };
        MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(false)
    }

    pub(crate) fn learn(&mut self, response: &MetadataResponse) {
        let address = |host: &str, port: i32| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        self.brokers = response.brokers.iter().map(|b| (b.node_id.0, address(&b.host, b.port))).collect();
        self.controller = Some(response.controller_id.0).filter(|id| *id >= 0);
        for topic in &response.topics {
            let Some(name) = &topic.name else { continue };
            if topic.error_code == 0 {
                let leaders = topic.partitions.iter().filter(|p| p.leader_id.0 >= 0);
                let leaders = leaders.map(|p| (p.partition_index, p.leader_id.0)).collect();
                self.leaders.insert(name.to_string(), leaders);
            } else {
                self.leaders.remove(name.as_str());
            }
        }
    }
}
