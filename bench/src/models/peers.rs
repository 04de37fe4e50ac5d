//! Where the peers come from: a Python with `bench/models/requirements.txt` makes the random weights, the inputs and
//! the ONNX files, and runs PyTorch, ONNX Runtime and OpenVINO; `bench/models/rust-peers`, a crate outside the
//! workspace, runs candle and rten.

use std::path::{Path, PathBuf};
use std::process::Command;

use millstream_bench::Outcome;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/peers.py");
const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/requirements.txt");
const CRATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/rust-peers");
/// What the crate's binary measures.
const RUST_PEERS: [&str; 3] = ["candle-f32", "rten-f32", "rten-int8"];

/// Which peers there are.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Python with `bench/models/requirements.txt`; without it PyTorch, ONNX Runtime and OpenVINO are left out, and
    /// the folder must be there.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Sets such a Python up in this folder (some gigabytes), with `python3` and packages from PyPI, where it is not
    /// there yet.
    #[arg(long, conflicts_with = "python")]
    install_peers: Option<PathBuf>,
    /// Builds candle and rten for this processor, with `cargo` and crates from crates.io, and measures them too.
    #[arg(long)]
    rust_peers: bool,
}

/// Peers that are ready to run.
pub struct Peers {
    python: Option<PathBuf>,
    rust: Option<PathBuf>,
}

impl Peers {
    /// Installs and builds what is asked for and not there.
    pub fn prepare(args: &Args) -> Outcome<Peers> {
        let python = match &args.install_peers {
            Some(folder) => Some(install(folder)?),
            None => args.python.clone(),
        };
        let rust = if args.rust_peers { Some(build()?) } else { None };
        Ok(Peers { python, rust })
    }

    /// Makes weights, inputs and ONNX files.
    pub fn make(&self, folder: &Path, shape: &str) -> Outcome<()> {
        let python = self.python.as_ref().ok_or("no inputs yet: they are made with --install-peers or --python")?;
        eprintln!("making weights and inputs in {}", folder.display());
        succeed(script(python).arg("make").arg(folder).args(["--shape", shape]))
    }

    /// All of them, in the order of their turns.
    pub fn names(&self) -> Outcome<Vec<String>> {
        let mut names = Vec::new();
        if let Some(python) = &self.python {
            let listed = script(python).arg("list").output()?;
            names.extend(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned));
        }
        if self.rust.is_some() {
            names.extend(RUST_PEERS.map(str::to_owned));
        }
        Ok(names)
    }

    /// The command that measures one of them and prints a line of JSON.
    pub fn command(&self, name: &str, folder: &Path) -> Outcome<Command> {
        let mut command = match (&self.python, &self.rust) {
            (_, Some(binary)) if RUST_PEERS.contains(&name) => Command::new(binary),
            (Some(python), _) => {
                let mut command = script(python);
                command.arg("run");
                command
            }
            _ => return Err(format!("{name} needs --python or --rust-peers").into()),
        };
        command.arg(folder).arg(name);
        Ok(command)
    }
}

fn script(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(SCRIPT);
    // The kernels of the peers' own choice: a pinned processor type would slow them down.
    command.env_remove("OPENBLAS_CORETYPE").env_remove("OPENBLAS_L2_SIZE");
    command
}

/// Makes the Python that `--install-peers` asks for.
fn install(folder: &Path) -> Outcome<PathBuf> {
    let python = folder.join("bin/python");
    if !folder.join("installed").exists() {
        eprintln!("installing the peers in {}", folder.display());
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement", REQUIREMENTS]))?;
        std::fs::write(folder.join("installed"), "")?;
    }
    Ok(python)
}

/// Builds the crate of the Rust peers. Only there the compiler may use all that this processor has: loops that a peer
/// leaves to the compiler should not be slower than they need to be.
fn build() -> Outcome<PathBuf> {
    eprintln!("building the Rust peers (the first time takes minutes)");
    let target = Path::new(CRATE).join("target");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(Path::new(CRATE).join("Cargo.toml"));
    succeed(cargo.arg("--target-dir").arg(&target).env("RUSTFLAGS", "-C target-cpu=native"))?;
    Ok(target.join("release/rust-peers"))
}

fn succeed(command: &mut Command) -> Outcome<()> {
    let status = command.status().map_err(|e| format!("start {command:?}: {e}"))?;
    if !status.success() {
        return Err(format!("{command:?} ended with {status}").into());
    }
    Ok(())
}
