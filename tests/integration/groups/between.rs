//! A client of the API server with something between them that spoils requests or answers.

use std::task::{Context, Poll};

use anyhow::Result;
use axum::{Router, body, http::StatusCode};
use futures::{FutureExt, future::BoxFuture};
use kube::{Client, client::Body};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::{
    Service,
    http::{Request, Response, header},
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

/// Longest request that is passed on.
const LONGEST: usize = 4 << 20;

/// Serves what the client reaches to processes that are no part of the test; returns the URL.
pub(super) async fn serve(client: Client) -> Result<(String, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let pass = move |request| pass(client.clone(), request);
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, Router::new().fallback(pass)).await {
            eprintln!("between: {error}");
        }
    });
    Ok((url, AbortOnDropHandle::new(serving)))
}

async fn pass(client: Client, request: Request<body::Body>) -> Result<Response<body::Body>, (StatusCode, String)> {
    let failed = |error: String| (StatusCode::BAD_GATEWAY, error);
    let (mut head, content) = request.into_parts();
    // They are about this connection, not about the next.
    head.headers.remove(header::HOST);
    head.headers.remove(header::CONTENT_LENGTH);
    let content = body::to_bytes(content, LONGEST).await.map_err(|error| failed(error.to_string()))?;
    let answer = client.send(Request::from_parts(head, Body::from(content))).await;
    let mut answer = answer.map_err(|error| failed(error.to_string()))?;
    for own in [header::CONNECTION, header::TRANSFER_ENCODING] {
        answer.headers_mut().remove(own);
    }
    Ok(answer.map(body::Body::new))
}
