//! Any metadata of a commit, taken over as an assignment does: for tests that look for a panic.

use std::ops::Range;

use super::finished;
use super::offsets::Offsets;

const TOPIC: &str = "AAAAAAAAAAAAAAAAAAAAAQ";
/// How many records of the log follow the committed offset.
const LOG: i64 = 200;

/// The committed offset in eight bytes, one that says whether what follows has the right beginning, and the rest of the text. Whether it is
/// understood.
///
/// # Panics
/// When it finds something.
pub fn commit_metadata(data: &[u8]) -> bool {
    let (Some((offset, [begins, text @ ..])), Ok(topic)) = (data.split_first_chunk(), TOPIC.parse()) else {
        return false;
    };
    let committed = i64::from_be_bytes(*offset) & i64::MAX;
    let header = if begins % 2 == 1 { finished::header(topic, committed) } else { String::new() };
    let Some(runs) = finished::decode(topic, committed, &[header.as_bytes(), text].concat()) else {
        return false;
    };
    let mut at = committed;
    for run in &runs {
        assert!(at <= run.start && run.start < run.end, "{run:?} after {at}");
        at = run.end;
    }

    let end = committed.saturating_add(LOG);
    let is_finished = |offset: &i64| runs.iter().any(|run| run.contains(offset));
    let within = runs.iter().map(|run| run.start..run.end.min(end)).filter(|run| !run.is_empty());
    let mut offsets = Offsets::resume(Some(committed), Some(topic), within.collect());
    for offset in committed..end {
        let finished = offsets.was_finished(offset);
        assert_eq!(finished, is_finished(&offset), "{offset}");
        let sequence = offsets.accept(offset);
        if finished {
            offsets.finish(sequence);
        }
        let _ = (offsets.is_far_ahead(), offsets.is_near_again());
    }
    let prefix = offsets.prefix().unwrap_or(committed);
    assert!((committed..prefix).all(|offset| is_finished(&offset)) && !is_finished(&prefix) || prefix == end);
    let told: Vec<Range<i64>> = finished::decode(topic, prefix, offsets.map().as_bytes()).unwrap_or_default();
    assert!(told.into_iter().flatten().eq((prefix..end).filter(is_finished)));
    true
}
