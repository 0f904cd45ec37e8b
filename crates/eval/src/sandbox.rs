//! Programs that a model wrote, run where they can do no harm.
//!
//! Each runs in its own Python behind walls that the program builds around itself ([`enter`]): Landlock (no file may be
//! read but those of Python, none written but in an empty folder), seccomp (no socket, no further process, no signal to
//! another process), where the kernel allows it also namespaces (no network at all, no other process in sight), and
//! limits of time, memory and file size. What is killed is the whole group. A program is right if it runs to its end
//! without an exception within the time, as in Hugging Face's `code_eval`, which the harness uses.

mod enter;

use crate::EvalError;
use formats::file::FileError;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub use enter::enter;

/// Runs a program that it reads, and says how it went: the first line is a word that must stand before the verdict, the
/// second the seconds that the program has.
const DRIVER: &str = r#"
import io, signal, sys
def run():
    word, seconds, program = sys.stdin.buffer.read().decode("utf-8", "surrogatepass").split("\n", 2)
    out = sys.stdout
    class Silent(io.StringIO):
        def read(self, *_): raise OSError
        readline = readlines = read
        def readable(self): return False
    class Late(Exception): pass
    def late(*_): raise Late
    sys.stdin, sys.stdout, sys.stderr = Silent(), Silent(), Silent()
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, float(seconds))
    try:
        exec(program, {})
        verdict = "passed"
    except Late:
        verdict = "timed out"
    except BaseException as error:
        verdict = "failed: " + type(error).__name__ + ": " + " ".join(str(error).split())[:200]
    signal.setitimer(signal.ITIMER_REAL, 0)
    out.write(word + verdict)
    out.flush()
run()
"#;

/// Asks Python which files it needs.
const PATHS: &str = r#"
import os, sys, sysconfig
python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
paths = sysconfig.get_paths()
needs = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")] + [sysconfig.get_config_var("LIBDIR")]
print("\n".join([python] + sorted({os.path.realpath(path) for path in needs if path})))
"#;

/// What Python needs of the system: shared libraries and where the loader finds them.
const SYSTEM_FILES: [&str; 8] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
    "/dev/urandom",
];

/// Time beyond a program's own until it is killed from outside, for one that ignores its alarm: Python must start, too.
const GRACE: Duration = Duration::from_secs(5);

/// Programs at a time, as the harness has it.
const MOST_WORKERS: usize = 4;

/// What a program may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Time, in seconds.
    pub seconds: f64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// The largest file, in bytes.
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seconds: 3.0, memory_bytes: 2 << 30, file_bytes: 16 << 20 }
    }
}

/// How a program went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// It did not, for this reason.
    Failed(String),
    /// It ran out of time.
    TimedOut,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            Self::TimedOut => f.write_str("timed out"),
        }
    }
}

/// What the program that starts again is to build around itself; it passes as one argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Confinement {
    /// Whether there are walls, or limits only.
    walls: bool,
    /// Whether namespaces are entered already.
    inside: bool,
    /// Whether they could be.
    namespaces: bool,
    python: PathBuf,
    readable: Vec<PathBuf>,
    /// The folder that may be written to.
    scratch: PathBuf,
    limits: Limits,
    /// Stands before what goes wrong before Python runs. No program learns it.
    word: String,
}

/// A way to run programs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// What starts this program as one that calls [`enter`].
    again: Vec<OsString>,
    python: PathBuf,
    readable: Vec<PathBuf>,
    walls: bool,
    limits: Limits,
}

impl Sandbox {
    /// `again` is a command that, given one more argument, calls [`enter`] with it; `without_walls` runs programs even
    /// where the kernel offers none.
    ///
    /// # Errors
    /// No Python 3; no walls.
    pub fn new(again: Vec<OsString>, limits: Limits, without_walls: bool) -> Result<Self, EvalError> {
        let output = Command::new("python3").args(["-I", "-c", PATHS]).stdin(Stdio::null()).output();
        let output = output.ok().filter(|output| output.status.success()).ok_or(EvalError::NoPython)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines = text.lines().map(PathBuf::from);
        let python = lines.next().ok_or(EvalError::NoPython)?;
        let readable = lines.chain([python.clone()]).chain(SYSTEM_FILES.map(PathBuf::from)).collect();
        let mut sandbox = Self { again, python, readable, walls: true, limits };
        match sandbox.run("pass") {
            Ok(Verdict::Passed) => return Ok(sandbox),
            Err(EvalError::NoSandbox { .. }) | Ok(_) if without_walls => {}
            Ok(verdict) => return Err(EvalError::NoSandbox { reason: format!("an empty program {verdict}") }),
            Err(error) => return Err(error),
        }
        sandbox.walls = false;
        Ok(sandbox)
    }

    /// Whether there are walls: where there are none, programs can do what the user can.
    pub fn has_walls(&self) -> bool {
        self.walls
    }

    /// Runs a program.
    ///
    /// # Errors
    /// The disk; a kernel that refuses the walls.
    pub fn run(&self, program: &str) -> Result<Verdict, EvalError> {
        let io = |what: &'static str| move |cause| FileError::io(what, &std::env::temp_dir(), cause);
        let scratch = tempfile::Builder::new().prefix("slm-program-").tempdir().map_err(io("make a folder in"))?;
        let seconds = self.limits.seconds;
        // The folder's name is random. A word that the program cannot know tells the driver's verdict from its output.
        let random = blake3::hash(scratch.path().as_os_str().as_encoded_bytes()).to_hex();
        let (inner, outer) = random.split_at(32);
        let confinement = Confinement {
            walls: self.walls,
            inside: false,
            namespaces: false,
            python: self.python.clone(),
            readable: self.readable.clone(),
            scratch: scratch.path().to_owned(),
            limits: self.limits,
            word: outer.to_owned(),
        };
        let mut input = tempfile::tempfile().map_err(io("make a file in"))?;
        let text = format!("{inner}\n{seconds}\n{program}");
        input.write_all(text.as_bytes()).and_then(|()| input.rewind()).map_err(io("write a program to"))?;
        let output = tempfile::tempfile().map_err(io("make a file in"))?;
        let mut command = Command::new(&self.again[0]);
        command.args(&self.again[1..]).arg(serde_json::to_string(&confinement).unwrap_or_default());
        command.stdin(input).stdout(output.try_clone().map_err(io("make a file in"))?).stderr(Stdio::null());
        command.env_clear().process_group(0).current_dir("/");
        let refused = |reason: String| EvalError::NoSandbox { reason };
        let mut child =
            command.spawn().map_err(|error| refused(format!("this program cannot start itself: {error}")))?;
        let ended = wait(&mut child, Duration::from_secs_f64(seconds) + GRACE);
        let said = read_back(output).map_err(io("read what a program wrote to"))?;
        if let Some(reason) = said.strip_prefix(outer) {
            return Err(refused(reason.to_owned()));
        }
        Ok(match (said.strip_prefix(inner), ended) {
            (Some("passed"), _) => Verdict::Passed,
            (Some("timed out"), _) | (None, None) => Verdict::TimedOut,
            (Some(reason), _) => Verdict::Failed(reason.trim_start_matches("failed: ").to_owned()),
            (None, Some(status)) => Verdict::Failed(format!("it ended its process ({status})")),
        })
    }

    /// Runs programs, several at a time; the answer is in their order. `progress` is told how many are done, and stops
    /// with `false`.
    ///
    /// # Errors
    /// As [`Sandbox::run`]; [`EvalError::Stopped`].
    pub fn judge(
        &self,
        programs: &[String],
        progress: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vec<Verdict>, EvalError> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let verdicts = Mutex::new(vec![None; programs.len()]);
        let work = || -> Result<(), EvalError> {
            while let Some((index, program)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                programs.get(index).map(|program| (index, program))
            } {
                if !progress(done.load(Ordering::Relaxed)) {
                    return Err(EvalError::Stopped { done: done.load(Ordering::Relaxed), total: programs.len() });
                }
                let verdict = self.run(program)?;
                if let Ok(mut verdicts) = verdicts.lock() {
                    verdicts[index] = Some(verdict);
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
        })?;
        let verdicts = verdicts.into_inner().unwrap_or_default();
        let lost = || Verdict::Failed("a thread failed".into());
        Ok(verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(lost)).collect())
    }
}

/// Waits for a child; after `most`, kills it with all that it has started. `None` if it was killed.
fn wait(child: &mut Child, most: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    let mut ended = None;
    while ended.is_none() && started.elapsed() < most {
        ended = child.try_wait().ok().flatten();
        std::thread::sleep(Duration::from_millis(if ended.is_some() { 0 } else { 2 }));
    }
    enter::kill_group(child);
    if ended.is_none() {
        child.wait().ok();
    }
    ended
}

fn read_back(mut output: File) -> std::io::Result<String> {
    output.rewind()?;
    let mut bytes = Vec::new();
    output.take(4096).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A command that starts this program again as a sandbox.
pub fn again(own: &Path, subcommand: &str) -> Vec<OsString> {
    vec![own.into(), subcommand.into()]
}
