//! The finished records beyond a committed offset, as text in the metadata of the commit: `mq1:<topic id>:<offset>:<map>`.
//!
//! The map is written in one of two forms, whichever is shorter. *Runs*: how many offsets are left out, how many more than one are
//! finished, and so on, each as digits of five bits, the lowest first, and a sixth bit that says whether another digit follows. *Bits*:
//! one for each offset from the committed one on, six to a digit, the lowest first.

use std::collections::VecDeque;
use std::ops::Range;

use mq_kafka::TopicId;

/// Nothing longer is written or read. Kafka takes 4 KiB unless it is told otherwise (`offset.metadata.max.bytes`).
const MAX_TEXT: usize = 3 * 1024;
/// What is left of it for the map: what comes before takes at most 48.
const MAX_MAP: usize = 3_000;
/// What one more record can add to a map of runs: two numbers.
const ONE_MORE: usize = 2 * 13;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const MORE: u8 = 0x20;

/// The text for a commit of `prefix`. `runs` are the finished offsets beyond it, ascending and apart from each other; the first may begin there.
pub(super) fn encode(topic: TopicId, prefix: i64, runs: &[Range<i64>]) -> String {
    if runs.is_empty() {
        return String::new();
    }
    let (kind, map) = match as_runs(prefix, runs) {
        map if map.len() <= as_bits_len(prefix, runs) => ('r', map),
        _ => ('b', as_bits(prefix, runs)),
    };
    format!("{}{kind}{map}", header(topic, prefix))
}

/// The finished offsets that a text says. `None`: it is not about this offset of this topic, or nothing that this version has written.
pub(super) fn decode(topic: TopicId, prefix: i64, text: &[u8]) -> Option<Vec<Range<i64>>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let map = text.strip_prefix(header(topic, prefix).as_bytes())?;
    let (kind, map) = map.split_first()?;
    let digits: Option<Vec<u8>> = map.iter().map(|byte| digit(*byte)).collect();
    match kind {
        b'r' => from_runs(prefix, &digits?),
        b'b' => from_bits(prefix, &digits?),
        _ => None,
    }
}

/// Whether every map of `runs` runs within `span` offsets, and of one record more, can be written, whichever they are.
pub(super) fn fits(runs: usize, span: i64, share: usize) -> bool {
    // Of the numbers, which add up to the span, no more have another digit than as many as the span has room for.
    let (numbers, mut room, mut length) = (2 * runs, usize::try_from(span).unwrap_or(0), 0);
    while room > 0 {
        length += numbers.min(room);
        room >>= 5;
    }
    let limit = MAX_MAP / share;
    length + ONE_MORE <= limit || bits_len(span) <= limit
}

pub(super) fn header(topic: TopicId, prefix: i64) -> String {
    format!("mq1:{topic}:{prefix}:")
}

fn as_runs(prefix: i64, runs: &[Range<i64>]) -> String {
    let (mut text, mut at) = (String::new(), prefix);
    for run in runs {
        for mut number in [run.start.abs_diff(at), run.end.abs_diff(run.start).saturating_sub(1)] {
            loop {
                let low = (number & 0x1f) as u8;
                number >>= 5;
                push(&mut text, if number > 0 { low | MORE } else { low });
                if number == 0 {
                    break;
                }
            }
        }
        at = run.end;
    }
    text
}

fn from_runs(prefix: i64, digits: &[u8]) -> Option<Vec<Range<i64>>> {
    let (mut at, mut start, mut runs) = (prefix, None, Vec::new());
    let mut digits = digits.iter();
    while let Some(mut digit) = digits.next() {
        let mut number = i64::from(digit & !MORE);
        let mut shift = 5;
        while digit & MORE != 0 {
            digit = digits.next()?;
            let high = i64::from(digit & !MORE);
            // Twelve digits of five bits: no log is longer.
            if shift > 55 {
                return None;
            }
            number |= high << shift;
            shift += 5;
        }
        at = at.checked_add(number)?;
        match start.take() {
            None => start = Some(at),
            Some(start) => {
                at = at.checked_add(1)?;
                runs.push(start..at);
            }
        }
    }
    start.is_none().then_some(runs)
}

fn bits_len(span: i64) -> usize {
    usize::try_from(span).unwrap_or(0).div_ceil(6)
}

fn as_bits_len(prefix: i64, runs: &[Range<i64>]) -> usize {
    // A map that is too long in both forms loses its end: what is not in it is handled again.
    runs.last().map_or(0, |last| bits_len(last.end - prefix).min(MAX_MAP))
}

fn as_bits(prefix: i64, runs: &[Range<i64>]) -> String {
    let mut digits = vec![0_u8; as_bits_len(prefix, runs)];
    for offset in runs.iter().cloned().flatten() {
        let bit = usize::try_from(offset - prefix).unwrap_or(usize::MAX);
        match digits.get_mut(bit / 6) {
            Some(digit) => *digit |= 1 << (bit % 6),
            None => break,
        }
    }
    let mut text = String::with_capacity(digits.len());
    for digit in digits {
        push(&mut text, digit);
    }
    text
}

fn from_bits(prefix: i64, digits: &[u8]) -> Option<Vec<Range<i64>>> {
    // Not past the last offset that there can be.
    let end = prefix.checked_add(i64::try_from(6 * digits.len()).ok()?)?;
    let mut runs: Vec<Range<i64>> = Vec::new();
    let bits = digits.iter().flat_map(|digit| (0..6).map(move |bit| (digit >> bit) & 1 == 1));
    for (offset, finished) in (prefix..end).zip(bits) {
        match runs.last_mut() {
            _ if !finished => {}
            Some(run) if run.end == offset => run.end = offset + 1,
            _ => runs.push(offset..offset + 1),
        }
    }
    Some(runs)
}

fn push(text: &mut String, digit: u8) {
    text.push(char::from(DIGITS[usize::from(digit & 0x3f)]));
}

fn digit(byte: u8) -> Option<u8> {
    let digit = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(digit)
}

/// What an earlier assignment finished beyond its committed offset and this one has not read again yet.
#[derive(Debug, Default)]
pub(super) struct Before(VecDeque<Range<i64>>);

impl Before {
    pub(super) fn new(runs: Vec<Range<i64>>) -> Self {
        Self(runs.into())
    }

    /// Whether the record at this offset was finished. To be asked in the order of the log.
    pub(super) fn take(&mut self, offset: i64) -> bool {
        while self.0.pop_front_if(|run| run.end <= offset).is_some() {}
        self.0.front().is_some_and(|run| run.start <= offset)
    }

    /// Those from this offset on.
    pub(super) fn runs(&self, from: i64) -> impl Iterator<Item = Range<i64>> {
        self.0.iter().map(move |run| run.start.max(from)..run.end).filter(|run| !run.is_empty())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn end(&self) -> Option<i64> {
        self.0.back().map(|run| run.end)
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a list of runs may be of one")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: &str = "AAAAAAAAAAAAAAAAAAAAAQ";

    fn topic() -> TopicId {
        TOPIC.parse().unwrap()
    }

    /// Runs that are apart from each other and from the prefix, of these gaps and lengths.
    fn runs(prefix: i64, gaps_and_lengths: &[(i64, i64)]) -> Vec<Range<i64>> {
        let mut at = prefix;
        let run = |(gap, length): &(i64, i64)| {
            let start = at + gap;
            at = start + length;
            start..at
        };
        gaps_and_lengths.iter().map(run).collect()
    }

    #[test]
    fn the_text_that_other_versions_have_to_read() {
        let text = encode(topic(), 7, &[8..9, 10..500]);
        assert_eq!(text, format!("mq1:{TOPIC}:7:rBABpP"));
        assert_eq!(decode(topic(), 7, text.as_bytes()), Some(vec![8..9, 10..500]));
        let alternating = runs(7, &[(1, 1); 20]);
        let text = encode(topic(), 7, &alternating);
        assert_eq!(text, format!("mq1:{TOPIC}:7:bqqqqqqK"));
        assert_eq!(decode(topic(), 7, text.as_bytes()), Some(alternating));
        let at_once = encode(topic(), 7, &[7..9]);
        assert_eq!(decode(topic(), 7, at_once.as_bytes()), Some(vec![7..9]), "finished before and not read again yet");
        assert_eq!(encode(topic(), 7, &[]), "");
    }

    #[test]
    fn a_text_is_believed_for_its_own_topic_and_offset_alone() {
        let text = encode(topic(), 7, &[10..500]);
        let other = "AAAAAAAAAAAAAAAAAAAAAg".parse().unwrap();
        assert_eq!(decode(other, 7, text.as_bytes()), None);
        assert_eq!(decode(topic(), 8, text.as_bytes()), None);
        assert_eq!(decode(topic(), 7, text.replace("mq1", "mq2").as_bytes()), None);
        assert_eq!(decode(topic(), 7, text.replace(":rDpP", ":rDp").as_bytes()), None, "half a number");
        assert_eq!(decode(topic(), 7, text.replace(":rDpP", ":rD").as_bytes()), None, "half a run");
        assert_eq!(decode(topic(), 7, format!("{text}{}", "A".repeat(4_000)).as_bytes()), None);
        assert_eq!(decode(topic(), 7, b""), None);
    }

    #[test]
    fn a_map_that_is_too_long_loses_its_end() {
        let all = runs(0, &vec![(1, 1); 40_000]);
        let text = encode(topic(), 0, &all);
        assert!(text.len() <= MAX_TEXT, "{}", text.len());
        assert_eq!(decode(topic(), 0, text.as_bytes()).as_deref(), Some(&all[..9_000]));
    }

    fn gaps_and_lengths() -> impl Strategy<Value = Vec<(i64, i64)>> {
        let number = prop_oneof![8 => 1_i64..4, 4 => 1_i64..100, 1 => 1_i64..1 << 40];
        prop::collection::vec((number.clone(), number), 0..700)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(prefix in 0_i64..1 << 40, gaps_and_lengths in gaps_and_lengths()) {
            let runs = runs(prefix, &gaps_and_lengths);
            let text = encode(topic(), prefix, &runs);
            prop_assert!(text.len() <= MAX_TEXT && text.is_ascii());
            let read = if text.is_empty() { Some(Vec::new()) } else { decode(topic(), prefix, text.as_bytes()) };
            let span = runs.last().map_or(0, |last| last.end - prefix);
            if fits(runs.len(), span, 1) {
                prop_assert_eq!(read, Some(runs));
            } else {
                // Never anything else than what was finished.
                let read = read.unwrap();
                let within = |run: &Range<i64>| runs.iter().any(|whole| whole.start <= run.start && run.end <= whole.end);
                prop_assert!(read.iter().all(within));
            }
        }

        /// Whatever a foreign client wrote: no panic, and nothing but ascending offsets beyond the committed one.
        #[test]
        fn anything_can_be_read(
            prefix in prop_oneof![0_i64..1_000, i64::MAX - 100..i64::MAX],
            kind in "[rbx]?",
            map in prop_oneof![prop::collection::vec(any::<u8>(), 0..50), prop::collection::vec(prop::sample::select(&DIGITS[..]), 0..4_000)],
            headed: bool,
        ) {
            let mut text = if headed { header(topic(), prefix).into_bytes() } else { Vec::new() };
            text.extend(kind.bytes());
            text.extend(map);
            let read = decode(topic(), prefix, &text);
            prop_assert!(headed || read.is_none());
            let mut at = prefix;
            for run in read.iter().flatten() {
                prop_assert!(at <= run.start && run.start < run.end, "{run:?} after {at}");
                at = run.end;
            }
            prop_assert!(read.is_none_or(|read| read.len() <= 3 * MAX_MAP));
        }
    }
}
