//! What `make fuzz` calls with any bytes: the reader of what comes in on the stream. A panic is a find.

use prost::Message as _;

use crate::message::{FromAgent, FromServer};
use crate::wire;

/// A message of an agent and one of a server. What is understood is written so that it is understood again.
///
/// # Panics
/// When it finds something.
pub fn messages(data: &[u8]) {
    if let Some(message) = wire::AgentMessage::decode(data).ok().and_then(|wire| FromAgent::try_from(wire).ok()) {
        assert_eq!(FromAgent::try_from(wire::AgentMessage::from(message.clone())), Ok(message));
    }
    if let Some(message) = wire::ServerMessage::decode(data).ok().and_then(|wire| FromServer::try_from(wire).ok()) {
        assert_eq!(FromServer::try_from(wire::ServerMessage::from(message.clone())), Ok(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was found once stays found, and what is sound is read.
    #[test]
    fn the_corpus_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/messages");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            messages(&std::fs::read(file).unwrap());
        }
    }
}
