//! What the watching person sees: one line per thing that happened, and on a terminal a table that stays below them.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use crate::summary::timeline::Now;

const TABLE: usize = 2;
/// What of a decision fits into one line of an ordinary terminal.
const WIDTH: usize = 76;

/// Prints the story. Everything goes to stdout.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    terminal: bool,
    table_shown: bool,
    last: String,
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            table_shown: false,
            last: String::new(),
        }
    }

    /// One thing that happened.
    pub(super) fn say(&mut self, what: &str) {
        self.clear_table();
        println!("{:>6.1}s  {what}", self.started.elapsed().as_secs_f64());
        let _ = std::io::stdout().flush(); // a reader that went away is no reason to stop
    }

    /// The state now: redrawn on a terminal; elsewhere a line when load, replicas or decision changed.
    pub(super) fn show(&mut self, now: &Now, waiting: Option<i64>) {
        let waiting = waiting.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let wanted = now.wanted.unwrap_or_default();
        let why = now.decision.as_ref().map_or("", |decision| decision.message.as_str());
        let (load, ready) = (now.load.unwrap_or_default(), now.ready);
        let state = format!("{load:.0}/s per pod, replicas {ready}/{wanted}: {why}");
        if self.terminal {
            self.clear_table();
            println!("{:>10}  {:>8}  {:>8}  decision", "load/pod", "waiting", "replicas");
            let replicas = format!("{ready}/{wanted}");
            println!("{load:>8.0}/s  {waiting:>8}  {replicas:>8}  {}", why.chars().take(WIDTH).collect::<String>());
            self.table_shown = true;
            let _ = std::io::stdout().flush();
        } else if self.last != state {
            println!("{:>6.1}s    {waiting:>5} waiting, {state}", self.started.elapsed().as_secs_f64());
            self.last = state;
        }
    }

    fn clear_table(&mut self) {
        if std::mem::take(&mut self.table_shown) {
            print!("\x1b[{TABLE}A\x1b[J");
        }
    }
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}
