//! Who speaks: a projected token of the audience `mq-operator`, checked by the API server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use mq_protocol::TOKEN_AUDIENCE;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tonic::Status;

use super::index::Pod;

/// A token that was accepted is asked about again after this time at the latest, so that one of a deleted pod ends. It spares
/// requests for pods that come back often; a pod alone costs one in this time.
const CACHE_TIME: Duration = Duration::from_mins(1);
/// Tokens remembered. Beyond it each connection costs a request.
const CACHE_SIZE: usize = 20_000;
/// Requests under way at once: pods that all return at the same time must not become a load on the API server.
const IN_FLIGHT: usize = 16;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// A pod that proved who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its namespace: the only one whose objects it may read.
    pub namespace: String,
    /// The pod.
    pub pod: Pod,
}

/// Why a peer is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No `authorization: Bearer …`.
    #[error("no token: send `authorization: Bearer <token>` with a projected token of the audience {TOKEN_AUDIENCE}")]
    Missing,
    /// The API server does not accept it for our audience.
    #[error("the token is not valid for the audience {TOKEN_AUDIENCE}: {0}")]
    NotAccepted(String),
    /// It is valid, but no pod's.
    #[error("the token of {0} is not bound to a pod; mount a projected serviceAccountToken instead")]
    NotAPod(String),
    /// It could not be found out.
    #[error("the token could not be checked, try again: {0}")]
    Unknown(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Missing | Refusal::NotAccepted(_) => Self::unauthenticated(message),
            Refusal::NotAPod(_) => Self::permission_denied(message),
            Refusal::Unknown(_) => Self::unavailable(message),
        }
    }
}

/// Checks tokens; remembers those that were accepted, by hash. Never logs one.
#[derive(Clone)]
pub struct Reviewer {
    reviews: Api<TokenReview>,
    in_flight: Arc<Semaphore>,
    accepted: Arc<Mutex<HashMap<[u8; 32], Accepted>>>,
}

struct Accepted {
    identity: Identity,
    until: Timestamp,
}

impl std::fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl Reviewer {
    /// Needs the right to create `tokenreviews`.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client), in_flight: Arc::new(Semaphore::new(IN_FLIGHT)), accepted: Arc::default() }
    }

    /// Who sent this `authorization` header.
    ///
    /// # Errors
    /// See [`Refusal`]; `Unknown` is worth another try.
    pub async fn identify(&self, authorization: Option<&str>) -> Result<Identity, Refusal> {
        let token = authorization.and_then(|header| header.strip_prefix("Bearer ")).ok_or(Refusal::Missing)?;
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some(identity) = self.remembered(&digest, Timestamp::now()) {
            return Ok(identity);
        }
        let status = tokio::time::timeout(REVIEW_TIMEOUT, self.review(token))
            .await
            .map_err(|_| Refusal::Unknown("the API server did not answer in time".to_owned()))??;
        let identity = judge(&status)?;
        self.remember(digest, &identity, token, Timestamp::now());
        Ok(identity)
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Refusal> {
        let unknown = |error: &dyn std::fmt::Display| Refusal::Unknown(error.to_string());
        let _permit = self.in_flight.acquire().await.map_err(|error| unknown(&error))?;
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]) },
            ..TokenReview::default()
        };
        let review = self.reviews.create(&PostParams::default(), &review).await.map_err(|error| unknown(&error))?;
        review.status.ok_or_else(|| Refusal::Unknown("the review has no result".to_owned()))
    }

    fn remembered(&self, digest: &[u8; 32], now: Timestamp) -> Option<Identity> {
        let accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        accepted.get(digest).filter(|accepted| now < accepted.until).map(|accepted| accepted.identity.clone())
    }

    fn remember(&self, digest: [u8; 32], identity: &Identity, token: &str, now: Timestamp) {
        let Ok(limit) = now.checked_add(CACHE_TIME) else { return };
        let until = expiry(token).map_or(now, |expiry| expiry.min(limit));
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.len() >= CACHE_SIZE {
            accepted.retain(|_, accepted| now < accepted.until);
        }
        if accepted.len() < CACHE_SIZE && now < until {
            accepted.insert(digest, Accepted { identity: identity.clone(), until });
        }
    }
}

fn judge(status: &TokenReviewStatus) -> Result<Identity, Refusal> {
    if status.authenticated != Some(true) {
        let error = status.error.clone().unwrap_or_else(|| "not authenticated".to_owned());
        return Err(Refusal::NotAccepted(error));
    }
    // An authenticator that knows no audiences accepts any token: it must confirm ours.
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(Refusal::NotAccepted("the API server did not confirm the audience".to_owned()));
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    let mut extra = user.extra.unwrap_or_default();
    let mut one = |key: &str| extra.remove(key).and_then(|mut values| values.pop()).filter(|value| !value.is_empty());
    match (account, one(POD_NAME), one(POD_UID)) {
        (Some((namespace, _)), Some(pod), Some(uid)) => {
            Ok(Identity { namespace: namespace.to_owned(), pod: Pod { uid, name: pod } })
        }
        _ => Err(Refusal::NotAPod(name)),
    }
}

/// The claim `exp`. Only of tokens that the API server accepted: nothing is verified here.
fn expiry(token: &str) -> Option<Timestamp> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(change: impl FnOnce(&mut serde_json::Value)) -> TokenReviewStatus {
        let mut value = json!({
            "authenticated": true,
            "audiences": ["mq-operator"],
            "user": {
                "username": "system:serviceaccount:shop:orders",
                "extra": {POD_NAME: ["orders-1"], POD_UID: ["u-1"]},
            },
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_is_who_its_token_says() {
        let identity = judge(&status(|_| ())).unwrap();
        let pod = Pod { uid: "u-1".into(), name: "orders-1".into() };
        assert_eq!(identity, Identity { namespace: "shop".into(), pod });
    }

    #[test]
    fn everything_else_is_refused_with_a_reason() {
        type Change = fn(&mut serde_json::Value);
        let table: [(Change, tonic::Code, &str); 6] = [
            (|s| s["authenticated"] = json!(false), tonic::Code::Unauthenticated, "not authenticated"),
            (|s| s["audiences"] = json!(["other"]), tonic::Code::Unauthenticated, "did not confirm the audience"),
            (|s| s["audiences"] = json!(null), tonic::Code::Unauthenticated, "did not confirm the audience"),
            (|s| s["user"]["username"] = json!("alice"), tonic::Code::PermissionDenied, "token of alice is not bound"),
            (|s| s["user"]["extra"] = json!({}), tonic::Code::PermissionDenied, "not bound to a pod"),
            (|s| s["user"] = json!(null), tonic::Code::PermissionDenied, "not bound to a pod"),
        ];
        for (change, code, sentence) in table {
            let refused = Status::from(judge(&status(change)).unwrap_err());
            assert_eq!(refused.code(), code);
            assert!(refused.message().contains(sentence), "{}", refused.message());
        }
    }

    #[test]
    fn a_token_is_remembered_until_it_expires() {
        let token = |exp: i64| format!("h.{}.s", URL_SAFE_NO_PAD.encode(json!({ "exp": exp }).to_string()));
        assert_eq!(expiry(&token(1_000)), Timestamp::from_second(1_000).ok());
        for broken in ["", "a", "a.b.c", "a.e30.c"] {
            assert_eq!(expiry(broken), None, "{broken}");
        }
    }
}
