//! What would be decided if something were not seen for a while.

use crate::{Ours, Scaler, Seen, World};

/// What is not seen for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hidden {
    Commit(usize),
    End(usize),
    Everything,
    Members,
}

impl Hidden {
    fn from(self, mut seen: Seen) -> Seen {
        let away = || "away".to_owned();
        match self {
            Self::Commit(n) => seen.readings[n].committed = Err(away()),
            Self::End(n) => seen.readings[n].end = Err(away()),
            Self::Everything => seen.readings.iter_mut().for_each(|reading| reading.end = Err(away())),
            Self::Members => seen.members = None,
        }
        seen
    }
}

/// Decides twice in some cycles: once with everything, which is what counts, and once without what is hidden.
pub(crate) struct Blindfolded {
    ours: Ours,
    hidden: Hidden,
    /// Every so many cycles, for so many of them.
    every: (u32, u32),
    blind: Option<Ours>,
    /// What it took away for no other reason than that it did not see.
    pub(crate) taken: Vec<String>,
}

impl Blindfolded {
    pub(crate) fn new(ours: Ours, hidden: Hidden, every: (u32, u32)) -> Self {
        Self { ours, hidden, every, blind: None, taken: Vec::new() }
    }
}

impl Scaler for Blindfolded {
    fn look(&mut self, second: u32, world: &mut World<'_>) -> Option<(u32, String)> {
        let seen = self.ours.read(second, world)?;
        let (replicas, cycle) = (seen.target.replicas, second / 5);
        let blind = if cycle % self.every.0 < self.every.1 {
            let blind = self.blind.get_or_insert_with(|| self.ours.clone());
            Some(blind.decide(self.hidden.from(seen.clone())).clone())
        } else {
            self.blind = None;
            None
        };
        let decision = self.ours.decide(seen);
        if let Some(blind) = blind.filter(|blind| blind.desired < decision.desired.min(replicas)) {
            self.taken.push(format!("at {second}: {blind:?} instead of {decision:?}"));
        }
        let step = decision.is_step().then(|| (decision.desired, decision.message.clone()));
        if step.is_some() {
            // It does not know of the step.
            self.blind = None;
        }
        step
    }
}
