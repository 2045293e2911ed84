//! Compiles the contract without a `protoc` binary.

use std::error::Error;

const PROTO: &str = "proto/mq/agent/v1alpha1/agent.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([PROTO], ["proto"])?;
    // Bodies are shared between the streams of all pods: `Bytes` clones without a copy. Ordered maps make equal messages
    // equal bytes.
    let mut config = tonic_prost_build::Config::new();
    config.bytes(["."]).btree_map(["."]);
    tonic_prost_build::configure().compile_fds_with_config(files, config)?;
    Ok(())
}
