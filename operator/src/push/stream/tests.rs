use super::*;
use crate::push::index::tests::{grant, in_force, index, key, pod, revision, version};
use mq_protocol::message::{Kind, NackReason};
use tokio_stream::wrappers::ReceiverStream;

struct Agent {
    outbound: mpsc::Sender<Result<AgentMessage, Status>>,
    inbound: mpsc::Receiver<Result<ServerMessage, Status>>,
    shutdown: CancellationToken,
}

impl Agent {
    fn connect(index: &Index) -> Self {
        let (outbound, requests) = mpsc::channel(8);
        let (replies, inbound) = mpsc::channel(8);
        let identity = Identity { namespace: "shop".into(), pod: pod("a") };
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let session = Session::new(index.clone(), metrics, identity, 1, replies);
        let shutdown = CancellationToken::new();
        tokio::spawn(session.run(ReceiverStream::new(requests), shutdown.clone()));
        Self { outbound, inbound, shutdown }
    }

    async fn greeted(index: &Index) -> Self {
        let agent = Self::connect(index);
        agent.say(FromAgent::Hello { library: "test".into(), version: "0".into() }).await;
        agent
    }

    async fn say(&self, message: FromAgent) {
        self.outbound.send(Ok(message.into())).await.unwrap();
    }

    async fn subscribe(&self, held: Option<Version>) {
        self.say(FromAgent::Subscribe { client: orders(), held }).await;
    }

    async fn nack(&self, number: i64) {
        let (reason, detail) = (NackReason::Invalid, "no".to_owned());
        self.say(FromAgent::Nack { client: orders(), version: version(number), reason, detail }).await;
    }

    async fn hears(&mut self) -> Result<FromServer, Status> {
        self.inbound.recv().await.unwrap().map(|message| message.try_into().unwrap())
    }
}

fn orders() -> ClientRef {
    ClientRef::new(Kind::Producer, "orders")
}

fn config(number: i64) -> FromServer {
    FromServer::Config { client: orders(), version: version(number), body: revision(number).body }
}

fn up_to_date(revision: i64) -> FromServer {
    FromServer::UpToDate { client: orders(), revision }
}

#[tokio::test]
async fn each_subscription_is_answered() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(1));
    agent.subscribe(Some(version(1))).await;
    assert_eq!(agent.hears().await.unwrap(), up_to_date(1));
    let other = ClientRef::new(Kind::Consumer, "orders");
    agent.say(FromAgent::Subscribe { client: other.clone(), held: None }).await;
    assert_eq!(agent.hears().await.unwrap(), FromServer::Tombstone(other));
    in_force(&index, None);
    assert!(matches!(agent.hears().await.unwrap(), FromServer::NotReady { client, .. } if client == orders()));
    index.delete_object(&key());
    assert_eq!(agent.hears().await.unwrap(), FromServer::Tombstone(orders()));
}

#[tokio::test]
async fn an_equal_configuration_is_not_sent_again() {
    let (index, _changes) = index(2, Some(1));
    let mut same = revision(1);
    same.stored.number = 3;
    index.apply_revision("uid-orders", same);
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(Some(Version { revision: 0, hash: version(1).hash })).await;
    assert_eq!(agent.hears().await.unwrap(), up_to_date(1));
    in_force(&index, Some(3));
    assert_eq!(agent.hears().await.unwrap(), up_to_date(3));
}

#[tokio::test]
async fn what_is_taken_back_is_taken_back_from_a_client_that_still_works_on_it() {
    let (index, _changes) = index(2, Some(2));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(Some(version(1))).await;
    assert_eq!(agent.hears().await.unwrap(), config(2));
    // Somebody else refuses.
    let (other, _) = index.subscribe(key(), pod("b"), 2);
    other.nack(&version(2), NackReason::Invalid, "no");
    assert_eq!(agent.hears().await.unwrap(), config(1));
}

#[tokio::test]
async fn who_refuses_goes_on_with_what_it_had() {
    let (index, _changes) = index(2, Some(2));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(Some(version(1))).await;
    assert_eq!(agent.hears().await.unwrap(), config(2));
    agent.nack(2).await;
    assert_eq!(agent.hears().await.unwrap(), up_to_date(1));
    assert_eq!(index.report(&key()).rejections[0].words, "pod a: Invalid: no");
}

#[tokio::test]
async fn a_closed_client_hears_nothing_and_a_closed_stream_is_not_counted() {
    let (index, mut changes) = index(2, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(1));
    agent.say(FromAgent::Unsubscribe(orders())).await;
    let other = ClientRef::new(Kind::Producer, "other");
    agent.say(FromAgent::Subscribe { client: other.clone(), held: None }).await;
    assert_eq!(agent.hears().await.unwrap(), FromServer::Tombstone(other));
    in_force(&index, Some(2));
    assert!(agent.inbound.try_recv().is_err());
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(2));
    assert_eq!(index.report(&key()).clients.connected, 1);
    while changes.try_recv().is_ok() {}
    drop(agent);
    changes.recv().await.unwrap();
    assert_eq!(index.report(&key()).clients.connected, 0);
}

#[tokio::test]
async fn a_message_that_is_none_costs_nobody_the_stream() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.outbound.send(Ok(AgentMessage { message: None })).await.unwrap();
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(1));
}

#[tokio::test(start_paused = true)]
async fn silence_before_hello_ends_the_stream() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::connect(&index);
    let started = Instant::now();
    assert_eq!(agent.hears().await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    assert!(started.elapsed() >= FIRST_MESSAGE_TIMEOUT && started.elapsed() < FIRST_MESSAGE_TIMEOUT * 2);
    let mut agent = Agent::connect(&index);
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap_err().code(), tonic::Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_name_revisions_and_the_stream_ends_in_time() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(1));
    let started = Instant::now();
    assert_eq!(agent.hears().await.unwrap(), FromServer::Heartbeat(vec![(orders(), 1)]));
    assert!(started.elapsed() <= HEARTBEAT_INTERVAL);
    let last = loop {
        match agent.hears().await.unwrap() {
            FromServer::Heartbeat(_) => {}
            other => break other,
        }
    };
    assert!(matches!(last, FromServer::Reconnect { after } if after <= RETURN_WITHIN));
    assert!((STREAM_LIFE..=STREAM_LIFE + STREAM_LIFE_JITTER).contains(&started.elapsed()));
    assert!(agent.inbound.recv().await.is_none());
}

#[tokio::test]
async fn at_the_end_pods_are_asked_to_return() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.shutdown.cancel();
    assert!(matches!(agent.hears().await.unwrap(), FromServer::Reconnect { .. }));
    assert!(agent.inbound.recv().await.is_none());
}

#[tokio::test]
async fn a_pod_has_a_bounded_number_of_clients() {
    let (index, _changes) = index(1, Some(1));
    let mut agent = Agent::greeted(&index).await;
    for number in 0..=MAX_SUBSCRIPTIONS {
        let client = ClientRef::new(Kind::Producer, format!("client-{number}"));
        agent.say(FromAgent::Subscribe { client: client.clone(), held: None }).await;
        let answer = agent.hears().await.unwrap();
        if number < MAX_SUBSCRIPTIONS {
            assert_eq!(answer, FromServer::Tombstone(client));
        } else {
            assert!(matches!(answer, FromServer::NotReady { detail, .. } if detail.contains("256")));
        }
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_last_grant_of_its_namespace() {
    let (index, _changes) = index(2, Some(1));
    let mut agent = Agent::greeted(&index).await;
    agent.subscribe(None).await;
    assert_eq!(agent.hears().await.unwrap(), config(1));
    index.unreadable_cluster("other");
    grant(&index, &["bank"]);
    // The stream sees it before anything else happens.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    in_force(&index, Some(2));
    assert_eq!(agent.hears().await.unwrap(), config(2), "the cluster that cannot be read may grant it");
    index.delete_cluster("other");
    let end = agent.hears().await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::PermissionDenied);
    assert!(end.message().contains("the namespace shop; a platform admin can"), "{end}");
}
