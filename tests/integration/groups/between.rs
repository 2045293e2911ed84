//! A client of the API server with something between them that spoils requests or answers.

use std::task::{Context, Poll};

use futures::{FutureExt, future::BoxFuture};
use kube::{Client, client::Body};
use tonic::codegen::{
    Service,
    http::{Request, Response},
};

/// A client whose requests go through `spoils`, which has the true client to send them on.
pub(super) fn between<F, A>(client: Client, spoils: F) -> Client
where
    F: Fn(Client, Request<Body>) -> A + Clone + Send + 'static,
    A: Future<Output = kube::Result<Response<Body>>> + Send + 'static,
{
    Client::new(Between { client, spoils }, "default")
}

#[derive(Clone)]
struct Between<F> {
    client: Client,
    spoils: F,
}

impl<F, A> Service<Request<Body>> for Between<F>
where
    F: Fn(Client, Request<Body>) -> A,
    A: Future<Output = kube::Result<Response<Body>>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, kube::Result<Response<Body>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        (self.spoils)(self.client.clone(), request).boxed()
    }
}
