//! Programs that a model might write: what is right passes, and what does harm does none.

use eval::{EvalError, Limits, Sandbox, Verdict};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[expect(clippy::print_stdout, reason = "a helper of tests says why they do nothing")]
/// A sandbox with walls and little time (Python may need more than a second to start on a busy machine), unless this system has none or no Python.
fn sandbox() -> Option<Sandbox> {
    let limits = Limits { seconds: 4.0, memory_bytes: 512 << 20, ..Limits::default() };
    match Sandbox::new(eval::again(crate::support::SLM.as_ref(), "sandbox"), limits, false) {
        Ok(sandbox) => Some(sandbox),
        Err(error @ (EvalError::NoSandbox { .. } | EvalError::NoPython)) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn run(sandbox: &Sandbox, program: &str) -> Verdict {
    sandbox.run(program).expect("the sandbox works")
}

/// The reason for which a program fails.
fn failure(sandbox: &Sandbox, program: &str) -> String {
    match run(sandbox, program) {
        Verdict::Failed(reason) => reason,
        other => panic!("{program}\n{other}"),
    }
}

#[test]
fn right_programs_pass_and_wrong_ones_fail_with_their_reason() {
    let Some(sandbox) = sandbox() else { return };
    let add =
        "import math, collections, re, heapq, itertools\ndef add(a, b):\n    return a OP b\n\nassert add(2, 3) == 5";
    assert_eq!(run(&sandbox, &add.replace("OP", "+")), Verdict::Passed);
    assert!(failure(&sandbox, &add.replace("OP", "*")).starts_with("AssertionError"));
    assert!(failure(&sandbox, "   return 1").starts_with("IndentationError"));
    assert!(failure(&sandbox, "import sys\nsys.exit(0)").starts_with("SystemExit"));
    assert!(failure(&sandbox, "import os\nos._exit(0)").contains("it ended its process"));
    assert!(failure(&sandbox, "input()").starts_with("OSError"));
    assert_eq!(
        run(&sandbox, "open('note', 'w').write('x' * 1000)\nassert len(open('note').read()) == 1000"),
        Verdict::Passed
    );
    assert_eq!(
        run(&sandbox, "import threading\nt = threading.Thread(target=print)\nt.start(); t.join()"),
        Verdict::Passed
    );
    let forged = "import os\nos.write(1, b'passed')\nos._exit(0)";
    assert!(failure(&sandbox, forged).contains("it ended its process"), "a verdict needs the word");
    let programs = [add.replace("OP", "+"), "assert False".into(), add.replace("OP", "-")];
    let verdicts = sandbox.judge(&programs, &|_| true).expect("the sandbox works");
    let passed: Vec<bool> = verdicts.iter().map(|verdict| *verdict == Verdict::Passed).collect();
    assert_eq!(passed, [true, false, false]);
}

/// The solutions that come with the sets, if those are beside the repository.
#[test]
fn the_sets_own_solutions_pass() {
    let Some(sandbox) = sandbox() else { return };
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/eval/humaneval/test.jsonl.gz");
    let Ok(file) = std::fs::File::open(path) else {
        println!("skipped: no `shared/data/eval` beside the repository");
        return;
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).expect("a gzip file");
    for line in text.lines().step_by(16) {
        let document: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let field = |name: &str| document[name].as_str().expect("a text").to_owned();
        let solution = field("prompt") + &field("canonical_solution");
        let test = format!("{}\ncheck({})", field("test"), field("entry_point"));
        assert_eq!(run(&sandbox, &format!("{solution}\n{test}")), Verdict::Passed, "{}", document["task_id"]);
        assert_ne!(run(&sandbox, &format!("{}    pass\n{test}", field("prompt"))), Verdict::Passed);
    }
}

#[test]
fn programs_reach_no_network_no_home_and_no_other_process() {
    let Some(sandbox) = sandbox() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    listener.set_nonblocking(true).expect("a socket");
    let connect = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 0.5)");
    assert!(failure(&sandbox, &connect).starts_with("PermissionError"));
    assert!(listener.accept().is_err(), "a program got through to the network");

    let home = tempfile::tempdir().expect("a folder");
    let secret = home.path().join("secret");
    std::fs::write(&secret, "42").expect("a file");
    for path in [
        secret.to_str(),
        home.path().to_str(),
        std::env::home_dir().as_deref().and_then(|home| home.to_str()),
        Some("/etc/passwd"),
    ] {
        let path = path.expect("a path in UTF-8");
        let read = format!("import os\nos.listdir({path:?}) if os.path.isdir({path:?}) else open({path:?}).read()");
        let reason = failure(&sandbox, &read);
        assert!(reason.starts_with("PermissionError") || reason.starts_with("FileNotFoundError"), "{path}: {reason}");
    }
    assert!(failure(&sandbox, &format!("open({:?}, 'w').write('x')", home.path().join("new"))).contains("Error"));
    assert!(!home.path().join("new").exists());

    let mut other = Command::new("sleep").arg("30").stdin(Stdio::null()).spawn().expect("sleep");
    let kill = format!(
        "import os\nfor pid in [{0}, -{0}, -1, 0, os.getppid()]:\n    try:\n        os.kill(pid, 9)\n    except OSError: pass\n",
        other.id()
    );
    run(&sandbox, &kill);
    let lives = other.try_wait().expect("a child").is_none();
    other.kill().expect("it can be killed");
    other.wait().expect("a child");
    assert!(lives, "a program killed another process");
    let look = format!(
        "import os\nassert not os.path.exists('/proc/{0}/cmdline') or open('/proc/{0}/cmdline')",
        std::process::id()
    );
    let seen = run(&sandbox, &look);
    assert!(
        seen == Verdict::Passed || matches!(&seen, Verdict::Failed(reason) if reason.starts_with("PermissionError")),
        "{seen}"
    );
}

#[test]
fn programs_end_in_time_and_within_their_memory() {
    let Some(sandbox) = sandbox() else { return };
    assert!(failure(&sandbox, "x = bytearray(4 << 30)").starts_with("MemoryError"));
    assert!(failure(&sandbox, "x = []\nwhile True: x.append(bytearray(1 << 20))").starts_with("MemoryError"));
    assert_eq!(run(&sandbox, "while True: pass"), Verdict::TimedOut);
    assert!(failure(&sandbox, "open('big', 'wb').write(bytes(64 << 20))").contains("OSError"));
    let fork = "import os\nwhile True:\n    os.fork()";
    let started = Instant::now();
    assert!(failure(&sandbox, fork).starts_with("PermissionError"));
    assert!(failure(&sandbox, "import subprocess\nsubprocess.run(['/bin/true'])").starts_with("PermissionError"));
    assert!(started.elapsed() < Duration::from_secs(20));
    // One that ignores its alarm is killed from outside.
    let deaf = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass";
    assert_ne!(run(&sandbox, deaf), Verdict::Passed);
}

#[test]
fn a_system_without_walls_is_refused_by_name_of_the_flag() {
    // A command that builds nothing: what a kernel without walls would leave.
    let none = |allowed| Sandbox::new(vec!["/bin/echo".into()], Limits::default(), allowed);
    let error = none(false).expect_err("echo is no sandbox").to_string();
    assert!(error.contains("--allow-unsafe-execution") || error.contains("python3"), "{error}");
    assert!(!error.contains('\n'));
}
