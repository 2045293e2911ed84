//! The decisions of mq-core in a simulated plant, beside KEDA with its autoscaler and beside an oracle that knows what comes.

mod decide;
mod keda;
mod oracle;
mod plot;
mod traces;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use keda::{Keda, Setting};
use mq_core::scaling::{Mode, Objective, Policy};
use mq_simulation::{CYCLE, Ours, Plant, Run, Scaler, drive};
use oracle::{Oracle, UTILISATIONS};
use plot::{Line, Panel};
use traces::Trace;

use crate::report::{Better, Row, Section};

const AGE: u32 = 30;
const COMMIT: Duration = Duration::from_secs(1);
const MIN: u32 = 1;
const MAX: u32 = 24;

/// What an `MqConsumerGroup` has when only the promise and the maximum are given.
fn policy() -> Policy {
    Policy {
        objective: Objective::Age(Duration::from_secs(AGE.into())),
        mode: Mode::Auto,
        min: MIN,
        scheduled: None,
        max: MAX,
        capacity: None,
        window: Duration::from_mins(5),
        keep: false,
        max_step: None,
        cycle: CYCLE,
        commit_interval: COMMIT,
        paused: false,
    }
}

/// What every scaler made of one trace.
struct Outcome {
    trace: Trace,
    ours: Run,
    agents: Run,
    oracle: Run,
    keda: Vec<(Setting, Run)>,
}

impl Outcome {
    fn of(trace: Trace) -> Self {
        let plans = UTILISATIONS.map(|utilisation| Oracle::plan(&trace, AGE, utilisation));
        let first = plans[0].first();
        let run = |plant: &Plant, scaler: &mut dyn Scaler, replicas| {
            let promised = (Duration::from_secs(AGE.into()), COMMIT);
            drive(plant, scaler, promised, replicas, trace.seconds, |second| trace.arrival(second))
        };
        let ours = run(&trace.plant, &mut Ours::new(policy()), first);
        let with_agents = Plant { agents: true, ..trace.plant.clone() };
        let agents = run(&with_agents, &mut Ours::new(policy()), first);
        let oracles = plans.into_iter().map(|mut plan| {
            let first = plan.first();
            run(&trace.plant, &mut plan, first)
        });
        let oracle = oracles.min_by(by_promise_then_pods).unwrap_or_default();
        let settings = std::iter::once(Setting::DEFAULT).chain(Setting::grid());
        let keda = settings.map(|setting| (setting, run(&trace.plant, &mut Keda::new(setting, MIN, MAX), first)));
        let keda = keda.collect();
        Self { trace, ours, agents, oracle, keda }
    }

    /// KEDA as it keeps the promise best in this trace.
    fn best_keda(&self) -> Option<&(Setting, Run)> {
        self.keda.iter().min_by(|(_, one), (_, other)| by_promise_then_pods(one, other))
    }

    fn keda(&self, setting: Setting) -> Option<&Run> {
        self.keda.iter().find(|(of, _)| *of == setting).map(|(_, run)| run)
    }
}

fn by_promise_then_pods(one: &Run, other: &Run) -> std::cmp::Ordering {
    one.breached.len().cmp(&other.breached.len()).then(one.pod_seconds.total_cmp(&other.pod_seconds))
}

/// Measures, and draws into the folder beside the page.
pub(crate) fn run(plots: &Path) -> Result<Section> {
    let mut rows = vec![Row::alone(
        "scaling.decide_10000",
        "one cycle of 10,000 groups with 8 partitions each: from offsets to decisions",
        "ms",
        Better::Lower,
        &decide::cycles(&policy()),
        100.0,
    )];
    let outcomes: Vec<Outcome> = traces::all()
        .into_iter()
        .map(|trace| {
            eprintln!("mq: scaling, {}", trace.name);
            Outcome::of(trace)
        })
        .collect();
    let equal = equal_breach(&outcomes).context("no setting of KEDA")?;
    for outcome in &outcomes {
        rows.extend(rows_of(outcome, equal));
    }
    let peer = format!("KEDA, the fewest pods of those that break the promise no longer than mq: {equal}");
    let sum = |run: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(run).sum::<f64>();
    let theirs = sum(&|outcome| outcome.keda(equal).map_or(0.0, hours));
    let ours = sum(&|outcome| hours(&outcome.ours));
    rows.push(Row::once("scaling.pod_hours", "all traces", "pod hours", ours, (peer.as_str(), theirs), 0.8));
    let changes = sum(&|outcome| outcome.keda(equal).map_or(0.0, changes));
    let ours = sum(&|outcome| self::changes(&outcome.ours));
    rows.push(Row::once("scaling.changes", "all traces", "changes", ours, (peer.as_str(), changes), 1.0 / 3.0));
    draw(plots, &outcomes, equal)?;
    Ok(Section { name: "scaling", rows, notes: notes(&outcomes, equal) })
}

/// The setting of KEDA, one for all traces, with the fewest pods of those that keep the promise as well as we do, or else of the best.
fn equal_breach(outcomes: &[Outcome]) -> Option<Setting> {
    let sums = |setting: &Setting| {
        let runs = outcomes.iter().filter_map(|outcome| outcome.keda(*setting));
        runs.fold((0, 0.0), |(breach, pods), run| (breach + run.breached.len(), pods + run.pod_seconds))
    };
    let ours: usize = outcomes.iter().map(|outcome| outcome.ours.breached.len()).sum();
    let least = Setting::grid().map(|setting| sums(&setting).0).min()?;
    let good = Setting::grid().filter(|setting| sums(setting).0 <= ours.max(least));
    good.min_by(|one, other| sums(one).1.total_cmp(&sums(other).1))
}

fn rows_of(outcome: &Outcome, equal: Setting) -> Vec<Row> {
    let name = outcome.trace.name;
    let best = outcome.best_keda().map(|(setting, run)| (format!("best of KEDA: {setting}"), breach(run)));
    let row = |what: &str, unit: &str, value: f64, peer: (&str, f64), target: f64| {
        Row::once(&format!("scaling.{what}_{name}"), outcome.trace.says, unit, value, peer, target)
    };
    let (peer, value) = best.unwrap_or_default();
    let (same, name_of_it) = (outcome.keda(equal).map_or(0.0, changes), format!("KEDA, {equal}"));
    vec![
        row("breach_seconds", "s", breach(&outcome.ours), (peer.as_str(), value), 1.0),
        row("pod_hours", "pod hours", hours(&outcome.ours), ("oracle", hours(&outcome.oracle)), 1.25),
        row("changes", "changes", changes(&outcome.ours), (name_of_it.as_str(), same), 1.0 / 3.0),
    ]
}

fn hours(run: &Run) -> f64 {
    run.pod_seconds / 3_600.0
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a day")]
fn breach(run: &Run) -> f64 {
    run.breached.len() as f64
}

#[expect(clippy::cast_precision_loss, reason = "changes of a day")]
fn changes(run: &Run) -> f64 {
    run.path.len() as f64
}

fn notes(outcomes: &[Outcome], equal: Setting) -> String {
    let mut text = format!(
        "\nSimulated: {MAX} partitions; a pod handles 480 messages a second and is ready after 10 s (slow_start: 60 s); what moves in a \
         rebalance stands still for 3 s; commits every second. mq has the promise `age: {AGE}s`, 1 to {MAX} replicas and nothing else stated. \
         KEDA's scaler and the HPA are modelled from their source (AverageValue, tolerance 10 %, a look every 15 s, up at most to twice as \
         many or four more). The oracle knows the trace and asks for the fewest useful pods so early that they work in time; how much of a \
         pod it plans with is the best of {UTILISATIONS:?} in the plant. Whether the plant is right is a test with real pods (`tests/e2e/step.rs`): a \
         tenfold load, within a quarter.\n\n\
         Each cell: seconds in which a message older than {AGE} s waited / pod hours / changes of replicas. *With agents* is mq where the \
         pods say how busy they are; the rows above are without.\n\n\
         | trace | mq | mq with agents | KEDA by default | KEDA, {equal} | best KEDA of the trace | oracle |\n|---|---|---|---|---|---|---|\n"
    );
    let cell = |run: &Run| format!("{} / {:.2} / {}", run.breached.len(), hours(run), run.path.len());
    for outcome in outcomes {
        let default = outcome.keda(Setting::DEFAULT).map(cell).unwrap_or_default();
        let same = outcome.keda(equal).map(cell).unwrap_or_default();
        let best = outcome.best_keda().map(|(setting, run)| format!("{} ({setting})", cell(run))).unwrap_or_default();
        let Outcome { trace, ours, agents, oracle, .. } = outcome;
        let _ = writeln!(
            text,
            "| [{}](plots/scaling-{}.svg) | {} | {} | {default} | {same} | {best} | {} |",
            trace.name,
            trace.name,
            cell(ours),
            cell(agents),
            cell(oracle)
        );
    }
    text.push_str(
        "\nThe grid, summed over all traces:\n\n| KEDA | seconds | pod hours | changes |\n|---|---|---|---|\n",
    );
    for setting in std::iter::once(Setting::DEFAULT).chain(Setting::grid()) {
        let sum = outcomes
            .iter()
            .filter_map(|outcome| outcome.keda(setting))
            .fold((0.0, 0.0, 0.0), |sum, run| (sum.0 + breach(run), sum.1 + hours(run), sum.2 + changes(run)));
        let name = if setting == Setting::DEFAULT { format!("default: {setting}") } else { setting.to_string() };
        let _ = writeln!(text, "| {name} | {} | {:.1} | {} |", sum.0, sum.1, sum.2);
    }
    text
}

fn draw(folder: &Path, outcomes: &[Outcome], equal: Setting) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let equal_name = format!("KEDA, {equal}");
    for outcome in outcomes {
        let trace = &outcome.trace;
        let mut runs = vec![("mq", "#0a58ca", &outcome.ours), ("mq with agents", "#6ea8fe", &outcome.agents)];
        runs.extend(outcome.keda(Setting::DEFAULT).map(|run| ("KEDA by default", "#adb5bd", run)));
        runs.extend(outcome.keda(equal).map(|run| (equal_name.as_str(), "#fd7e14", run)));
        runs.push(("oracle", "#198754", &outcome.oracle));
        let lines = |value| lines(&runs, value);
        let load =
            Line { name: "", colour: "#495057", values: (0..trace.seconds).map(|at| trace.arrival(at)).collect() };
        let panel = |title, lines, level, most| Panel { title, lines, level, most };
        let panels = [
            panel("messages per second that arrive", vec![load], None, None),
            panel("age of the oldest message, seconds", lines(|(age, _, _)| *age), Some(AGE.into()), Some(200.0)),
            panel("messages that wait", lines(|(_, backlog, _)| *backlog), None, None),
            panel("replicas", lines(|(_, _, replicas)| f64::from(*replicas)), None, None),
        ];
        let file = folder.join(format!("scaling-{}.svg", trace.name));
        let title = format!("{}: {}", trace.name, trace.says);
        fs::write(&file, plot::svg(&title, &panels)).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

/// A line for each run, of one value of its seconds.
fn lines<'a>(runs: &[(&'a str, &'a str, &'a Run)], value: fn(&(f64, f64, u32)) -> f64) -> Vec<Line<'a>> {
    let line = |(name, colour, run): &(&'a str, &'a str, &'a Run)| Line {
        name,
        colour,
        values: run.seconds.iter().map(value).collect(),
    };
    runs.iter().map(line).collect()
}
