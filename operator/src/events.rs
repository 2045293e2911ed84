//! Kubernetes events (`events.k8s.io`): one for each change that was made and for each turn of an object's health.

use crate::{
    object::{Guarded, Object, key_of, reference},
    writer::Writer,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter},
};
use mq_core::{
    condition::{Health, Verdict},
    effect::ObjectKey,
    reason::Reason,
};
use serde_json::Value;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

/// The API refuses longer notes.
const MAX_NOTE: usize = 1024;

/// Something worth telling about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// A person should look.
    pub warning: bool,
    /// Why or what.
    pub reason: Reason,
    /// The sentence.
    pub message: String,
}

impl Event {
    /// What was done or found, as it should be.
    pub fn normal(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    /// What a person should look at.
    pub fn warning(reason: Reason, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }

    /// The event for a change of health, if it is one. Progress has none: what is done has events of its own. That a
    /// client refused something is told also where nobody has to do anything.
    pub(crate) fn of_turn(stored_status: &Value, verdict: &Verdict) -> Option<Self> {
        let ready = crate::status::stored(stored_status, "Ready");
        if ready.is_some_and(|old| old["reason"] == verdict.reason.as_str()) {
            return None;
        }
        match verdict.health {
            Health::Reconciling if verdict.reason != Reason::RejectedByClient => None,
            Health::Ready | Health::Held => Some(Self::normal(verdict.reason, &verdict.message)),
            Health::Reconciling | Health::Stalled | Health::Unknown => {
                Some(Self::warning(verdict.reason, &verdict.message))
            }
        }
    }
}

/// As many notes are remembered. A repetition of one that is not is an event of its own.
const REMEMBERED: usize = 256;

/// Publishes events; a failure is logged and never stops a reconciliation.
#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    reporter: Reporter,
    /// A recorder counts what has the same object and reason as one event, with the first one's note: so each note has its own.
    recorders: Arc<Mutex<VecDeque<(String, Recorder)>>>,
    writer: Writer,
}

impl Events {
    pub(crate) fn new(client: Client, writer: Writer, instance: String) -> Self {
        let reporter = Reporter { controller: "mq-operator".into(), instance: Some(instance) };
        Self { client, reporter, recorders: Arc::default(), writer }
    }

    fn recorder(&self, note: &str) -> Recorder {
        let mut recorders = self.recorders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, recorder)) = recorders.iter().find(|(known, _)| known == note) {
            return recorder.clone();
        }
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        recorders.push_back((note.to_owned(), recorder.clone()));
        if recorders.len() > REMEMBERED {
            recorders.pop_front();
        }
        recorder
    }

    pub(crate) async fn publish<K: Object>(&self, object: &Guarded<K>, action: &str, event: Event) {
        self.publish_about(&reference(object), &key_of(object), action, event).await;
    }

    /// The same for an object of any kind.
    pub(crate) async fn publish_about(&self, regarding: &ObjectReference, key: &ObjectKey, action: &str, event: Event) {
        let kind = regarding.kind.as_deref().unwrap_or_default();
        tracing::info!(kind, object = %key, reason = event.reason.as_str(), "{}", event.message);
        let note = shortened(event.message);
        let recorder = self.recorder(&note);
        let published = KubeEvent {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.as_str().to_owned(),
            note: Some(note),
            action: action.to_owned(),
            secondary: None,
        };
        let request = recorder.publish(&published, regarding);
        if let Err(error) = self.writer.write("event", key, request).await {
            tracing::warn!(%error, reason = published.reason, "event not published");
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > MAX_NOTE {
        let cut = (0..=MAX_NOTE - '…'.len_utf8()).rev().find(|at| note.is_char_boundary(*at)).unwrap_or_default();
        note.truncate(cut);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn notes_fit_the_api() {
        assert_eq!(shortened("short".into()), "short");
        for long in ["x".repeat(3000), "ü".repeat(3000), format!("x{}", "→".repeat(3000))] {
            let note = shortened(long);
            assert!(note.len() <= MAX_NOTE && note.len() > MAX_NOTE - 8, "{}", note.len());
        }
    }

    #[test]
    fn only_a_turn_is_an_event() {
        let stored = json!({"conditions": [{"type": "Ready", "status": "True", "reason": "InSync"}]});
        let event = |verdict| Event::of_turn(&stored, &verdict).map(|e| e.warning);
        assert_eq!(event(Verdict::ready(Reason::InSync, "again")), None);
        assert_eq!(event(Verdict::reconciling(Reason::Progressing, "on the way")), None);
        assert_eq!(event(Verdict::stalled(Reason::ResourceConflict, "no")), Some(true));
        assert_eq!(event(Verdict::unknown(Reason::ClusterUnreachable, "no answer")), Some(true));
        assert_eq!(
            Event::of_turn(&Value::Null, &Verdict::ready(Reason::InSync, "first")).map(|e| e.warning),
            Some(false)
        );
    }
}
