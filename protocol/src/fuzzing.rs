//! What `make fuzz` calls with any bytes: the reader of what comes in on the stream. A panic is a find.

use prost::Message as _;

use crate::message::{FromAgent, FromServer};
use crate::wire;

/// A message of an agent and one of a server. What is understood is written so that it is understood again. Whether either is.
///
/// # Panics
/// When it finds something.
pub fn messages(data: &[u8]) -> bool {
    let of_agent = wire::AgentMessage::decode(data).ok().and_then(|wire| FromAgent::try_from(wire).ok());
    let of_server = wire::ServerMessage::decode(data).ok().and_then(|wire| FromServer::try_from(wire).ok());
    let understood = of_agent.is_some() || of_server.is_some();
    if let Some(message) = of_agent {
        assert_eq!(FromAgent::try_from(wire::AgentMessage::from(message.clone())), Ok(message));
    }
    if let Some(message) = of_server {
        assert_eq!(FromServer::try_from(wire::ServerMessage::from(message.clone())), Ok(message));
    }
    understood
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was found once stays found, and what is sound is understood.
    #[test]
    fn the_corpus_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/messages");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(Result::unwrap).collect();
        assert!(files.len() >= 5, "{files:?}");
        for file in files {
            let name = file.file_name().into_string().unwrap();
            let understood = messages(&std::fs::read(file.path()).unwrap());
            assert!(understood || !name.starts_with("sound-"), "{name}");
        }
    }
}
