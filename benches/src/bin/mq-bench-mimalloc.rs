//! Sending, with another allocator under both sides, librdkafka's C included: what one thread allocates, another frees.

#![forbid(unsafe_code)]

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    mq_benches::sending_with_mimalloc().await
}
