//! Where a client's configuration comes from. Every source gives a whole configuration; keys of two are never mixed.

mod files;
mod given;
mod last_good;
mod watch;

use bytes::Bytes;
use mq_protocol::body::Encoded;
use mq_protocol::message::Version;

pub(crate) use files::ConfigFiles;
pub(crate) use given::Given;
pub use given::{ConfigBody, ConfigOutcome, ConfigSource};
pub(crate) use last_good::LastGood;
pub(crate) use watch::watch;

use crate::credentials::Credentials;

/// The sources, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The program's own [`Config`](crate::Config).
    Code,
    /// `/config/mq/<kind>.<name>.json`.
    File,
    /// The service's own [`ConfigSource`].
    Own,
    /// What the stream gave before the last restart.
    LastGood,
    /// The operator.
    Stream,
}

/// One configuration of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) source: Source,
    pub(crate) version: Version,
    pub(crate) body: Bytes,
}

impl Value {
    pub(crate) fn new(source: Source, revision: i64, hash: String, body: impl Into<Bytes>) -> Self {
        Self { source, version: Version { revision, hash }, body: body.into() }
    }

    /// A value without a revision.
    pub(crate) fn of(source: Source, value: ConfigBody) -> Self {
        let Encoded { json, hash } = value.into();
        Self::new(source, 0, hash, json)
    }
}

/// What the operator has said about one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// Nothing yet.
    #[default]
    Silent,
    /// There is nothing to send; the client goes on with what it has.
    NotReady,
    /// There is no such object: the client returns to what it would run without the operator.
    Gone,
    Value(Value),
}

/// Everything that is known about one client's configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) credentials: Credentials,
    pub(crate) code: Option<Value>,
    pub(crate) file: Option<Value>,
    pub(crate) own: Option<Value>,
    pub(crate) last_good: Option<Value>,
    pub(crate) pushed: Pushed,
    /// How often the operator asked for an answer: it is owed one even if the value is the same as before.
    pub(crate) asked: u64,
}

impl Sources {
    /// The values to try, the strongest first. The later ones matter only to a client that does not run yet: a running one keeps
    /// what it has rather than going back to a weaker source.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &Value> {
        let pushed = match &self.pushed {
            Pushed::Value(value) => Some(value),
            Pushed::Silent | Pushed::NotReady | Pushed::Gone => None,
        };
        // The last good value came from the object; without the object it is no longer good.
        let last_good = self.last_good.as_ref().filter(|_| self.pushed != Pushed::Gone);
        [pushed, last_good, self.own.as_ref(), self.file.as_ref(), self.code.as_ref()].into_iter().flatten()
    }

    /// Takes the word of a source that is asked per client. Whether it is a new one.
    pub(crate) fn give(&mut self, source: Source, value: Option<Value>) -> bool {
        let known = match source {
            Source::File => &mut self.file,
            Source::Own => &mut self.own,
            Source::Code | Source::LastGood | Source::Stream => return false,
        };
        let changed = *known != value;
        *known = value;
        changed
    }

    /// Whether it makes sense to wait for the operator's first word.
    pub(crate) fn is_silent(&self) -> bool {
        self.pushed == Pushed::Silent
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(source: Source) -> Value {
        Value::new(source, 1, format!("{source:?}"), "{}")
    }

    fn sources(present: [bool; 4], pushed: Pushed) -> Sources {
        let [code, file, own, last_good] = present;
        Sources {
            credentials: Credentials::default(),
            code: code.then(|| value(Source::Code)),
            file: file.then(|| value(Source::File)),
            own: own.then(|| value(Source::Own)),
            last_good: last_good.then(|| value(Source::LastGood)),
            pushed,
            asked: 0,
        }
    }

    fn first(sources: &Sources) -> Option<Source> {
        sources.candidates().next().map(|value| value.source)
    }

    #[test]
    fn the_strongest_source_is_taken_whole() {
        use Source::{Code, File, LastGood, Own, Stream};
        let pushed = || Pushed::Value(value(Stream));
        for (present, pushed, expected) in [
            ([true, true, true, true], pushed(), Some(Stream)),
            ([true, true, true, true], Pushed::Silent, Some(LastGood)),
            ([true, true, true, true], Pushed::NotReady, Some(LastGood)),
            ([true, true, true, true], Pushed::Gone, Some(Own)),
            ([true, true, true, false], Pushed::Silent, Some(Own)),
            ([true, true, false, false], Pushed::Silent, Some(File)),
            ([true, false, false, false], Pushed::Silent, Some(Code)),
            ([false, false, false, true], Pushed::Gone, None),
            ([false, false, false, false], Pushed::Silent, None),
        ] {
            assert_eq!(first(&sources(present, pushed.clone())), expected, "{present:?} {pushed:?}");
        }
    }

    proptest! {
        #[test]
        fn candidates_descend(present: [bool; 4], with_value: bool) {
            let pushed = if with_value { Pushed::Value(value(Source::Stream)) } else { Pushed::Silent };
            let sources = sources(present, pushed);
            let order: Vec<Source> = sources.candidates().map(|value| value.source).collect();
            prop_assert!(order.windows(2).all(|pair| pair[0] > pair[1]));
        }
    }
}
