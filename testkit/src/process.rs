//! A process of this machine, be it the program in a pod or the test's own child, and the faults one can put on it.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;

/// The process of a pod's only container, or a child of the test.
#[derive(Debug)]
pub struct Process {
    pid: u32,
}

/// A stopped process; it goes on when this is dropped.
#[derive(Debug)]
#[must_use = "the process goes on at once"]
pub struct Paused(Process);

impl Process {
    /// The process with this id: a child that the test has not waited for, so that the id is still its own.
    pub fn with_id(pid: u32) -> Self {
        Self { pid }
    }

    /// A container has a cgroup of its own, which carries its id.
    pub(crate) fn of(pod: &Pod) -> Result<Self> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let id = statuses.and_then(|statuses| statuses.first()?.container_id.as_deref());
        let id =
            id.and_then(|id| id.strip_prefix("containerd://")).with_context(|| format!("pod {name} does not run"))?;
        let entries = fs::read_dir("/proc").context("listing the processes")?;
        let pid = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
            // A process that has ended meanwhile is not the one.
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|group| group.ends_with(id))
        });
        Ok(Self { pid: pid.with_context(|| format!("no process of pod {name} on this machine"))? })
    }

    /// Stops it (SIGSTOP): its connections stay open, and it answers nothing.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(self) -> Result<Paused> {
        self.signal("STOP").map(|()| Paused(self))
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// It has ended.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    fn signal(&self, name: &str) -> Result<()> {
        let command = format!("kill -{name} {}", self.pid);
        let done = Command::new("sh").args(["-c", &command]).output().with_context(|| command.clone())?;
        ensure!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        let _ended = self.0.signal("CONT");
    }
}
