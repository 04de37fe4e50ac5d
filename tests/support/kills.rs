//! Running a pipeline to its end with `kill -9` on the way.

use std::process::ExitStatus;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::place::Place;
use super::process::Server;

/// How often a process was killed.
#[derive(Debug, Default)]
pub struct Kills {
    /// While it ran or was about to.
    pub hit: usize,
    /// Of these, after it had said that it runs.
    pub running: usize,
    /// How often it had ended by itself before that.
    pub missed: usize,
}

impl Kills {
    /// Starts the pipeline, kills it at a random moment, and counts. True where it had come to its end.
    ///
    /// Half of the moments are 20 to 600 ms after the start, which on a busy machine is mostly while it opens its data;
    /// the others are within 700 ms after it has said that it runs.
    pub fn once(&mut self, place: &Place, rng: &mut StdRng) -> bool {
        let mut server = place.start(&["--exit-when-idle"]);
        let ended = if rng.random_bool(0.5) {
            server.ended_within(Duration::from_millis(rng.random_range(20..600)))
        } else {
            server.wait_for_log("running; http://");
            server.ended_within(Duration::from_millis(rng.random_range(0..700)))
        };
        self.count(server, ended)
    }

    /// The same, at a moment within `time` after the start.
    pub fn within(&mut self, time: Duration, place: &Place, rng: &mut StdRng) -> bool {
        let mut server = place.start(&["--exit-when-idle"]);
        let ended = server.ended_within(time.mul_f64(rng.random()));
        self.count(server, ended)
    }

    fn count(&mut self, mut server: Server, ended: Option<ExitStatus>) -> bool {
        if let Some(status) = ended {
            assert!(status.success(), "a run ended with {status} after {self:?}:\n{}", server.log());
            self.missed += 1;
            return true;
        }
        let running = server.is_running();
        let killed = server.kill();
        self.hit += usize::from(killed);
        self.running += usize::from(killed && running);
        self.missed += usize::from(!killed);
        !killed
    }
}
