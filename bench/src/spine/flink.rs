//! The second peer: Apache Flink, with the same filter and projection in its own SQL, and files that appear exactly
//! once.
//!
//! One process with Flink's own small cluster in it, so that nothing but work is measured: no network between job
//! manager and task managers, no client. It takes a checkpoint every second, and its file sink publishes with them.
//! Two jobs: one without state, which is Flink at its best and does less than Millstream (no table), and one that
//! keeps the first row of each id in RocksDB, which is nearest to Millstream's keyed table.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::generate::Input;
use crate::process::{self, Usage};
use crate::verify::Seen;
use crate::{Outcome, pipeline};

/// Where `bench/flink/fetch.sh` puts it unless told otherwise, from the folder of this crate.
const FOLDER: &str = "../target/peers/flink";
const HEAP: &str = "-Xmx1g";
const CHECKPOINT_INTERVAL: &str = "1s";
/// Packages of Java that Flink's start scripts open, too.
const OPENED: [&str; 13] = [
    "java.lang",
    "java.net",
    "java.io",
    "java.nio",
    "sun.nio.ch",
    "java.lang.reflect",
    "java.text",
    "java.time",
    "java.util",
    "java.util.concurrent",
    "java.util.concurrent.atomic",
    "java.util.concurrent.locks",
    "sun.net.util",
];

const COLUMNS: &str = "id, UPPER(source) AS source, headline, body, urgency, published_at";
const FILTER: &str = "`language` = 'en' AND urgency <= 8";

/// Flink, as `bench/flink/fetch.sh` leaves it.
#[derive(Debug)]
pub struct Flink {
    folder: PathBuf,
}

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Filter and projection.
    Stateless,
    /// The same, and the first row of each id is kept in RocksDB, so that a second one is no output.
    Keyed,
}

/// Flink in the folder given, or where the script puts it; else why there is none.
///
/// # Errors
/// A folder was given, and there is no Flink in it.
pub fn find(given: Option<&Path>) -> Outcome<Result<Flink, String>> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let folder = given.unwrap_or(&usual);
    let is_there = folder.join("lib").is_dir() && folder.join("classes/SpineJob.class").is_file();
    match (is_there, given) {
        (true, _) => Ok(Ok(Flink { folder: std::fs::canonicalize(folder)? })),
        (false, Some(_)) => {
            Err(format!("{}: there is no Flink; fill it with bench/flink/fetch.sh", folder.display()).into())
        }
        (false, None) => Ok(Err("not fetched: run bench/flink/fetch.sh, or give its folder with --flink".into())),
    }
}

impl Flink {
    /// `flink 2.3.0`, say.
    pub fn version(&self) -> String {
        let said = self.java().arg("SpineJob").arg("--version").output();
        said.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
    }

    /// One run, with its output checked. The time is that of the whole process.
    pub fn run(&self, job: Job, input: &Input, dir: &Path) -> Outcome<Usage> {
        pipeline::clear(dir)?;
        let (statements, out) = (dir.join("job.sql"), dir.join("out"));
        std::fs::write(&statements, sql(job, &input.path, &out))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = self.java();
        command.arg("SpineJob").arg(&statements).args([
            format!("parallelism.default={cores}"),
            format!("execution.checkpointing.interval={CHECKPOINT_INTERVAL}"),
            "execution.checkpointing.mode=EXACTLY_ONCE".into(),
            format!("execution.checkpointing.dir=file://{}", dir.join("checkpoints").display()),
            format!("io.tmp.dirs={}", dir.join("tmp").display()),
        ]);
        if job == Job::Keyed {
            command.args([
                "state.backend.type=rocksdb",
                "execution.checkpointing.incremental=true",
                "taskmanager.memory.managed.size=128m",
            ]);
        }
        let log = std::fs::File::create(dir.join("log"))?;
        let usage = process::run(command.stderr(log)).map_err(|e| {
            let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            format!("{e}; the first lines of its log:\n{}", log.lines().take(20).collect::<Vec<_>>().join("\n"))
        })?;
        let mut seen = Seen::new(input.records);
        if out.exists() {
            // What is not published yet begins with a point, and none of it may be left.
            for entry in std::fs::read_dir(&out)? {
                seen.read_file(&entry?.path())?;
            }
        }
        seen.check("Flink's files", input.passing)?;
        std::fs::remove_dir_all(dir)?;
        Ok(usage)
    }

    fn java(&self) -> Command {
        let mut command = Command::new("java");
        command.args([HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]);
        command.args(OPENED.map(|package| format!("--add-opens=java.base/{package}=ALL-UNNAMED")));
        let path = [self.folder.join("classes"), self.folder.join("lib").join("*")];
        command.arg("-cp").arg(std::env::join_paths(path).unwrap_or_default());
        command
    }
}

fn sql(job: Job, input: &Path, out: &Path) -> String {
    let files = |path: &Path| {
        format!(
            "WITH ('connector' = 'filesystem', 'path' = '{}', 'format' = 'json', \
             'json.timestamp-format.standard' = 'ISO-8601')",
            path.display()
        )
    };
    let query = match job {
        Job::Stateless => format!("SELECT {COLUMNS} FROM wire WHERE {FILTER}"),
        Job::Keyed => format!(
            "SELECT id, source, headline, body, urgency, published_at FROM (SELECT {COLUMNS}, ROW_NUMBER() OVER \
             (PARTITION BY id ORDER BY arrived ASC) AS place FROM wire WHERE {FILTER}) WHERE place = 1"
        ),
    };
    format!(
        "CREATE TABLE wire (id STRING NOT NULL, headline STRING NOT NULL, body STRING, `language` STRING, source STRING \
         NOT NULL, section STRING, urgency BIGINT NOT NULL, words BIGINT, published_at TIMESTAMP_LTZ(3) NOT NULL, \
         arrived AS PROCTIME()) {};\n\
         CREATE TABLE news (id STRING, source STRING, headline STRING, body STRING, urgency BIGINT, published_at \
         TIMESTAMP_LTZ(3)) {};\n\
         INSERT INTO news {query};\n",
        files(input),
        files(out),
    )
}
