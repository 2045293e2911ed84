//! The node itself: it runs pods, and Kafka answers the host.

use anyhow::Result;
use mq_testkit::TestEnv;

#[tokio::test]
async fn node_serves_the_api_and_kafka() -> Result<()> {
    let node = TestEnv::node().await?;
    let namespace = node.control_plane.namespace("ground").await?;
    assert!(namespace.name().starts_with("ground-"));
    let topic = node.kafka.unique("ground");
    node.kafka.create_topic(&topic, 1).await?;
    node.kafka.produce(&topic, [("a", "1")]).await?;
    assert_eq!(node.kafka.read_all(&topic).await?.len(), 1);
    Ok(())
}
