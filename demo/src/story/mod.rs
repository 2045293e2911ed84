//! The story: about two minutes in the life of a shop. It acts and tells; whether all went well is for the reader to say.
//!
//! A step whose end is not seen in time is told and the story goes on, since only the reader judges.

mod backlog;
mod board;
mod reader;
mod stage;

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::time::{Instant, sleep};

use crate::summary::claims::ORDER_SERVICE;
use crate::summary::observe::Observer;
use crate::summary::timeline::Timeline;
use crate::summary::{Scene, topics};
use backlog::Backlog;
use board::Board;
use reader::Reader;
pub use stage::{Setting, Stage};

/// Orders a second of each of the two pods, before, in and after the step.
const LOW: u32 = 10;
const HIGH: u32 = 10 * LOW;
/// `lingerMs` after the edit; the manifest says 10.
const LINGER_MS: i64 = 40;
/// Until the kubelet has told the services of a new load.
const QUIET: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(250);

/// How long things may take, and how long they are watched.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// At the low load, before anything happens.
    steady: Duration,
    grow: Duration,
    settle: Duration,
    /// At the high load, once it is mastered.
    hold: Duration,
    shrink: Duration,
}

impl Pace {
    const DEMO: Self = Self {
        steady: Duration::from_secs(10),
        grow: Duration::from_secs(40),
        settle: Duration::from_secs(30),
        hold: Duration::from_secs(20),
        shrink: Duration::from_secs(90),
    };
    /// For tests.
    const BRISK: Self = Self {
        steady: Duration::from_secs(6),
        grow: Duration::from_secs(30),
        settle: Duration::from_secs(12),
        hold: Duration::from_secs(12),
        shrink: Duration::from_mins(1),
    };
}

/// What happens in a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// `lingerMs` is edited.
    Edit,
    /// The load rises tenfold and falls again.
    LoadStep,
    /// A message that is no order arrives.
    Poison,
}

impl Step {
    /// All of them, in the order in which they happen.
    pub const ALL: [Self; 3] = [Self::Edit, Self::LoadStep, Self::Poison];
}

/// A story about to be told.
#[derive(Debug)]
pub struct Story {
    stage: Stage,
    steps: Vec<Step>,
    pace: Pace,
    board: Board,
    observer: Observer,
    backlog: Backlog,
    scene: Scene,
}

impl Story {
    /// Puts the stage up: objects, topics, services, first load.
    ///
    /// # Errors
    /// The API server refuses an object, or what was declared does not become ready within two minutes.
    pub async fn prepare(stage: Stage, steps: Vec<Step>, brisk: bool) -> anyhow::Result<Self> {
        let namespace = &stage.setting().namespace;
        let mut board = Board::new();
        board.say(&format!("declaring the cluster, three topics, two clients and a group in namespace {namespace}"));
        stage.declare().await?;
        stage.declared().await?;
        let scene = Scene::read(stage.client(), namespace).await?;
        let mut story = Self {
            observer: Observer::start(stage.client(), namespace),
            backlog: Backlog::start(&scene),
            scene,
            stage,
            steps,
            pace: if brisk { Pace::BRISK } else { Pace::DEMO },
            board,
        };
        story.board.say("topics are ready; starting order-service ×2 and notification-service ×1");
        story.stage.start_services().await?;
        let pods = |t: &Timeline| {
            t.pods(ORDER_SERVICE, i64::MAX).values().filter(|(ready, _)| *ready).count() == 2 && t.now().ready >= 1
        };
        anyhow::ensure!(
            story.until("both services run", Duration::from_mins(1), pods).await,
            "the services did not start"
        );
        Ok(story)
    }

    /// Tells it, and returns whether the reader found everything true.
    ///
    /// # Errors
    /// The API server or Kafka refuses an action of the story, or the reader cannot read.
    pub async fn tell(mut self, json: Option<&std::path::Path>) -> anyhow::Result<bool> {
        let reader = Reader::start(&self.stage, &self.steps, json).await?;
        self.load(LOW).await?;
        self.rest(self.pace.steady).await;
        for step in self.steps.clone() {
            match step {
                Step::Edit => self.edit().await?,
                Step::LoadStep => self.load_step().await?,
                Step::Poison => self.poison().await?,
            }
        }
        self.load(0).await?;
        self.rest(QUIET).await;
        self.drained("every order is handled", 0, self.pace.settle).await;
        reader.finish().await
    }

    async fn edit(&mut self) -> anyhow::Result<()> {
        self.board.say(&format!("kubectl patch mqp orders: lingerMs → {LINGER_MS}, while orders flow"));
        self.stage.linger(LINGER_MS).await?;
        let applied = |t: &Timeline| {
            t.edit().and_then(|(_, generation, _, to)| t.applied_by_all(ORDER_SERVICE, generation, to)).is_some()
        };
        if self.until("every pod of order-service runs on it", Duration::from_secs(8), applied).await {
            let pods: Vec<String> = self.observer.timeline().pods(ORDER_SERVICE, i64::MAX).into_keys().collect();
            self.board.say(&format!("acknowledged by the pods {}", pods.join(" and ")));
        }
        self.rest(Duration::from_secs(3)).await;
        Ok(())
    }

    async fn load_step(&mut self) -> anyhow::Result<()> {
        self.load(HIGH).await?;
        self.until("the Deployment grows", self.pace.grow, |t| t.now().wanted.is_some_and(|n| n > 1)).await;
        let grown = |t: &Timeline| t.now().wanted.is_some_and(|wanted| wanted > 1 && wanted == t.now().ready);
        self.until("all its pods are ready", self.pace.settle, grown).await;
        self.drained("the backlog is gone", i64::from(HIGH), self.pace.settle).await;
        self.rest(self.pace.hold).await;
        self.load(LOW).await?;
        self.until("the Deployment is back at 1", self.pace.shrink, |t| t.now().wanted == Some(1)).await;
        Ok(())
    }

    async fn poison(&mut self) -> anyhow::Result<()> {
        let scene = self.scene.clone();
        self.board.say("somebody sends a message that is no order");
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &scene.brokers)
            .set("partitioner", "murmur2_random")
            .create()
            .context("cannot make a producer for the poison message")?;
        let record = FutureRecord::to(&scene.topics.orders).key("customer-07").payload("this is no order");
        let sent = producer.send(record, Duration::from_secs(10)).await;
        sent.map_err(|(error, _)| error).context("cannot send the poison message")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let (brokers, topic) = (scene.brokers.clone(), scene.topics.dead_letters.clone());
            if tokio::task::spawn_blocking(move || topics::count(&brokers, &topic)).await?.is_ok_and(|n| n > 0) {
                self.board.say(&format!("it lies in {}; the orders behind it go on", scene.topics.dead_letters));
                return Ok(());
            }
            sleep(LOOK).await;
        }
        self.board.say("not seen within 10 s: the message in the dead-letter topic");
        Ok(())
    }

    async fn load(&mut self, orders_per_second: u32) -> anyhow::Result<()> {
        match orders_per_second {
            0 => self.board.say("no more orders"),
            n => self.board.say(&format!("load: 2 × {n} orders/s")),
        }
        self.stage.load(orders_per_second).await
    }

    /// Waits until at most so many orders wait.
    async fn drained(&mut self, what: &str, at_most: i64, limit: Duration) {
        let waiting = self.backlog.0.clone();
        self.until(what, limit, |_| waiting.borrow().is_some_and(|waiting| waiting <= at_most)).await;
    }

    async fn rest(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while Instant::now() < deadline {
            self.board.show(&self.observer.timeline().now(), self.backlog.waiting());
            sleep(LOOK).await;
        }
    }

    /// Whether `seen` came true in time; tells if not.
    async fn until(&mut self, what: &str, limit: Duration, seen: impl Fn(&Timeline) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let timeline = self.observer.timeline();
            self.board.show(&timeline.now(), self.backlog.waiting());
            if seen(&timeline) {
                self.board.say(what);
                return true;
            }
            sleep(LOOK).await;
        }
        self.board.say(&format!("not seen within {} s: {what}", limit.as_secs()));
        false
    }
}
