//! One run costs wall time and the CPU time of this process; mq and its peer run in turn, so that a slow minute hits both.

use std::time::{Duration, Instant};

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// Runs of each side. The median of three is the least that tells a slow minute from a slow program.
const RUNS: usize = 3;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Starts when it is made.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { wall: Instant::now(), cpu: cpu()? })
    }

    pub(crate) fn stop(self) -> Result<Cost> {
        let wall = self.wall.elapsed();
        Ok(Cost { wall, cpu: cpu()?.saturating_sub(self.cpu) })
    }
}

/// User and system time of all threads of this process.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(microseconds)?))
}

/// The costs of both sides, run by run.
#[derive(Debug, Default)]
pub(crate) struct Sides {
    pub(crate) mq: Vec<Cost>,
    pub(crate) peer: Vec<Cost>,
}

/// Measures mq, peer, mq, peer, …
pub(crate) async fn in_turn(
    name: &str,
    mut mq: impl AsyncFnMut() -> Result<Cost>,
    mut peer: impl AsyncFnMut() -> Result<Cost>,
) -> Result<Sides> {
    let mut sides = Sides::default();
    for run in 1..=RUNS {
        let (ours, theirs) = (mq().await?, peer().await?);
        eprintln!("mq: {name}, run {run} of {RUNS}: {:.2?} beside {:.2?}", ours.wall, theirs.wall);
        sides.mq.push(ours);
        sides.peer.push(theirs);
    }
    Ok(sides)
}
