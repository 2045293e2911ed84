//! Consumer groups on real servers: their lag as the operator tells it, and their replicas.
//!
//! The control plane has no kubelet: [`kubelet`] makes pods ready and runs a real consumer for each of them.

mod kubelet;
mod lag;
mod scaling;
mod world;
