use kafka_protocol::ResponseError;

use crate::{BrokerError, Error};

/// Why nothing could be said about one group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no such group, or it is of a kind that this library cannot describe (share and streams groups).
    #[error("the group does not exist")]
    Absent,
    /// The user that this client connects as may not see it.
    #[error("not authorized: {0}; grant the operator's Kafka user Describe on this group")]
    Unauthorized(BrokerError),
    /// Any other answer of the broker.
    #[error("{0}")]
    Broker(BrokerError),
    /// The request that carried this group brought no usable answer.
    #[error(transparent)]
    Request(#[from] Error),
}

impl GroupError {
    /// Whether the same may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_retryable(),
            Self::Request(error) => error.is_retryable(),
            Self::Absent | Self::Unauthorized(_) => false,
        }
    }

    /// `Ok` for code 0.
    pub(crate) fn check(code: i16, message: Option<&str>) -> Result<(), Self> {
        let Some(error) = BrokerError::from_code(code, message) else { return Ok(()) };
        Err(match error.code {
            ResponseError::GroupIdNotFound => Self::Absent,
            ResponseError::GroupAuthorizationFailed => Self::Unauthorized(error),
            _ => Self::Broker(error),
        })
    }

    /// Whether another broker coordinates the group now, or will in a moment.
    pub(crate) fn coordinator_moved(&self) -> bool {
        use ResponseError as E;
        matches!(
            self,
            Self::Broker(BrokerError {
                code: E::NotCoordinator | E::CoordinatorNotAvailable | E::CoordinatorLoadInProgress,
                ..
            })
        )
    }
}
