//! Members as processes of their own: killed without warning, and frozen for longer than their session.

mod crew;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mq_kafka::GroupState;
use mq_testkit::wait_until;

use self::crew::{COMMIT_INTERVAL, Crew, HEAVY, LIGHT, Load, Opened, SESSION};
use super::{PATIENCE, numbered};

/// Beyond the session timeout, and what the coordinator needs to notice.
const FROZEN: Duration = Duration::from_secs(8);
/// Beyond every timeout of a client, but for that of requests.
const FROZEN_FOR_LONG: Duration = Duration::from_secs(40);
/// Faults of the long test, unless `MQ_FAULTS` says another number.
const FAULTS: usize = 20;
/// Records of the long test, at least.
const RECORDS: i64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillOne,
    KillBoth,
    /// For this long. The records go on while it is frozen, and when it wakes.
    FreezeOne(Duration),
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_members_lose_nothing_and_repeat_only_what_was_not_committed() -> Result<()> {
    go_through("kills", &[Fault::KillOne, Fault::KillBoth, Fault::KillOne], LIGHT, 0).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a million records while members are killed and frozen, twenty times or as often as MQ_FAULTS says"]
async fn members_that_are_killed_and_frozen_again_and_again_lose_nothing() -> Result<()> {
    let count = std::env::var("MQ_FAULTS").map_or(Ok(FAULTS), |count| count.parse().context("MQ_FAULTS"))?;
    let faults: Vec<_> = (0..count)
        .map(|_| match fastrand::u32(0..10) {
            0..6 => Fault::KillOne,
            6..8 => Fault::KillBoth,
            _ => Fault::FreezeOne(FROZEN),
        })
        .collect();
    go_through("kills-long", &faults, HEAVY, RECORDS).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: a member is frozen for forty seconds, twice"]
async fn a_member_that_is_frozen_for_long_loses_its_place_and_nothing_else() -> Result<()> {
    go_through("freeze-long", &[Fault::FreezeOne(FROZEN_FOR_LONG); 2], LIGHT, 0).await
}

/// Writes until all faults are over, and at least so many records.
async fn go_through(name: &str, faults: &[Fault], load: Load, least: i64) -> Result<()> {
    let mut crew = Crew::start(name, 2, load).await?;
    let watch = crew.watch();
    let story = async move {
        let writer = crew.write().await;
        let (mut repeatable, mut wakes) = (Opened::new(), 0);
        for (number, fault) in faults.iter().enumerate() {
            // One in a group at work, the next at any moment after it, also while the group waits for those that died.
            let within = if number % 2 == 0 {
                let beyond = crew.handled()?.len();
                crew.settle(beyond).await?;
                COMMIT_INTERVAL
            } else {
                SESSION
            };
            tokio::time::sleep(within.mul_f32(fastrand::f32())).await;
            let one = fastrand::usize(0..2);
            let opened = match fault {
                Fault::KillOne => crew.kill(&[one]).await?,
                Fault::KillBoth => crew.kill(&[0, 1]).await?,
                Fault::FreezeOne(time) => {
                    let (frozen, opened) = crew.freeze(one).await?;
                    tokio::time::sleep(*time).await;
                    wakes += 1;
                    drop(frozen);
                    opened
                }
            };
            println!("{number}: {fault:?} left {} records that were handled and not committed", opened.len());
            repeatable.extend(opened);
        }
        while crew.stage.committed().await? < least {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let each = writer.stop().await?;
        crew.stage.wait_committed(i64::try_from(load.keys * each)?).await?;
        crew.check(each, &repeatable, wakes)
    };
    tokio::select! { done = story => done, broken = watch => broken }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_wakes_after_its_session_commits_nothing_of_what_it_lost() -> Result<()> {
    let mut crew = Crew::start("frozen", 2, LIGHT).await?;
    let watch = crew.watch();
    let story = async {
        let writer = crew.write().await;
        crew.settle(0).await?;
        let (frozen, repeatable) = wait_until("it is frozen between handling and commit", PATIENCE, async || {
            let (frozen, opened) = crew.freeze(0).await?;
            ensure!(!opened.is_empty(), "everything was committed");
            Ok((frozen, opened))
        })
        .await?;
        // So what it meant to commit lies behind what is committed when it wakes.
        crew.wait_taken_over(&repeatable).await?;
        let each = writer.stop().await?;
        let all = i64::try_from(LIGHT.keys * each)?;
        crew.stage.wait_committed(all).await?;

        drop(frozen);
        let client = mq_kafka::Client::new([crew.stage.kafka.bootstrap()], mq_kafka::Options::default());
        wait_until("it is a member again", PATIENCE, async || {
            let group = &crew.stage.group;
            let found = client.describe_groups([group]).await.remove(group).context("no answer")??;
            ensure!(found.members.len() == 2 && found.state == GroupState::Stable, "{found:?}");
            Ok(())
        })
        .await?;
        // Whatever it meant to commit when it was frozen is sent by now, and nothing else is to be committed.
        tokio::time::sleep(COMMIT_INTERVAL * 3).await;
        assert_eq!(crew.stage.committed().await?, all);

        let before = crew.handled()?.len();
        let more = numbered(LIGHT.keys, each + 20).split_off(LIGHT.keys * each);
        crew.produce(&more).await?;
        crew.wait_all_handle(before).await?;
        crew.stage.wait_committed(all + i64::try_from(more.len())?).await?;
        crew.check(each + 20, &repeatable, 1)
    };
    tokio::select! { done = story => done, broken = watch => broken }
}
